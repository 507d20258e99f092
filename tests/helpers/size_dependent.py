"""Small modules that torch's ONNX exporters refuse or write in single values: tests export them as programs only."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

FEATURES = 6


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


class Partial(nn.Module):
    """Convolutions of the first channels that are written in their place, as in FasterNet and SMFANet."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = conv(3, FEATURES), conv(FEATURES, FEATURES, 1)
        self.first, self.second, self.grow = conv(4, 4), conv(2, 2), conv(FEATURES, 12)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        deep = functional.relu(self.body(shallow))
        deep[:, :4, :, :] = functional.relu(self.first(deep[:, :4, :, :]))
        deep = self.body(deep)
        deep[:, 2:4] = self.second(deep[:, 2:4])
        return functional.pixel_shuffle(self.grow(deep + shallow), 2)


class Safm(nn.Module):
    """SAFMN's modulation: attention of windows, as many as a fraction of the image's sides."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.near, self.far = conv(3, FEATURES), conv(3, 3), conv(3, 3)
        self.join, self.grow = conv(FEATURES, FEATURES, 1), conv(FEATURES, 12)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        near, far = shallow.chunk(2, dim=1)
        height, width = shallow.shape[2:]
        pooled = self.far(functional.adaptive_max_pool2d(far, (height // 4, width // 4)))
        joined = torch.cat([self.near(near), functional.interpolate(pooled, size=(height, width))], dim=1)
        return functional.pixel_shuffle(self.grow(torch.sigmoid(self.join(joined)) * shallow), 2)


SIZE_DEPENDENT: Mapping[str, Callable[[], nn.Module]] = {"partial": Partial, "safm": Safm}
