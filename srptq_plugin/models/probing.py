"""Running a network at small sizes to learn which images it takes and how much larger its output is."""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError, first_line
from srptq_plugin.graph.types import Size
from srptq_plugin.models.model_record import CHANNELS
from srptq_plugin.models.outputs import describe_outputs, find_output, flatten_output

MULTIPLES = (*range(1, 11), 12, 14, 16, 18, 20, 24, 28, 32, 36, 40, 48, 56, 64)
PRIMES = 2 * 3 * 5 * 7
"""The product of all prime factors of `MULTIPLES`."""
LEAST = (16, 64)
"""The smallest sides tried for each multiple. Some networks need a larger image."""
Sides = tuple[int, int]


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
    problems: list[tuple[int, SrptqError]] = []
    for channels in CHANNELS if size is None else size[1:2]:
        for multiple, sides in _probes(None if size is None else size[2:]):
            try:
                return _run_at(module, level, (1, channels, *sides), multiple, output)
            except SrptqError as error:
                problems.append((channels, error))
    problem = _choose_problem(module, problems)
    raise SrptqError(f"model {name}: {problem}") from problem


def _refuse_more_inputs(name: str, module: nn.Module) -> None:
    parameters = list(inspect.signature(module.forward).parameters.values())
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [each.name for each in parameters[1:] if each.default is each.empty and each.kind not in variable]
    if needed:
        kind = type(module).__name__
        raise SrptqError(
            f"model {name}: forward of {kind} takes {' and '.join(needed)} besides the image; give a factory of a "
            f"subclass that fixes it: `def forward(self, x): return super().forward(x, {needed[0]}=...)`"
        )


def _probes(size: Sides | None) -> Iterator[tuple[int | None, Sides]]:
    """Yield each multiple with sides that no other multiple divides, except its own divisors. Yield the size last."""
    for multiple in MULTIPLES:
        for height in sorted({multiple * _coprime(-(-least // multiple)) for least in LEAST}):
            yield multiple, (height, height + multiple)
    if size is not None:
        yield None, size


def _coprime(least: int) -> int:
    """Return the first number from `least` on that shares no prime factor with any multiple."""
    return next(number for number in range(least, least + PRIMES) if gcd(number, PRIMES) == 1)


class _WrongOutputError(SrptqError):
    """The network ran, but its output is not an enlarged image."""


def _choose_problem(module: nn.Module, problems: list[tuple[int, SrptqError]]) -> SrptqError:
    """Return the problem to report, of images with the channels that the first convolution reads."""
    first = next((part.in_channels for part in module.modules() if isinstance(part, nn.Conv2d)), 3)
    own = [error for channels, error in problems if (channels == 1) == (first == 1)] or [error for _, error in problems]
    # A network that ran and gave the wrong shape says more than one that failed at some size.
    return next((error for error in own if isinstance(error, _WrongOutputError)), own[-1])


def _run_at(module: nn.Module, level: float, size: Size, multiple: int | None, output: str | int | None) -> Sizing:
    outputs = flatten_output(_output(module, level, size))
    candidates = outputs if output is None else _found(outputs, output)
    for place, tensor in reversed(candidates.items()):
        if scale := _scale(size, tensor):
            several = describe_outputs(outputs) if list(outputs) != [""] else ""
            return Sizing(scale, multiple or 1, multiple is None, size[1], place, several)
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


def _output(module: nn.Module, level: float, size: Size) -> object:
    try:
        with torch.no_grad():
            return module(torch.full(size, level))
    except Exception as error:
        raise SrptqError(
            f"running it on an input of {list(size)} failed ({type(error).__name__}: {first_line(error)}); it must "
            f"accept one image of 3 channels (RGB) or 1 (Y) whose sides are multiples of a number up to "
            f"{MULTIPLES[-1]} with no prime factor above 7, or be quantized for one input size"
        ) from error
