"""The options of the observers. They are apart, so that listing plugins imports no observer."""

from typing import Annotated, Literal, cast

from pydantic import BeforeValidator, ValidationInfo, field_validator

from srptq_plugin.utils.field_types import Allowed, Count, Flag, Share, is_real, whole
from srptq_plugin.utils.options import Options


def _is_percentage(value: object) -> bool:
    return is_real(value) and cast("float", value) < 50  # noqa: PLR2004 - cutting half off each end leaves nothing


def _is_ratio(value: object) -> bool:
    return value in ("paper", "auto") or (is_real(value) and cast("float", value) < 1)


Ratio = Annotated[
    float | Literal["paper", "auto"],
    BeforeValidator(Allowed("a number of 0 or more and less than 1, 'paper' or 'auto'", _is_ratio)),
]
Percentage = Annotated[float, BeforeValidator(Allowed("a percentage from 0 to less than 50", _is_percentage))]
Bins = Annotated[int, whole(2, 1_000_000)]


class DbdcOptions(Options):
    """The options of DBDC."""

    ratio: Ratio = "auto"
    """The share of values to clip. `paper` is the paper's for 4, 6 and 8 bits, `auto` the ratio of least error."""
    bins: Count = 2048
    """Bins of the histogram."""
    average: Literal["mean", "ema"] = "mean"
    """How bounds are averaged over batches. `ema` is a moving average."""
    momentum: Share = 0.9
    """The factor of the moving average."""
    start: Literal["clipped", "extremes"] = "clipped"
    """A moving average starts from the clipped bounds of the first batch, or from its extremes as in Algorithm 1."""
    overshoot: Flag = False
    """`true` also drops the bin that crosses the ratio, as Algorithm 1 does."""

    @field_validator("start")
    @classmethod
    def _starts_an_average(cls, start: str, info: ValidationInfo) -> str:
        if start == "extremes" and info.data.get("average") == "mean":
            raise ValueError("'clipped', or set average to ema, which can start from extremes")
        return start


class PercentileOptions(Options):
    """The options of the percentile observer."""

    percentile: Percentage = 0.1
    """The percentage of values to cut off at each end."""


class SearchOptions(Options):
    """The options of the observers that search for the best shrunken range."""

    steps: Count = 100
    """Factors to try, evenly spaced up to 1."""
    bins: Bins | None = None
    """Bins of the histogram. `null` means 4096, or 1024 for each channel."""
