"""RLFN (Kong et al., NTIRE 2022) with the keys of bytedance/RLFN and of the challenge."""

from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.checkpoint import Renames, load_into, rename_keys
from srptq_plugin.models.distillation import SLOPE, BlockNetwork, read_sizes
from srptq_plugin.models.model_options import SizeOptions, settle
from srptq_plugin.models.model_record import LEVELS, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3
from srptq_plugin.models.spatial_attention import SpatialAttention

NEEDED = frozenset({"fea_conv.weight", "B1.c1_r.weight", "B1.c5.weight", "B1.esa.conv3.weight", "upsampler.0.weight"})
FOREIGN = frozenset({"B1.c1_d.weight", "c.0.weight"})
"""Keys of RFDN and its relatives, whose other keys are the same."""
RENAMES: Renames = (
    (r"conv_1\.(.*)", r"fea_conv.\1"),
    (r"block_(\d+)\.(.*)", r"B\1.\2"),
    (r"conv_2\.(.*)", r"LR_conv.\1"),
)
"""The keys of bytedance/RLFN to the challenge's."""


class ResidualLocalFeatureBlock(nn.Module):
    """A residual block of three convolutions, a fusion and spatial attention."""

    def __init__(self, features: int, inner: int, hidden: int) -> None:
        super().__init__()
        self.c1_r = conv3x3(features, inner)
        self.c2_r = conv3x3(inner, inner)
        self.c3_r = conv3x3(inner, features)
        self.c5 = nn.Conv2d(features, features, 1)
        self.esa = SpatialAttention(features, hidden)
        self.act = nn.LeakyReLU(SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        refined = x
        for conv in (self.c1_r, self.c2_r, self.c3_r):
            refined = self.act(conv(refined))
        return self.esa(self.c5(refined + x))


class RLFN(BlockNetwork):
    """A chain of residual local feature blocks.

    >>> import torch
    >>> RLFN(upscale=2, features=8, blocks=2, inner=6, hidden=4)(torch.zeros(1, 3, 24, 24)).shape
    torch.Size([1, 3, 48, 48])
    """

    def __init__(
        self, upscale: int = 4, features: int = 46, blocks: int = 4, inner: int = 48, hidden: int = 16
    ) -> None:
        names = (f"B{number}" for number in range(1, blocks + 1))
        own = {name: ResidualLocalFeatureBlock(features, inner, hidden) for name in names}
        super().__init__(own, features, upscale)


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    keys = rename_keys(state, RENAMES).keys()
    return keys >= NEEDED and not keys & FOREIGN


def build(request: Request[SizeOptions]) -> SRNetwork:
    """Build an RLFN with the size of its weights, by default for images of 0 to 255."""
    if request.state is None:
        raise SrptqError("rlfn: no weights; give a checkpoint of bytedance/RLFN")
    if not recognizes(request.state):
        raise SrptqError("rlfn: the weights have other blocks; give a checkpoint of bytedance/RLFN")
    state = rename_keys(request.state, RENAMES)
    sizes = read_sizes(state, r"B\d+\.c1_r\.weight")
    inner, hidden = (state[f"B1.{name}.weight"].shape[0] for name in ("c1_r", "esa.conv1"))
    settle("rlfn", request.options, sizes)
    module = RLFN(**sizes, inner=inner, hidden=hidden)
    load_into(module, state)
    # The published weights have this range. No key tells.
    return SRNetwork(module, request.input_range or LEVELS)


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
