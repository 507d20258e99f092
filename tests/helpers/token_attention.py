"""A toy network with attention over tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class TokenAttention(nn.Module):
    """Attention between channels as Restormer has it: linear layers over tokens, an einsum and a matrix product."""

    def __init__(self, features: int = 6) -> None:
        super().__init__()
        self.head, self.grow = nn.Conv2d(3, features, 3, padding=1), nn.Conv2d(features, 12, 3, padding=1)
        self.read, self.write = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        shallow = self.head(x)
        last = shallow.permute(0, 2, 3, 1)
        normed = (self.norm(last) + last).permute(0, 3, 1, 2)
        query, key, value = self.read(normed.flatten(2).transpose(1, 2)).chunk(3, dim=-1)
        weights = (torch.einsum("bnc,bnk->bck", query, key) / (x.shape[2] * x.shape[3])).softmax(-1)
        deep = self.write(value @ weights).transpose(1, 2).reshape(shallow.shape)
        return functional.pixel_shuffle(self.grow(deep + shallow), 2)
