"""Arrays of images and their sizes."""

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float32]]
Reals = np.ndarray[Any, np.dtype[np.float64]]
Size = tuple[int, int, int, int]
"""Batch, channels, height, width."""
