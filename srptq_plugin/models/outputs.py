"""The output that counts, of networks that give several."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from torch import Tensor, nn

from srptq_plugin.errors import SrptqError


def flatten_output(output: object) -> dict[str, Tensor]:
    """Return the tensors of a network's output by their place in it. A single tensor has the place "".

    >>> list(flatten_output((Tensor(1), {"image": Tensor(1)}))), list(flatten_output(Tensor(1)))
    (['0', '1.image'], [''])
    """
    return dict(_leaves(output, ()))


def keep_output(module: nn.Module, name: str) -> None:
    """Let a module return one of its outputs alone, in place.

    Args:
        module: A network that returns a tuple, list or dict.
        name: The place of the output, as `flatten_output` names it.
    """
    base: Any = type(module)

    def forward(self: nn.Module, image: Tensor) -> Tensor:
        return flatten_output(base.forward(self, image))[name]

    # A class, not an attribute of the module: a copy would have the attribute too, and run the original.
    module.__class__ = type(base.__name__, (base,), {"forward": forward})


def describe_outputs(outputs: Mapping[str, Tensor]) -> str:
    """Return the places and shapes of outputs as text.

    >>> describe_outputs({"0": Tensor(1, 3), "1": Tensor(2, 6)})
    '0: [1, 3], 1: [2, 6]'
    """
    return ", ".join(
        f"{name}: {list(tensor.shape)}" if name else str(list(tensor.shape)) for name, tensor in outputs.items()
    )


def find_output(outputs: Mapping[str, Tensor], name: str | int) -> dict[str, Tensor]:
    """Return the one output of this place, under its name. Raise SrptqError if there is none."""
    if str(name) not in outputs:
        raise SrptqError(f"`output={name}` is none of its outputs ({describe_outputs(outputs)}); give one of them")
    return {str(name): outputs[str(name)]}


def _leaves(output: object, path: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield ".".join(path), output
    elif isinstance(output, Mapping):
        for key, value in cast("Mapping[object, object]", output).items():
            yield from _leaves(value, (*path, str(key)))
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for n, value in enumerate(cast("Sequence[object]", output)):
            yield from _leaves(value, (*path, str(n)))
