"""RFDN (Liu et al., AIM 2020) with the keys of njulj/RFDN."""

from srptq_plugin.models.checkpoint import load_into, require_keys
from srptq_plugin.models.distillation import DistillationNetwork, FeatureDistillationBlock, read_sizes
from srptq_plugin.models.model_options import SizeOptions, settle
from srptq_plugin.models.model_record import LEVELS, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.spatial_attention import DeepSpatialAttention

NEEDED = frozenset(
    {"fea_conv.weight", "B1.c1_d.weight", "B1.c1_r.weight", "B1.esa.conv3_.weight", "c.0.weight", "upsampler.0.weight"}
)


class RFDN(DistillationNetwork):
    """A network of residual feature distillation blocks.

    >>> import torch
    >>> RFDN(upscale=2, features=8, blocks=2, kept=4, hidden=2)(torch.zeros(1, 3, 24, 24)).shape
    torch.Size([1, 3, 48, 48])
    """

    def __init__(self, upscale: int = 4, features: int = 50, blocks: int = 4, kept: int = 25, hidden: int = 12) -> None:
        names = (f"B{number}" for number in range(1, blocks + 1))
        own = {name: FeatureDistillationBlock(features, kept, DeepSpatialAttention(features, hidden)) for name in names}
        super().__init__(own, features, upscale)


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    return state.keys() >= NEEDED


def build(request: Request[SizeOptions]) -> SRNetwork:
    """Build an RFDN with the size of its weights, by default for images of 0 to 255."""
    state = require_keys(request.state, NEEDED, "rfdn", "njulj/RFDN")
    sizes = read_sizes(state, r"B\d+\.c1_d\.weight")
    settle("rfdn", request.options, sizes)
    kept, hidden = (state[f"B1.{name}.weight"].shape[0] for name in ("c1_d", "esa.conv1"))
    module = RFDN(**sizes, kept=kept, hidden=hidden)
    load_into(module, state)
    # The published weights have this range. No key tells.
    return SRNetwork(module, request.input_range or LEVELS)


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
