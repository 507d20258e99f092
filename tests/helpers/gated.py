"""Toy networks whose quantizers have DDTB's gates."""

from typing import Any

from helpers import networks
from helpers.photographs import pixels
from srptq_plugin.data.images import Image
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.qat.batches import Patches
from srptq_plugin.qat.ddtb import Gate
from srptq_plugin.qat.training import Training
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.schema import TrainingSettings

IMAGES = networks.images(8, seed=5)
BATCHES = Patches([Image(str(n), pixels(24, 30, n)) for n in range(3)], None, 2, 16, 2, networks.UNIT)
STEPS = 8


def recipe(bits: int = 2, **keys: Any) -> Recipe:
    activations = {"observer": "percentile", "options": {"percentile": 1}, "quantizer": "ddtb"}
    return networks.recipe(bits, "paper", **({"activations": activations, "placement": "convs"} | keys))


def prepared_by(toolkit: str, network: str = "edsr", chosen: Recipe | None = None) -> PreparedGraph:
    plan = networks.plan(network, chosen or recipe())
    prepared = Registry().toolkit(toolkit).load().realize(networks.exported(network), plan)
    prepared.observe([IMAGES])
    return prepared


def begun(network: str = "edsr", **options: Any) -> Training:
    prepared = networks.realize(network, networks.plan(network, recipe()))
    prepared.observe([IMAGES])
    prepared.on_train_begin(IMAGES)
    chosen: dict[str, Any] = {"steps": STEPS, "every": 2, "value_rate": 0.05, "bound_rate": 2e-3, **options}
    return Training(prepared, TrainingSettings(**chosen), peak=1.0)


def gates(prepared: PreparedGraph) -> dict[str, Gate]:
    quantizers: dict[str, Any] = prepared.quantizers
    return {
        name: quantizer.gate for name, quantizer in quantizers.items() if getattr(quantizer, "gate", None) is not None
    }
