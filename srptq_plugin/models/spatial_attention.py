"""Enhanced spatial attention (Liu et al., CVPR 2020), which RFDN and RLFN share."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from srptq_plugin.models.residual import conv3x3


class SpatialAttention(nn.Module):
    """A gate for each value, computed at a fraction of the size."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, hidden, 1)
        self.conv_f = nn.Conv2d(hidden, hidden, 1)
        self.conv2 = nn.Conv2d(hidden, hidden, 3, stride=2)
        self.conv3 = conv3x3(hidden, hidden)
        self.conv4 = nn.Conv2d(hidden, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.conv1(x)
        small = self.refine(functional.max_pool2d(self.conv2(reduced), 7, stride=3))
        wide = functional.interpolate(small, [*x.shape[2:]], mode="bilinear", align_corners=False)
        return x * torch.sigmoid(self.conv4(wide + self.conv_f(reduced)))

    def refine(self, pooled: Tensor) -> Tensor:
        """Compute the attention of each region from its pooled features."""
        return self.conv3(pooled)
