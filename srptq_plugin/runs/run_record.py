"""The entries of a run's summary that are read back, with checks that refuse damaged ones."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from srptq_plugin.graph.types import Size
from srptq_plugin.models.model_record import CHANNELS, ModelRecord

SCHEMA = 1
LARGEST_SCALE, LARGEST_SIDE = 64, 99_999
COLORS = 3


def read_model(model: Mapping[str, Any]) -> ModelRecord:
    """Return the record of a network from the summary's `model`.

    Errors are of any kind that Python raises for bad values, and say which value is damaged.

    >>> read_model({"name": "toy", "input_range": [0, 1], "scale": 0, "parameters": 1})
    Traceback (most recent call last):
    ValueError: scale: 0
    """
    low, high = map(float, model["input_range"])
    mean = tuple(map(float, model["mean"])) if model.get("mean") else None
    scale = _integer(model, "scale")
    parameters = _integer(model, "parameters")
    read_size(model)
    if not 1 <= scale <= LARGEST_SCALE:
        raise ValueError(f"scale: {scale}")
    # The width of the range is checked as well: two finite ends can lie an infinity apart.
    if not (low < high and isfinite(high - low)):
        raise ValueError(f"input_range: {model['input_range']}")
    if mean is not None and len(mean) != COLORS:
        raise ValueError(f"mean: {model['mean']}")
    multiple = _integer({"multiple": 1, **model}, "multiple")
    if not 1 <= multiple <= LARGEST_SIDE:
        raise ValueError(f"multiple: {multiple}")
    channels = _integer({"channels": COLORS, **model}, "channels")
    if channels not in CHANNELS:
        raise ValueError(f"channels: {channels}")
    facts = (low, high), mean, parameters, multiple, channels
    return ModelRecord(str(model["name"]), scale, *facts)  # pyright: ignore[reportArgumentType]


def read_size(model: Mapping[str, Any]) -> Size | None:
    """Return the only input that the exported file takes, or None if it takes any height and width.

    >>> read_size({"input_size": [1, 3, 270, 480]}), read_size({})
    ((1, 3, 270, 480), None)
    """
    size = model.get("input_size")
    if size is None:
        return None
    channels = model.get("channels", COLORS)
    if not isinstance(size, list) or size[:2] != [1, channels] or len(size) != 4:  # noqa: PLR2004 - axes
        raise ValueError(f"input_size: {size}")
    sides = dict(enumerate(size))
    height, width = _integer(sides, 2), _integer(sides, 3)
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        raise ValueError(f"input_size: {size}")
    return 1, channels, height, width


def read_artifacts(summary: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the target's files, or None unless all are names of files in the folder.

    >>> read_artifacts({"artifacts": ["model.xml"]}), read_artifacts({"artifacts": ["a/../.."]})
    (['model.xml'], None)
    """
    names = summary["artifacts"]
    return names if isinstance(names, list) and all(map(is_name, names)) else None


def is_name(name: object) -> bool:
    """Return True for the name of a file in a folder, and False for a path that leads elsewhere."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


def _integer(values: Mapping[Any, Any], key: str | int) -> int:
    value = values[key]
    if type(value) is not int:  # isinstance would accept True
        raise ValueError(f"{key}: {value!r}")
    return value
