"""Small networks with transposed convolutions."""

from torch import Tensor, nn
from torch.nn import functional

FEATURES = 6


class Fsrcnn(nn.Module):
    """PReLUs per channel, and a transposed convolution with bias and output padding at the end."""

    def __init__(self, stride: int = 2, groups: int = 1) -> None:
        super().__init__()
        self.feature = nn.Sequential(nn.Conv2d(3, FEATURES, 5, padding=2), nn.PReLU(FEATURES))
        self.map = nn.Sequential(nn.Conv2d(FEATURES, 9, 3, padding=1), nn.PReLU(9))
        self.grow = nn.ConvTranspose2d(9, 3, 9, stride, padding=4, output_padding=stride - 1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.grow(self.map(self.feature(x)))


class Lapsrn(nn.Module):
    """Transposed convolutions of the image, of a sum, and of features that an add reads next to the result."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.mix = nn.Conv2d(3, FEATURES, 3, padding=1), nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.image = nn.ConvTranspose2d(3, 3, 4, 2, padding=1, bias=False)
        self.grow = nn.ConvTranspose2d(FEATURES, FEATURES, 4, 2, padding=1)
        self.again = nn.ConvTranspose2d(FEATURES, FEATURES, 3, 1, padding=1)
        self.residual = nn.Conv2d(FEATURES, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shallow = functional.leaky_relu(self.head(x), 0.2)
        deep = functional.relu(self.grow(shallow + self.mix(shallow)))
        return self.image(x) + self.residual(self.again(deep) + deep)
