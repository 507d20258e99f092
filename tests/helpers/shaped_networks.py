"""Small networks of other shapes than one RGB image in and one out."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.toy_modules import conv


class Luma(nn.Module):
    """One channel in and out, twice as large."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(1, 6, 5), conv(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nearest(x, 2) + 0.1 * functional.pixel_shuffle(self.second(functional.relu(self.first(x))), 2)


class Denoiser(nn.Module):
    """A residual network that keeps the size, as VDSR and DnCNN do."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(channels, 6), nn.ReLU(), conv(6, 6), nn.ReLU(), conv(6, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.body(x)


class Pyramid(nn.Module):
    """Images of two scales and features, as a tuple, a list or a dict. The third scale is a branch of its own."""

    def __init__(self, kind: type = tuple) -> None:
        super().__init__()
        self.kind = kind
        self.head, self.twice, self.four_times = conv(3, 6), conv(6, 12), conv(6, 48)

    def forward(self, x: Tensor) -> object:
        features = functional.relu(self.head(x))
        double = nearest(x, 2) + 0.1 * functional.pixel_shuffle(self.twice(features), 2)
        quadruple = nearest(x, 4) + 0.1 * functional.pixel_shuffle(self.four_times(features), 4)
        outputs = OrderedDict(double=double, quadruple=quadruple, features=features)
        return outputs if self.kind is dict else self.kind(outputs.values())


class Windows(nn.Module):
    """Means of windows of any side, which has to divide the image's sides."""

    def __init__(self, side: int, channels: int = 3) -> None:
        super().__init__()
        self.side, self.head, self.tail = side, conv(channels, 6), conv(6, channels)

    def forward(self, x: Tensor) -> Tensor:
        features = functional.relu(self.head(x))
        batch, maps, height, width = features.shape
        rows, columns = height // self.side, width // self.side
        windows = features.view(batch, maps, rows, self.side, columns, self.side)
        mixed = windows - windows.mean((3, 5), keepdim=True)
        return x + 0.1 * self.tail(mixed.view(batch, maps, height, width))


class Conditioned(Denoiser):
    """A denoiser with a map of noise as its second input, as FFDNet has."""

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return super().forward(x * sigma)


class Shifted(nn.Module):
    """Attention in shifted windows, with a mask that depends on the size, as Swin has."""

    def __init__(self, side: int = 8, blocks: int = 2) -> None:
        super().__init__()
        self.side, self.head, self.tail = side, conv(3, 8), conv(8, 12)
        self.qkv = nn.ModuleList(nn.Linear(8, 24) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = functional.pad(x, (0, -width % self.side, 0, -height % self.side), mode="reflect")
        features = self.head(padded).permute(0, 2, 3, 1)
        for n, qkv in enumerate(self.qkv):
            features = features + self._attend(features, qkv, shift=(n % 2) * self.side // 2)
        output = nearest(padded, 2) + 0.1 * functional.pixel_shuffle(self.tail(features.permute(0, 3, 1, 2)), 2)
        return output[..., : 2 * height, : 2 * width]

    def _attend(self, features: Tensor, qkv: nn.Module, shift: int) -> Tensor:
        batch, height, width, maps = features.shape
        moved = torch.roll(features, (-shift, -shift), (1, 2))
        query, key, value = qkv(self._cut(moved)).chunk(3, -1)
        scores = query @ key.transpose(1, 2) / maps**0.5
        if shift:
            scores = (scores.view(batch, -1, *scores.shape[1:]) + self._mask(height, width, shift)).view(scores.shape)
        windows = scores.softmax(-1) @ value
        grid = windows.view(batch, height // self.side, width // self.side, self.side, self.side, maps)
        whole = grid.permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, maps)
        return torch.roll(whole, (shift, shift), (1, 2))

    def _cut(self, features: Tensor) -> Tensor:
        batch, height, width, maps = features.shape
        grid = features.view(batch, height // self.side, self.side, width // self.side, self.side, maps)
        return grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, self.side**2, maps)

    def _mask(self, height: int, width: int, shift: int) -> Tensor:
        parts = slice(0, -self.side), slice(-self.side, -shift), slice(-shift, None)
        image = torch.zeros(1, height, width, 1)
        for number, (rows, columns) in enumerate((rows, columns) for rows in parts for columns in parts):
            image[:, rows, columns] = number
        windows = self._cut(image).squeeze(-1)
        different = windows.unsqueeze(1) - windows.unsqueeze(2)
        return torch.zeros_like(different).masked_fill(different != 0, -100.0)


def nearest(image: Tensor, scale: int) -> Tensor:
    return functional.interpolate(image, scale_factor=scale, mode="nearest")
