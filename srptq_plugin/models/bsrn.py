"""BSRN (Li et al., NTIRE 2022) with the keys of xiaom233/BSRN, and BSRN-S, its smaller network of the challenge."""

import math

from torch import Tensor, nn

from srptq_plugin.models.checkpoint import Renames, count_keys, load_into, rename_keys, require_keys
from srptq_plugin.models.distillation import COLORS, DistillationNetwork, FeatureDistillationBlock
from srptq_plugin.models.imdn import ContrastAttention
from srptq_plugin.models.model_options import SizeOptions, settle
from srptq_plugin.models.model_record import UNIT, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import Conv
from srptq_plugin.models.spatial_attention import DeepSpatialAttention

COPIES = 4
"""How many times the first layer reads the image."""
MATRIX_AXES = 2
NEEDED = frozenset({"fea_conv.pw.weight", "B1.c1_d.weight", "B1.c1_r.pw.weight", "B1.esa.conv1.weight", "c.0.weight"})
RENAMES: Renames = (
    (r"c1\.(.*)", r"c.0.\1"),
    (r"c2\.(.*)", r"LR_conv.\1"),
    (r"upsampler\.upsampleOneStep\.(.*)", r"upsampler.\1"),
)
"""The keys of xiaom233/BSRN to the keys that IMDN and RFDN have."""


class BlueprintConvolution(nn.Module):
    """A 1 x 1 convolution, and a 3 x 3 convolution of each channel. A strided one has no padding."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, stride: int = 1) -> None:
        super().__init__()
        padding = 1 if stride == 1 else 0
        self.pw = nn.Conv2d(inputs, outputs, 1, bias=bias)
        self.dw = nn.Conv2d(outputs, outputs, 3, stride, padding, groups=outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.dw(self.pw(x))


class SeparableDistillationBlock(FeatureDistillationBlock):
    """A residual distillation block. It ends in channel attention, or in BSRN-S in a 1 x 1 convolution."""

    def __init__(self, features: int, hidden: int, conv: Conv, *, small: bool) -> None:
        reduction = None if small else BlueprintConvolution(hidden, hidden, bias=False, stride=2)
        attention = DeepSpatialAttention(features, hidden, conv, reduction, nn.GELU())
        super().__init__(features, features // 2, attention, conv, nn.GELU())
        self.cca = None if small else ContrastAttention(features)
        self.conv_out = nn.Conv2d(features, features, 1) if small else None

    def forward(self, x: Tensor) -> Tensor:
        fused = super().forward(x)
        if self.cca is not None:
            fused = self.cca(fused)
        return x + (fused if self.conv_out is None else self.conv_out(fused))


class BSRN(DistillationNetwork):
    """A network of residual distillation blocks of blueprint convolutions.

    >>> import torch
    >>> BSRN(upscale=2, features=16, blocks=1, hidden=4)(torch.zeros(1, 3, 24, 24)).shape
    torch.Size([1, 3, 48, 48])
    """

    def __init__(
        self, upscale: int = 4, features: int = 64, blocks: int = 8, hidden: int = 16, *, small: bool = False
    ) -> None:
        def conv(inputs: int, outputs: int) -> nn.Module:
            return BlueprintConvolution(inputs, outputs, bias=small)

        names = (f"B{number}" for number in range(1, blocks + 1))
        own = {name: SeparableDistillationBlock(features, hidden, conv, small=small) for name in names}
        super().__init__(own, features, upscale, conv, nn.GELU())


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    return rename_keys(state, RENAMES).keys() >= NEEDED


def build(request: Request[SizeOptions]) -> SRNetwork:
    """Build a BSRN or BSRN-S with the size of its weights, by default for images of 0 to 1."""
    renamed = request.state and rename_keys(request.state, RENAMES)
    state = _simplify(require_keys(renamed, NEEDED, "bsrn", "xiaom233/BSRN"))
    sizes = {
        "upscale": math.isqrt(state["upsampler.0.weight"].shape[0] // COLORS),
        "features": state["fea_conv.pw.weight"].shape[0],
        "blocks": count_keys(state, r"B\d+\.c1_d\.weight"),
    }
    settle("bsrn", request.options, sizes)
    hidden = state["B1.esa.conv1.weight"].shape[0]
    module = BSRN(**sizes, hidden=hidden, small="B1.conv_out.weight" in state)
    load_into(module, state)
    return SRNetwork(module, request.input_range or UNIT)


def _simplify(state: State) -> State:
    """Return weights of convolutions alone, for one image instead of four copies.

    BSRN-S has linear layers, and a factor for each channel before the last layer of a block. Both are 1 x 1
    convolutions.
    """
    simple = {
        key: value[..., None, None] if value.ndim == MATRIX_AXES and key.endswith(".weight") else value
        for key, value in state.items()
        if not key.endswith(".cw")
    }
    for key in state.keys() - simple.keys():
        output = f"{key.removesuffix('.cw')}.conv_out.weight"
        simple[output] = simple[output] * state[key].reshape(1, -1, 1, 1)
    first = simple["fea_conv.pw.weight"]
    simple["fea_conv.pw.weight"] = first.reshape(first.shape[0], COPIES, COLORS, 1, 1).sum(1)
    return simple


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
