"""Post-training quantization of super-resolution networks, inside the toolkits that engineers already use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from srptq_plugin.calibration.equalization.equalize import equalize
    from srptq_plugin.data.images import load_patches
    from srptq_plugin.deploy.quant_table import QuantTable
    from srptq_plugin.errors import SrptqError
    from srptq_plugin.models.loading import load_model
    from srptq_plugin.pipeline import Run, quantize
    from srptq_plugin.plugins.hookspecs import hookimpl
    from srptq_plugin.plugins.hosts import activate, deactivate
    from srptq_plugin.plugins.registry import Registry
    from srptq_plugin.qat.initialize import initialize
    from srptq_plugin.qat.train import train
    from srptq_plugin.quantization.grid import Bounds, IntGrid, QParams, project
    from srptq_plugin.quantization.quantizer import BoundedFakeQuantize
    from srptq_plugin.recipes.recipe import Recipe

__version__ = "0.1.0"
__all__ = [
    "BoundedFakeQuantize",
    "Bounds",
    "IntGrid",
    "QParams",
    "QuantTable",
    "Recipe",
    "Registry",
    "Run",
    "SrptqError",
    "activate",
    "deactivate",
    "equalize",
    "hookimpl",
    "initialize",
    "load_model",
    "load_patches",
    "project",
    "quantize",
    "train",
]
_HOMES = {
    "BoundedFakeQuantize": "quantization.quantizer",
    "Bounds": "quantization.grid",
    "IntGrid": "quantization.grid",
    "QParams": "quantization.grid",
    "QuantTable": "deploy.quant_table",
    "Recipe": "recipes.recipe",
    "Registry": "plugins.registry",
    "Run": "pipeline",
    "SrptqError": "errors",
    "activate": "plugins.hosts",
    "deactivate": "plugins.hosts",
    "equalize": "calibration.equalization.equalize",
    "hookimpl": "plugins.hookspecs",
    "initialize": "qat.initialize",
    "load_model": "models.loading",
    "load_patches": "data.images",
    "project": "quantization.grid",
    "quantize": "pipeline",
    "train": "qat.train",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: the command line must answer before torch is loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module 'srptq_plugin' has no attribute {name!r}")
    return getattr(import_module(f"srptq_plugin.{_HOMES[name]}"), name)
