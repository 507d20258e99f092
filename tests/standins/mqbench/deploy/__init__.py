from . import deploy_linear

__all__ = ["deploy_linear"]
