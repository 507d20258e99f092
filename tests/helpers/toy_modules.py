"""Small modules, each with a structure that is hard to quantize."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.token_attention import TokenAttention
from helpers.transposed import Fsrcnn, Lapsrn
from srptq_plugin.models.rdn import RDN
from srptq_plugin.models.rrdb import RRDB

FEATURES = 6


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


def mean_shift(sign: float) -> nn.Conv2d:
    shift = nn.Conv2d(3, 3, 1).requires_grad_(requires_grad=False)
    shift.weight.data = torch.eye(3)[:, :, None, None]
    shift.bias = nn.Parameter(sign * torch.tensor([0.45, 0.44, 0.4]), requires_grad=False)
    return shift


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(FEATURES, FEATURES), conv(FEATURES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(functional.relu(self.first(x)))


class Edsr(nn.Module):
    """Mean shifts by 1 x 1 convolutions, two residual blocks, a long skip, a pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = mean_shift(-1), mean_shift(1)
        self.head = conv(3, FEATURES)
        self.body = nn.Sequential(Residual(), Residual(), conv(FEATURES, FEATURES))
        self.grow, self.shuffle = conv(FEATURES, 4 * FEATURES), nn.PixelShuffle(2)
        self.tail = conv(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(self.sub_mean(x))
        return self.add_mean(self.tail(self.shuffle(self.grow(shallow + self.body(shallow)))))


class Scaled(Edsr):
    """An EDSR with residuals times 1.0, which exporters fold away, and with a dropout."""

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(self.sub_mean(x))
        deep = functional.dropout(self.body(shallow) * 1.0, training=self.training)
        return self.add_mean(self.tail(self.shuffle(self.grow(shallow + deep))))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(FEATURES, 2, 1), nn.Conv2d(2, FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.excite(functional.relu(self.squeeze(pooled))))


class Mixed(nn.Module):
    """PReLU, LeakyReLU, split, concat, attention, bilinear interpolation, tanh, clamp, a subtracted mean."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.45, 0.44, 0.4]).reshape(1, 3, 1, 1))
        self.head, self.act = conv(3, FEATURES), nn.PReLU(FEATURES)
        self.left, self.right = conv(FEATURES // 2, FEATURES), conv(FEATURES, FEATURES)
        self.fuse, self.attention = conv(2 * FEATURES, FEATURES, 1), Attention()
        self.grown, self.tail = conv(FEATURES, FEATURES), conv(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.act(self.head(x - self.mean))
        half, _ = torch.split(shallow, FEATURES // 2, dim=1)
        left = functional.leaky_relu(self.left(half), 0.1)
        both = torch.cat([left, self.right(shallow)], dim=1)
        deep = self.attention(self.fuse(both)) + shallow
        large = functional.interpolate(deep, scale_factor=2.0, mode="bilinear", align_corners=False)
        grown = functional.leaky_relu(self.grown(large), 0.1)
        return torch.clamp(0.5 * torch.tanh(self.tail(grown)) + self.mean, 0, 1)


class Distill(nn.Module):
    """IMDN's block: one part of each convolution's output is fused at the end, the other is convolved again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(FEATURES, FEATURES), conv(4, FEATURES)
        self.third, self.fuse = conv(4, 2), conv(6, FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        distilled, rest = torch.split(functional.leaky_relu(self.first(x), 0.05), [2, 4], dim=1)
        more, rest = torch.split(functional.leaky_relu(self.second(rest), 0.05), [2, 4], dim=1)
        return self.fuse(torch.cat([distilled, more, self.third(rest)], dim=1)) + x


class Imdn(nn.Module):
    """Split and concat in blocks, and a concat of the blocks' outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.head = conv(3, FEATURES)
        self.block1, self.block2 = Distill(), Distill()
        self.gather = nn.Sequential(conv(2 * FEATURES, FEATURES, 1), nn.LeakyReLU(0.05))
        self.merge = conv(FEATURES, FEATURES)
        self.upsampler = nn.Sequential(conv(FEATURES, 12), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        first = self.block1(shallow)
        second = self.block2(first)
        return self.upsampler(self.merge(self.gather(torch.cat([first, second], dim=1))) + shallow)


class Dense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(FEATURES, 4), conv(FEATURES + 4, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        grown = functional.leaky_relu(self.conv1(x), 0.2)
        return self.conv2(torch.cat((x, grown), 1)) * 0.2 + x


class DenseInDense(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rdb1, self.rdb2 = Dense(), Dense()

    def forward(self, x: Tensor) -> Tensor:
        return self.rdb2(self.rdb1(x)) * 0.2 + x


class Esrgan(nn.Module):
    """Blocks within blocks, and nearest interpolation before convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.head = conv(3, FEATURES)
        self.body = nn.Sequential(DenseInDense(), DenseInDense())
        self.trunk = conv(FEATURES, FEATURES)
        self.up, self.high, self.tail = conv(FEATURES, FEATURES), conv(FEATURES, FEATURES), conv(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        deep = shallow + self.trunk(self.body(shallow))
        large = functional.interpolate(deep, scale_factor=2.0, mode="nearest")
        grown = functional.leaky_relu(self.up(large), 0.2)
        return self.tail(functional.leaky_relu(self.high(grown), 0.2))


class Shared(nn.Module):
    """One block that runs twice, so each weight has two readers."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.block, self.grow = conv(3, FEATURES), Residual(), conv(FEATURES, 12)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pixel_shuffle(self.grow(self.block(self.block(self.head(x)))), 2)


class Bicubic(nn.Module):
    """A residual that is added to the enlarged image."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.block, self.grow = conv(3, FEATURES), Residual(), conv(FEATURES, 4 * FEATURES)
        self.tail = conv(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        large = functional.interpolate(x, scale_factor=2.0, mode="bicubic", align_corners=False)
        grown = functional.pixel_shuffle(self.grow(self.block(self.head(x))), 2)
        return self.tail(functional.relu(grown)) + large


class Normed(nn.Module):
    """Batch norms after convolutions, as SRResNet has them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = conv(3, FEATURES)
        self.body = nn.Sequential(self._block(), self._block())
        self.grow, self.tail = conv(FEATURES, 4 * FEATURES), conv(FEATURES, 3)

    @staticmethod
    def _block() -> nn.Sequential:
        layers = (conv(FEATURES, FEATURES), nn.BatchNorm2d(FEATURES), nn.ReLU(), conv(FEATURES, FEATURES))
        return nn.Sequential(*layers, nn.BatchNorm2d(FEATURES))

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        return self.tail(functional.pixel_shuffle(self.grow(shallow + self.body(shallow)), 2))


class Esa(nn.Module):
    """RFDN's enhanced spatial attention, which enlarges a tensor to the size of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = conv(3, FEATURES), conv(FEATURES, FEATURES)
        self.reduce, self.stride = conv(FEATURES, 4, 1), nn.Conv2d(4, 4, 3, 2)
        self.deep, self.back, self.grow = conv(4, 4), conv(4, FEATURES, 1), conv(FEATURES, 12)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.body(self.head(x))
        reduced = self.reduce(shallow)
        deep = self.deep(functional.relu(self.stride(reduced)))
        size = (x.size(2), x.size(3))
        deep = functional.interpolate(deep, size, mode="bilinear", align_corners=False)
        attention = torch.sigmoid(self.back(deep + reduced))
        return functional.pixel_shuffle(self.grow(shallow * attention), 2)


class Activations(nn.Module):
    """A SiLU, a PReLU with one slope, products with numbers, an average pool and a gate of 1 x 1 maps."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.left, self.right = conv(3, FEATURES), conv(FEATURES, FEATURES), conv(FEATURES, FEATURES)
        self.squeeze, self.prelu, self.grow = conv(FEATURES, FEATURES, 1), nn.PReLU(), conv(FEATURES, 12)

    def forward(self, x: Tensor) -> Tensor:
        shallow = functional.silu(self.head(x))
        left = self.prelu(self.left(shallow))
        right = (left + shallow) * 0.2 + (left - shallow) * -0.3
        pooled = functional.avg_pool2d(self.right(right), 3, stride=1, padding=1)
        gate = torch.sigmoid(self.squeeze(pooled.mean((2, 3), keepdim=True)))
        return functional.pixel_shuffle(self.grow(pooled * gate + left), 2)


class ChannelsLast(nn.Module):
    """Linear layers over channels, with operations between permutations, as BSRN and ConvNeXt have them."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.first = conv(3, FEATURES), nn.Linear(FEATURES, 2 * FEATURES)
        self.second, self.scale = nn.Linear(2 * FEATURES, FEATURES), nn.Parameter(torch.linspace(0.6, 1.7, FEATURES))
        self.joined, self.grow = nn.Linear(2 * FEATURES, FEATURES), conv(FEATURES, 12)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x).permute(0, 2, 3, 1)
        deep = self.second(functional.gelu(self.first(shallow))) * self.scale + shallow
        joined = self.joined(torch.cat([deep, shallow], dim=-1))
        return functional.pixel_shuffle(self.grow(joined.permute(0, 3, 1, 2)), 2)


class Espcn(nn.Module):
    """Convolutions with long tails in front of tanh, and an image clamped behind its pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.grow = conv(3, 12, 5), conv(12, 8), conv(8, 12)
        self.first.weight.data *= 8

    def forward(self, x: Tensor) -> Tensor:
        deep = torch.tanh(self.second(torch.tanh(self.first(x))))
        return functional.pixel_shuffle(self.grow(deep), 2).clamp(0, 1)


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    kind.__name__.lower(): kind for kind in (Edsr, Mixed, Imdn, Esrgan, Shared, Scaled, Bicubic)
}
OTHERS: Mapping[str, Callable[[], nn.Module]] = {
    "normed": Normed,
    "activations": Activations,
    "channelslast": ChannelsLast,
    "esa": Esa,
    "espcn": Espcn,
    "fsrcnn": Fsrcnn,
    "lapsrn": Lapsrn,
    "tokens": TokenAttention,
    "rdn": lambda: RDN(2, FEATURES, 4, 2, 2),
    "rrdb": lambda: RRDB(2, FEATURES, 4, 2),
}
"""Networks that only some tests use."""
