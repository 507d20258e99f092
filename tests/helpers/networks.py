"""Small networks for tests, each with what broke somebody's quantizer before."""

import copy
import warnings
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional

from srptq_plugin.deploy.onnx_export import export_float
from srptq_plugin.graph.export import export_network, fold, graph_of, own_module
from srptq_plugin.graph.network import Network, drop_identities
from srptq_plugin.graph.rules import Rules
from srptq_plugin.models import RDN, RRDB
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.planner import make_plan
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe

UNIT = (0.0, 1.0)
FEATURES = 6
METADATA = {"scale": 2, "input_range": [0.0, 1.0], "mean": None, "name": "toy"}


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
    """The same with residuals `* 1.0`, which exporters fold away, and with a dropout."""

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
    """IMDN's block: part of each convolution's output is kept, the rest goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(FEATURES, FEATURES), conv(4, FEATURES)
        self.third, self.fuse = conv(4, 2), conv(6, FEATURES, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, rest = torch.split(functional.leaky_relu(self.first(x), 0.05), [2, 4], dim=1)
        more, rest = torch.split(functional.leaky_relu(self.second(rest), 0.05), [2, 4], dim=1)
        return self.fuse(torch.cat([kept, more, self.third(rest)], dim=1)) + x


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
        one = self.block1(shallow)
        two = self.block2(one)
        return self.upsampler(self.merge(self.gather(torch.cat([one, two], dim=1))) + shallow)


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
    """One block run twice, so one weight has several readers."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.block, self.grow = conv(3, FEATURES), Residual(), conv(FEATURES, 12)

    def forward(self, x: Tensor) -> Tensor:
        return functional.pixel_shuffle(self.grow(self.block(self.block(self.head(x)))), 2)


class Bicubic(nn.Module):
    """The tail's output is added to the image, enlarged."""

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
    """RFDN's enhanced spatial attention: what a convolution gives is enlarged to the size of another tensor."""

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


NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    kind.__name__.lower(): kind for kind in (Edsr, Mixed, Imdn, Esrgan, Shared, Scaled, Bicubic)
}
OTHERS: Mapping[str, Callable[[], nn.Module]] = {
    "normed": Normed,
    "esa": Esa,
    "rdn": lambda: RDN(2, FEATURES, 4, 2, 2),
    "rrdb": lambda: RRDB(2, FEATURES, 4, 2),
}
"""Not for every test that goes over networks."""


def network(kind: str) -> nn.Module:
    """A network with weights that spread over the channels, always the same."""
    torch.manual_seed(7)
    module = {**NETWORKS, **OTHERS}[kind]()
    generator = torch.Generator().manual_seed(11)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.running_mean = 0.1 * torch.randn(FEATURES, generator=generator)
            each.running_var = 0.5 + torch.rand(FEATURES, generator=generator)
        if isinstance(each, nn.Conv2d) and each.weight.requires_grad:
            each.weight.data *= torch.exp(0.7 * torch.randn(len(each.weight), 1, 1, 1, generator=generator))
    return module.eval()


@cache
def exported(kind: str) -> ExportedProgram:
    """A network, exported once."""
    return export_network(network(kind))


@cache
def float_model(kind: str) -> ModelProto:
    """Its float ONNX file, written once."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        export_float(exported(kind), path, METADATA)
        return onnx.load(path)


_load = torch.export.load


@cache
def _program(content: bytes) -> ExportedProgram:
    return _load(BytesIO(content))


def loaded(file: BytesIO) -> ExportedProgram:
    """Read a program as `torch.export.load` does. Files of the same bytes are read once."""
    return _program(file.getvalue())


def own(program: ExportedProgram) -> ExportedProgram:
    """A copy whose parameters can be changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, about what it copies
        return copy.deepcopy(program)


def folded(kind: str) -> nn.Module:
    """A network as it is exported: what follows a convolution folded into it."""
    module = network(kind)
    return fold(module, torch.export.export(module, (images(2),))) or module


def graph(kind: str) -> torch.fx.GraphModule:
    """An exported network's graph, as the pipeline plans on it; all copies have the same parameters."""
    return graph_of(exported(kind))


def images(count: int = 4, height: int = 12, width: int = 14, seed: int = 0) -> Tensor:
    """Smooth colors with some noise, within [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (smooth + 0.1 * torch.randn(count, 3, height, width, generator=generator)).clamp(0, 1)


def recipe(bits: int = 8, target: str = "openvino", **keys: Any) -> Recipe:
    """A recipe with as many bits for weights as for activations."""
    given = {"observer": "minmax", **keys.pop("activations", {})}
    layers = {"target": target, "weights": {"bits": bits}, "activations": {"bits": bits, **given}, **keys}
    return Recipe.model_validate(layers)


def plan(kind: str, chosen: Recipe, image: tuple[float, float] = UNIT, rules: Rules | None = None) -> Plan:
    """The plan of an exported network."""
    known = Registry()
    wanted = rules or BoundRecipe.of(chosen, known).rules
    return make_plan(Network(graph(kind)), wanted, chosen, image, BoundRecipe.of(chosen, known).qconfigs)


def realize(kind: str, made: Plan) -> PreparedGraph:
    """The prepared graph as the core alone makes it."""
    return PreparedGraph.from_plan(drop_identities(own_module(exported(kind))), made)


def calibrated(kind: str, bits: int = 8, target: str = "openvino", **keys: Any) -> PreparedGraph:
    """Observed on a few images, ready to quantize."""
    prepared = realize(kind, plan(kind, recipe(bits, target, **keys)))
    prepared.observe([images(seed=seed) for seed in (1, 2)])
    return prepared
