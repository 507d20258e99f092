"""Loading a network by name, with weights, and recording the facts that later steps need."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from srptq_plugin.errors import SrptqError, UnknownNameError, first_line
from srptq_plugin.graph.reparameterized import plain_copy
from srptq_plugin.graph.types import Size
from srptq_plugin.models.checkpoint import load_state
from srptq_plugin.models.edsr import EDSR_FAMILY, MINI_FAMILY
from srptq_plugin.models.factory import build_from
from srptq_plugin.models.model_record import (
    Arguments,
    LoadedModel,
    ModelFamily,
    ModelRecord,
    Range,
    Request,
    SRNetwork,
    check_range,
)
from srptq_plugin.models.probing import probe
from srptq_plugin.models.rdn import RDN_FAMILY
from srptq_plugin.models.rrdb import RRDB_FAMILY
from srptq_plugin.models.srgan import SRGAN_FAMILY
from srptq_plugin.models.srresnet import SRRESNET_FAMILY

ENTRIES = (MINI_FAMILY, EDSR_FAMILY, SRRESNET_FAMILY, SRGAN_FAMILY, RDN_FAMILY, RRDB_FAMILY)
FAMILIES: Mapping[str, ModelFamily] = MappingProxyType({family.name: family for family in ENTRIES})


def load_model(
    name: str | None = None,
    weights: str | Path | None = None,
    args: Arguments | None = None,
    input_range: Range | None = None,
    *,
    families: Mapping[str, ModelFamily] = FAMILIES,
    size: Size | None = None,
) -> LoadedModel:
    """Load a network and return it in eval mode, ready to quantize, with its record.

    >>> load_model().record
    ModelRecord(name='edsr-mini', scale=4, input_range=(0.0, 255.0), mean=(114.4375, 111.4375, 103.0), \
parameters=380955, multiple=1)

    Args:
        name: A family of networks or `package.module:factory`. By default the bundled network.
        weights: A checkpoint: .safetensors, .pth or .pt.
        args: Arguments of the network, such as `{"upscale": 2}`.
        input_range: The levels of black and white that the network was trained with, if they are not the usual ones.
        families: The families to choose from.
        size: The input to try when the network runs at none of the usual sizes.
    """
    name = name or MINI_FAMILY.name
    if input_range is not None:
        check_range(input_range)
    request = Request(None if weights is None else load_state(weights), args or {}, input_range)
    return describe(name, _build(name, request, families), size)


def describe(name: str, network: SRNetwork, size: Size | None = None) -> LoadedModel:
    """Copy a network, run it to measure its scale and the sizes that it takes, and return it with its record.

    Args:
        name: The name for the record and for errors.
        network: The network, which is left as it is.
        size: The input to try when the network runs at none of the usual sizes.
    """
    module = plain_copy(network.module)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    gray = sum(network.input_range) / 2
    sizing = probe(name, module, gray, size)
    record = ModelRecord(name, sizing.scale, network.input_range, network.mean, parameters, sizing.multiple)
    return LoadedModel(module, record, sizing.fixed)


def _build(name: str, request: Request, families: Mapping[str, ModelFamily]) -> SRNetwork:
    if name in families:
        return _build_family(families[name], request)
    if ":" in name:
        return build_from(name, request)
    raise UnknownNameError("model", name, [*families, "package.module:factory"])


def _build_family(family: ModelFamily, request: Request) -> SRNetwork:
    try:
        return family.build(request)
    except SrptqError:
        raise
    except Exception as error:  # a family reads sizes from shapes of any checkpoint, which can fail in any way
        raise SrptqError(
            f"model {family.name}: the weights belong to another network, or are damaged "
            f"({first_line(error)}); give a checkpoint of this network"
        ) from error
