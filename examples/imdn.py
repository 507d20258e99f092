"""IMDN (Hui et al. 2019) as an example of your own network: `srptq quantize --model examples.imdn:imdn`.

It has the keys of Zheng222/IMDN, whose checkpoints load with `--weights`.
"""

import torch
from torch import Tensor, nn

FEATURES = 64
DISTILLED = 16
BLOCKS = 6


def _conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


class ContrastAttention(nn.Module):
    """Scales each channel by a gate of its standard deviation plus its mean."""

    def __init__(self, features: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = features // reduction
        self.conv_du = nn.Sequential(_conv(features, hidden, 1), nn.ReLU(), _conv(hidden, features, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        centered = x - mean
        contrast = (centered * centered).mean(dim=(2, 3), keepdim=True).sqrt()
        return x * self.conv_du(contrast + mean)


class DistillationBlock(nn.Module):
    """Distills 16 of 64 channels after each of three convolutions and refines the others further."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = _conv(FEATURES, FEATURES)
        self.c2 = _conv(FEATURES - DISTILLED, FEATURES)
        self.c3 = _conv(FEATURES - DISTILLED, FEATURES)
        self.c4 = _conv(FEATURES - DISTILLED, DISTILLED)
        self.act = nn.LeakyReLU(0.05)
        self.cca = ContrastAttention(4 * DISTILLED)
        self.c5 = _conv(4 * DISTILLED, FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        features: list[Tensor] = []
        rest = x
        for conv in (self.c1, self.c2, self.c3):
            distilled, rest = torch.split(self.act(conv(rest)), [DISTILLED, FEATURES - DISTILLED], dim=1)
            features.append(distilled)
        features.append(self.c4(rest))
        return x + self.c5(self.cca(torch.cat(features, dim=1)))


class IMDN(nn.Module):
    """RGB in [0, 1] to RGB in [0, 1], `upscale` times as high and as wide."""

    def __init__(self, upscale: int) -> None:
        super().__init__()
        self.fea_conv = _conv(3, FEATURES)
        for number in range(1, BLOCKS + 1):
            self.add_module(f"IMDB{number}", DistillationBlock())
        self.c = nn.Sequential(_conv(BLOCKS * FEATURES, FEATURES, 1), nn.LeakyReLU(0.05))
        self.LR_conv = _conv(FEATURES, FEATURES)
        self.upsampler = nn.Sequential(_conv(FEATURES, 3 * upscale**2), nn.PixelShuffle(upscale))

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.fea_conv(x)
        outputs: list[Tensor] = []
        deep = shallow
        for number in range(1, BLOCKS + 1):
            deep = self.get_submodule(f"IMDB{number}")(deep)
            outputs.append(deep)
        return self.upsampler(self.LR_conv(self.c(torch.cat(outputs, dim=1))) + shallow)


def imdn(upscale: int | str = 4) -> IMDN:
    """Build the network. `--model-args upscale=2` sets its scale."""
    return IMDN(int(upscale))
