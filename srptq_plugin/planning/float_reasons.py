"""The reasons why layers and operations stay float."""

from torch import fx

from srptq_plugin.graph.network import TRANSPOSED, Network, is_pooled
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.recipe_choices import RecipeChoices
from srptq_plugin.recipes.recipe import Recipe

LONG_SKIP = "the long skip: the target adds the head's output as floats, which is finer and no slower"
UNREAD = "no integer kernel reads its result, which integers would only make coarser"


class FloatReasons:
    """The reasons why layers and operations of one network stay float, on one target and by one recipe."""

    def __init__(self, network: Network, rules: Rules, recipe: Recipe, choices: RecipeChoices) -> None:
        self.network, self.rules, self.recipe, self.choices = network, rules, recipe, choices
        self.full = rules.placement(recipe.placement) == "full"
        self.everywhere = self.full and rules.every_tensor

    def layer(self, conv: fx.Node) -> str:
        """Return why a convolution stays float, or "" if it runs in integers."""
        if is_pooled(conv) and not self.everywhere:
            return "works on pooled 1 x 1 maps: too little arithmetic to gain from integers"
        if self.network.parameter(conv, 1) is None:
            return "its weight is computed, not a parameter"
        if not self.choices.quantizes(conv):
            return "the recipe leaves it float"
        return self._transposed(conv) if self.network.ops[conv] == TRANSPOSED else ""

    def operation(self, op: str) -> str:
        """Return why an operation that has no integer kernel here stays float."""
        if op == "conv":
            return "shifts the mean of an image: too little arithmetic to gain from integers"
        if op in self.rules.inputs:
            return "on pooled maps, after the last convolution or by recipe" if self.full else "placement convs"
        return "no integer kernel on this target"

    def _transposed(self, conv: fx.Node) -> str:
        stride, largest = self.network.stride(conv), self.rules.transposed_stride
        if largest is not None and stride > largest:
            return f"its stride is {stride}, the target has integer kernels up to stride {largest}"
        if self.network.groups(conv) > 1 and not self.everywhere:
            return "transposed convolutions in groups have no integer kernel"
        if self.rules.pair_sum_bits is not None and not self.recipe.weights.per_channel:
            return "a transposed convolution needs `weights.per_channel: true` here"
        shared = {parameter[0] for other in self.network.convs if (parameter := self.network.parameter(other, 1))}
        own = self.network.parameter(conv, 1)
        return "a convolution reads its weight as well, along another axis" if own and own[0] in shared else ""
