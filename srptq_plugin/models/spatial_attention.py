"""Enhanced spatial attention (Liu et al., CVPR 2020), which RFDN, BSRN and RLFN share."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.models.residual import Conv, conv3x3


class SpatialAttention(nn.Module):
    """A gate for each value, computed at a fraction of the size.

    Args:
        features: The channels of the map.
        hidden: The channels at the small size.
        conv: Builds the convolutions at the small size.
        reduction: The convolution that halves the size, of 3 x 3 without padding by default.
    """

    def __init__(self, features: int, hidden: int, conv: Conv = conv3x3, reduction: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, hidden, 1)
        self.conv_f = nn.Conv2d(hidden, hidden, 1)
        self.conv2 = reduction or nn.Conv2d(hidden, hidden, 3, stride=2)
        self.conv3 = conv(hidden, hidden)
        self.conv4 = nn.Conv2d(hidden, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.conv1(x)
        small = self.refine(functional.max_pool2d(self.conv2(reduced), 7, stride=3))
        wide = functional.interpolate(small, [*x.shape[2:]], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(wide + self.conv_f(reduced)))

    def refine(self, pooled: Tensor) -> Tensor:
        """Compute the attention of each region from its pooled features."""
        return self.conv3(pooled)


class DeepSpatialAttention(SpatialAttention):
    """Spatial attention of three convolutions at the small size, with activations between them."""

    def __init__(
        self,
        features: int,
        hidden: int,
        conv: Conv = conv3x3,
        reduction: nn.Module | None = None,
        activation: nn.Module | None = None,
    ) -> None:
        super().__init__(features, hidden, conv, reduction)
        self.conv_max = conv(hidden, hidden)
        self.conv3_ = conv(hidden, hidden)
        self.act = activation or nn.ReLU()

    def refine(self, pooled: Tensor) -> Tensor:
        """Compute the attention of each region from its pooled features."""
        return self.conv3_(self.act(self.conv3(self.act(self.conv_max(pooled)))))
