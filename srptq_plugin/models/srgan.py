"""The generator of SRGAN (Ledig et al. 2017), with the keys of leftthomas/SRGAN."""

import torch
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.models.checkpoint import count_keys, load_into
from srptq_plugin.models.model_options import SizeOptions, settle
from srptq_plugin.models.model_record import UNIT, ModelFamily, Request, SRNetwork, State
from srptq_plugin.models.residual import conv3x3, shuffle_factors

NEEDED = frozenset({"block1.0.weight", "block2.bn1.weight"})


class SRGANBlock(nn.Module):
    """A residual block of two convolutions with batch norm."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(features, features)
        self.bn1 = nn.BatchNorm2d(features)
        self.prelu = nn.PReLU()
        self.conv2 = conv3x3(features, features)
        self.bn2 = nn.BatchNorm2d(features)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(self.prelu(self.bn1(self.conv1(x)))))


class UpsampleBlock(nn.Module):
    """A convolution and a pixel shuffle that doubles height and width."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv = conv3x3(features, 4 * features)
        self.pixel_shuffle = nn.PixelShuffle(2)
        self.prelu = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.pixel_shuffle(self.conv(x)))


class SRGANGenerator(nn.Module):
    """A network that upscales by 2, 4 or 8, for images in [0, 1].

    Its children are `block1`, `block2`, ... in the order of use.

    >>> SRGANGenerator(upscale=2, features=8, blocks=1).eval()(torch.zeros(1, 3, 5, 6)).shape
    torch.Size([1, 3, 10, 12])
    """

    def __init__(self, upscale: int = 4, features: int = 64, blocks: int = 5) -> None:
        super().__init__()
        factors = shuffle_factors(upscale)
        if set(factors) != {2}:
            raise SrptqError(f"srgan: upscale={upscale}; give 2, 4 or 8")
        first = nn.Sequential(nn.Conv2d(3, features, 9, padding=4), nn.PReLU())
        body = [SRGANBlock(features) for _ in range(blocks)]
        fuse = nn.Sequential(conv3x3(features, features), nn.PReLU())
        last = nn.Conv2d(features, 3, 9, padding=4)
        upsample = nn.Sequential(*(UpsampleBlock(features) for _ in factors), last)
        for number, block in enumerate([first, *body, fuse, upsample], start=1):
            self.add_module(f"block{number}", block)

    def forward(self, x: Tensor) -> Tensor:
        # Children keep the order in which __init__ added them.
        first, *body, upsample = self.children()
        shallow = first(x)
        deep = shallow
        for block in body:
            deep = block(deep)
        return (torch.tanh(upsample(shallow + deep)) + 1) / 2


def recognizes(state: State) -> bool:
    """Tell whether a checkpoint has the keys of this network."""
    return state.keys() >= NEEDED


def build(request: Request[SizeOptions]) -> SRNetwork:
    """Build a generator with the size of its weights."""
    state = request.state
    if state is None or not state.keys() >= NEEDED:
        fault = "no weights" if state is None else f"the weights lack {', '.join(sorted(NEEDED - state.keys()))}"
        raise SrptqError(f"srgan: {fault}; give a generator of leftthomas/SRGAN")
    if request.input_range not in {None, UNIT}:
        raise SrptqError(f"srgan: input range {request.input_range}; its output is in 0 to 1, leave the range out")
    features = state["block1.0.weight"].shape[0]
    blocks = count_keys(state, r"block\d+\.conv1\.weight")
    doublings = count_keys(state, r"block\d+\.\d+\.conv\.weight")
    sizes = {"upscale": 2**doublings, "features": features, "blocks": blocks}
    settle("srgan", request.options, sizes)
    module = SRGANGenerator(2**doublings, features, blocks)
    load_into(module, state)
    return SRNetwork(module)


FAMILY = ModelFamily(build, recognizes, (NEEDED,))
