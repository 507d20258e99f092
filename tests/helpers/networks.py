"""Small networks for tests, and the steps of the pipeline on them: exported, planned, calibrated."""

import copy
import warnings
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

from helpers.size_dependent import SIZE_DEPENDENT
from helpers.toy_modules import FEATURES, NETWORKS, OTHERS, Residual, conv
from srptq_plugin.deploy.onnx_export import export_float
from srptq_plugin.graph.batch_norms import fold
from srptq_plugin.graph.export import export_network, graph_of, own_module
from srptq_plugin.graph.network import Network, drop_identities
from srptq_plugin.graph.rules import Rules
from srptq_plugin.planning.plan import Plan
from srptq_plugin.planning.planner import make_plan
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe

__all__ = [
    "FEATURES", "METADATA", "NETWORKS", "OTHERS", "SIZE_DEPENDENT", "UNIT", "Residual", "calibrated", "conv",
    "exported", "float_model", "folded", "graph", "images", "loaded", "network", "own", "plan", "realize", "recipe",
]  # fmt: skip

UNIT = (0.0, 1.0)
METADATA = {"scale": 2, "input_range": [0.0, 1.0], "mean": None, "name": "toy"}


def network(kind: str) -> nn.Module:
    """Build a network in eval mode. Its weights are always the same, and their size varies between channels."""
    torch.manual_seed(7)
    module = {**NETWORKS, **OTHERS, **SIZE_DEPENDENT}[kind]()
    generator = torch.Generator().manual_seed(11)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean = 0.1 * torch.randn(FEATURES, generator=generator)
            layer.running_var = 0.5 + torch.rand(FEATURES, generator=generator)
        if isinstance(layer, nn.Conv2d) and layer.weight.requires_grad:
            layer.weight.data *= torch.exp(0.7 * torch.randn(len(layer.weight), 1, 1, 1, generator=generator))
    return module.eval()


@cache
def exported(kind: str) -> ExportedProgram:
    """Export a network. The program is made once and shared."""
    return export_network(network(kind))


@cache
def float_model(kind: str) -> ModelProto:
    """Return the float ONNX model of a network. It is made once and shared."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "float.onnx"
        export_float(exported(kind), path, METADATA)
        return onnx.load(path)


_load = torch.export.load


@cache
def _program(content: bytes) -> ExportedProgram:
    return _load(BytesIO(content))


def loaded(file: BytesIO) -> ExportedProgram:
    """Read a program like `torch.export.load`. Files of the same bytes are read once."""
    return _program(file.getvalue())


def own(program: ExportedProgram) -> ExportedProgram:
    """Copy a program, so that its parameters can be changed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own, of copying tree specifications
        return copy.deepcopy(program)


def folded(kind: str) -> nn.Module:
    """Build a network whose batch norms are folded into its convolutions, as the export does."""
    module = network(kind)
    return fold(module, torch.export.export(module, (images(2),))) or module


def graph(kind: str) -> torch.fx.GraphModule:
    """Return the graph of an exported network that the pipeline plans on. All copies share their parameters."""
    return graph_of(exported(kind))


def images(count: int = 4, height: int = 12, width: int = 14, seed: int = 0) -> Tensor:
    """Draw smooth images with some noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (smooth + 0.1 * torch.randn(count, 3, height, width, generator=generator)).clamp(0, 1)


def recipe(bits: int = 8, target: str = "openvino", **keys: Any) -> Recipe:
    """Build a recipe with as many bits for weights as for activations."""
    activations = {"bits": bits, "observer": "minmax", **keys.pop("activations", {})}
    return Recipe.model_validate({"target": target, "weights": {"bits": bits}, "activations": activations, **keys})


def plan(kind: str, chosen: Recipe, image: tuple[float, float] = UNIT, rules: Rules | None = None) -> Plan:
    """Plan the quantization of an exported network."""
    bound = BoundRecipe.of(chosen, Registry())
    return make_plan(Network(graph(kind)), rules or bound.rules, chosen, image, bound.qconfigs)


def realize(kind: str, plan: Plan) -> PreparedGraph:
    """Prepare the graph of an exported network by a plan, without a toolkit."""
    return PreparedGraph.from_plan(drop_identities(own_module(exported(kind))), plan)


def calibrated(kind: str, bits: int = 8, target: str = "openvino", **keys: Any) -> PreparedGraph:
    """Prepare a network by a recipe, and observe a few images."""
    prepared = realize(kind, plan(kind, recipe(bits, target, **keys)))
    prepared.observe([images(seed=seed) for seed in (1, 2)])
    return prepared
