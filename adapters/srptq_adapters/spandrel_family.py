"""The architectures that spandrel knows, for checkpoints that no other family recognizes."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from srptq_plugin.errors import NotInstalledError, SrptqError
from srptq_plugin.models.model_record import UNIT, ModelFamily, Request, SRNetwork, State
from srptq_plugin.utils.options import Options

EXTRA = "spandrel is not installed; pip install 'srptq-plugin[spandrel]'"


def recognizes(state: State) -> bool:
    """Tell whether spandrel is installed and detects an architecture in a checkpoint."""
    if find_spec("spandrel") is None:
        return False
    spandrel = _import()
    weights = spandrel.canonicalize_state_dict(dict(state))
    return any(support.detect(weights) for support in spandrel.MAIN_REGISTRY.architectures("detection"))


def build(request: Request[Options]) -> SRNetwork:
    """Build the network that spandrel detects. Spandrel's networks take images of 0 to 1."""
    if request.state is None:
        raise SrptqError("spandrel: no weights; give a checkpoint of an architecture that spandrel knows")
    spandrel = _import()
    try:
        descriptor = spandrel.MAIN_REGISTRY.load(dict(request.state))
    except spandrel.UnsupportedModelError as error:
        raise SrptqError("spandrel: it detects no architecture in these weights; give a module or a factory") from error
    if not isinstance(descriptor, spandrel.ImageModelDescriptor):
        kind = descriptor.architecture.name
        raise SrptqError(f"spandrel: {kind} reads more than an image; give a factory that fixes the rest")
    return SRNetwork(descriptor.model, request.input_range or UNIT)


def _import() -> Any:
    try:
        return import_module("spandrel")
    except ModuleNotFoundError as error:
        raise NotInstalledError(EXTRA) from error


FAMILY = ModelFamily(build, recognizes, fallback=True)
