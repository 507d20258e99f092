"""Where the bits go: what each part of a network costs the image, and where more bits would help."""

from typing import Literal, get_args

Kind = Literal["stage", "block", "site"]
"""A kind of parts that can be quantized alone."""
KINDS: tuple[Kind, ...] = get_args(Kind)
ANALYSIS, BUDGET = "analysis.json", "budget.json"
"""The files in a run folder."""
