"""From what `--model` and `--weights` say to a network in eval mode with its record."""

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
from srptq_plugin.models.probing import sizing_of
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
    """Load a network by the name of its family or `package.module:factory`; without a name the bundled one.

    >>> load_model().record
    ModelRecord(name='edsr-mini', scale=4, input_range=(0.0, 255.0), mean=(114.4375, 111.4375, 103.0), \
parameters=380955, multiple=1)
    """
    name = name or MINI_FAMILY.name
    if input_range is not None:
        check_range(input_range)
    request = Request(None if weights is None else load_state(weights), args or {}, input_range)
    return describe(name, _built(name, request, families), size)


def describe(name: str, network: SRNetwork, size: Size | None = None) -> LoadedModel:
    """A network with its record. Its scale and the sizes that it takes are measured, the given one last."""
    module = plain_copy(network.module)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    sizing = sizing_of(name, module, sum(network.input_range) / 2, size)
    known = network.input_range, network.mean, parameters
    return LoadedModel(module, ModelRecord(name, sizing.scale, *known, sizing.multiple), sizing.fixed)


def _built(name: str, request: Request, families: Mapping[str, ModelFamily]) -> SRNetwork:
    if name in families:
        return _of_family(families[name], request)
    if ":" in name:
        return build_from(name, request)
    raise UnknownNameError("model", name, [*families, "package.module:factory"])


def _of_family(family: ModelFamily, request: Request) -> SRNetwork:
    """A family reads its sizes from the weights, which may be anything."""
    try:
        return family.build(request)
    except SrptqError:
        raise
    except Exception as error:
        raise SrptqError(
            f"model {family.name}: the weights are of another network, or damaged "
            f"({first_line(error)}); give those that it was saved with"
        ) from error
