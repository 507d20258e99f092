"""Running a network at small sizes to learn which images it takes and how much larger its output is."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.types import Size
from srptq_plugin.models.model_record import CHANNELS
from srptq_plugin.models.outputs import describe_outputs, find_output, flatten_output

ANY = (17, 67)
"""Sides for networks that take any. Some need a larger image."""
DIVISIBLE = (64, 48, 56, 60, 40, 36, 96, 112, 120, 72, 80)
"""Sides for networks that take multiples of some number, which divides one of these."""
PRIMES = (2, 3, 5, 7)
"""The prime factors of `DIVISIBLE`."""


@dataclass(frozen=True)
class Sizing:
    """Facts about the images of a network.

    Attributes:
        scale: The upscaling factor.
        multiple: The number that divides all sides.
        fixed: Whether the network runs at one size only.
        channels: The channels of images: 3, or 1 for Y.
        output: The place of the image among several outputs, or "" for the only one.
        outputs: All outputs and their shapes, as text.
    """

    scale: int
    multiple: int = 1
    fixed: bool = False
    channels: int = 3
    output: str = ""
    outputs: str = ""


def probe(
    name: str, module: nn.Module, level: float, size: Size | None = None, output: str | int | None = None
) -> Sizing:
    """Run a network on gray images and return the smallest multiple of sides that works.

    Args:
        name: The network's name, for errors.
        module: The network.
        level: The level of gray.
        size: The input to try last, if no multiple works. Its channels are the only ones tried.
        output: The place of the output that counts. By default the last one that is an image.
    """
    _refuse_more_inputs(name, module)
    prober = _Prober(module, level, output)
    for channels in CHANNELS if size is None else size[1:2]:
        sizing = prober.any_size(channels) or prober.multiples(channels)
        if sizing is None and size is not None:
            sizing = prober.one_size(size)
        if sizing is not None:
            return sizing
    problem = _choose_problem(module, prober.problems)
    raise SrptqError(f"model {name}: {problem}") from problem


def _refuse_more_inputs(name: str, module: nn.Module) -> None:
    parameters = list(inspect.signature(module.forward).parameters.values())
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    extra = (parameter for parameter in parameters[1:] if parameter.kind not in variable)
    needed = [parameter.name for parameter in extra if parameter.default is parameter.empty]
    if needed:
        kind, fixed = type(module).__name__, ", ".join(f"{name}=..." for name in needed)
        raise SrptqError(
            f"model {name}: forward of {kind} takes {' and '.join(needed)} besides the image; give a factory of a "
            f"subclass that fixes it: `def forward(self, x): return super().forward(x, {fixed})`"
        )


class _WrongOutputError(SrptqError):
    """The network ran, but its output is not an enlarged image."""


def _choose_problem(module: nn.Module, problems: list[tuple[int, SrptqError]]) -> SrptqError:
    """Return the problem to report, of images with the channels that the first convolution reads."""
    first = next((part.in_channels for part in module.modules() if isinstance(part, nn.Conv2d)), 3)
    own = [error for channels, error in problems if (channels == 1) == (first == 1)] or [error for _, error in problems]
    # A network that ran and gave the wrong shape says more than one that failed at some size.
    return next((error for error in own if isinstance(error, _WrongOutputError)), own[-1])


class _Prober:
    """Runs a network at one size after another, and collects the problems."""

    def __init__(self, module: nn.Module, level: float, output: str | int | None) -> None:
        self._module, self._level, self._output = module, level, output
        self.problems: list[tuple[int, SrptqError]] = []

    def any_size(self, channels: int) -> Sizing | None:
        """Return the facts about a network that takes any size, or None."""
        return self._first((1, channels, side, side + 1) for side in ANY)

    def multiples(self, channels: int) -> Sizing | None:
        """Return the facts about a network that takes multiples of some number, or None."""
        for side in DIVISIBLE:
            if sizing := self._first([(1, channels, side, 2 * side)]):
                return replace(sizing, multiple=self._smallest(channels, side))
        return None

    def one_size(self, size: Size) -> Sizing | None:
        """Return the facts about a network that takes one size only, or None."""
        sizing = self._first([size])
        return sizing and replace(sizing, fixed=True)

    def _smallest(self, channels: int, side: int) -> int:
        """Return the smallest number of whose multiples the network takes all. It takes multiples of `side`."""
        multiple = side
        for prime in PRIMES:
            while multiple % prime == 0:
                smaller = multiple // prime
                # A multiple of the smaller number and not of the larger one, and no smaller than what worked.
                height = side + smaller
                if not self._first([(1, channels, height, height + smaller)]):
                    break
                multiple = smaller
        return multiple

    def _first(self, sizes: Iterable[Size]) -> Sizing | None:
        for size in sizes:
            try:
                return _run_at(self._module, self._level, size, self._output)
            except SrptqError as error:
                self.problems.append((size[1], error))
        return None


def _run_at(module: nn.Module, level: float, size: Size, output: str | int | None) -> Sizing:
    outputs = flatten_output(_run(module, level, size))
    candidates = outputs if output is None else _found(outputs, output)
    for place, tensor in reversed(candidates.items()):
        if scale := _scale(size, tensor):
            several = describe_outputs(outputs) if list(outputs) != [""] else ""
            return Sizing(scale, channels=size[1], output=place, outputs=several)
    raise _WrongOutputError(
        f"input {list(size)} gave {describe_outputs(candidates) or 'no tensor'}; an output must be one image of "
        "as many channels, a whole number of times as high and as wide"
    )


def _found(outputs: dict[str, Tensor], output: str | int) -> dict[str, Tensor]:
    try:
        return find_output(outputs, output)
    except SrptqError as error:
        raise _WrongOutputError(str(error)) from error


def _scale(size: Size, output: Tensor) -> int:
    """Return how many times as large as the input an image is, or 0 if the output is no such image."""
    shape = list(output.shape)
    scale = shape[-1] // size[-1] if shape else 0
    return scale if shape == [1, size[1], *(scale * side for side in size[2:])] else 0


def _run(module: nn.Module, level: float, size: Size) -> object:
    try:
        with torch.no_grad():
            return module(torch.full(size, level))
    except SrptqError:
        raise
    except Exception as error:
        raise SrptqError(
            f"running it on an input of {list(size)} failed ({type(error).__name__}: {first_line(error)}); it must "
            f"accept one image of 3 channels (RGB) or 1 (Y), of any size or with sides that are multiples of a number "
            "such as 2, 7, 12 or 64, or be quantized for one input size"
        ) from error
