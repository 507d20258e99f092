"""The steps of the descents that rotate and equalize channels."""

from collections.abc import Generator
from contextlib import contextmanager

import pytest

from srptq_plugin.calibration.equalization import noise
from srptq_plugin.calibration.rotation import rotate

WHOLE = {module: module.STEPS for module in (rotate, noise)}


@contextmanager
def descents(part: int) -> Generator[None]:
    """Take one part of the steps, such as a tenth."""
    with pytest.MonkeyPatch.context() as patch:
        for module, steps in WHOLE.items():
            patch.setattr(module, "STEPS", steps // part)
        yield
