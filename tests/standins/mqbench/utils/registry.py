from typing import Any

DEFAULT_MODEL_QUANTIZER: dict[Any, Any] = {}
BACKEND_DEPLOY_FUNCTION: dict[Any, list[Any]] = {}
