"""What a run's summary has to say to be read back, each refused where it is damaged."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

from srptq_plugin.graph.types import Size
from srptq_plugin.models.model_record import ModelRecord

SCHEMA = 1
LARGEST_SCALE, LARGEST_SIDE = 64, 99_999
COLORS = 3


def record_of(found: Mapping[str, Any]) -> ModelRecord:
    """What is known of the network; any of Python's errors about values says what is damaged.

    >>> record_of({"name": "toy", "input_range": [0, 1], "scale": 0, "parameters": 1})
    Traceback (most recent call last):
    ValueError: scale: 0
    """
    low, high = map(float, found["input_range"])
    mean = tuple(map(float, found["mean"])) if found.get("mean") else None
    scale, parameters = (_whole(found, key) for key in ("scale", "parameters"))
    size_of(found)
    if not 1 <= scale <= LARGEST_SCALE:
        raise ValueError(f"scale: {scale}")
    if not (low < high and isfinite(high - low)):
        raise ValueError(f"input_range: {found['input_range']}")
    if mean is not None and len(mean) != COLORS:
        raise ValueError(f"mean: {found['mean']}")
    multiple = _whole({"multiple": 1, **found}, "multiple")
    if not 1 <= multiple <= LARGEST_SIDE:
        raise ValueError(f"multiple: {multiple}")
    known = (low, high), mean, parameters, multiple
    return ModelRecord(str(found["name"]), scale, *known)  # pyright: ignore[reportArgumentType]


def size_of(found: Mapping[str, Any]) -> Size | None:
    """The only input that the exported file takes; none when it takes any height and width.

    >>> size_of({"input_size": [1, 3, 270, 480]}), size_of({})
    ((1, 3, 270, 480), None)
    """
    size = found.get("input_size")
    if size is None:
        return None
    if not isinstance(size, list) or size[:2] != [1, COLORS] or len(size) != 4:  # noqa: PLR2004 - axes
        raise ValueError(f"input_size: {size}")
    height, width = (_whole(dict(enumerate(size)), place) for place in (2, 3))
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        raise ValueError(f"input_size: {size}")
    return 1, COLORS, height, width


def artifacts_of(summary: Mapping[str, Any]) -> list[str] | None:
    """The names of the target's files; none where they are no names of files in the folder.

    >>> artifacts_of({"artifacts": ["model.xml"]}), artifacts_of({"artifacts": ["a/../.."]})
    (['model.xml'], None)
    """
    names = summary["artifacts"]
    return names if isinstance(names, list) and all(map(is_name, names)) else None


def is_name(name: object) -> bool:
    """Whether something names a file, and no path."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", "\0"} & set(name)


def _whole(found: Mapping[Any, Any], key: str | int) -> int:
    value = found[key]
    if type(value) is not int:
        raise ValueError(f"{key}: {value!r}")
    return value
