"""A recipe's choices for one network: which operations are quantized, and with how many bits."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Literal

from torch import fx

from srptq_plugin.graph.network import Network
from srptq_plugin.graph.stages import Stage, Stages
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.schema import Override

Kind = Literal["weights", "activations"]


class RecipeChoices:
    """Answers for operations of a network from a recipe's defaults, stages, skips and overrides, the last one first."""

    def __init__(self, network: Network, stages: Stages, recipe: Recipe) -> None:
        self.network, self.stages, self.recipe = network, stages, recipe

    def quantizes(self, node: fx.Node) -> bool:
        """Tell whether the recipe quantizes an operation."""
        choice = self.recipe.stages[self.stages.of(node)].quantize
        choice = choice and (self.recipe.skips.quantize or self.network.ops[node] != "add")
        for override in self._overrides(self._names(node)):
            choice = choice if override.quantize is None else override.quantize
        return choice

    def bits(self, kind: Kind, stage: Stage, reader: fx.Node, tensor: str, *, skip: bool = False) -> int:
        """Return the bits of a tensor for one reader. `skip` says that an add reads or makes it."""
        bits: int = getattr(self.recipe.stages[stage], kind) or getattr(self.recipe, kind).bits
        if skip:
            bits = self.recipe.skips.bits or bits
        for override in self._overrides([*self._names(reader), tensor], tensor):
            bits = getattr(override, kind) or override.bits or bits
        return bits

    def _names(self, node: fx.Node) -> list[str]:
        key = self.network.keys[node]
        return [key.path, str(key)]

    def _overrides(self, names: Sequence[str], tensor: str = "") -> Iterator[Override]:
        """Yield the overrides that name a reader (`sites`) or the tensor that it reads (`tensors`)."""
        for override in self.recipe.overrides:
            by_reader = override.sites is not None and any(fnmatchcase(name, override.sites) for name in names)
            if by_reader or (override.tensors is not None and fnmatchcase(tensor, override.tensors)):
                yield override
