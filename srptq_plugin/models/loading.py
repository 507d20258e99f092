"""Loading a network by name or checkpoint, and recording the facts that later steps need."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from srptq_plugin.errors import ArgumentError, SrptqError, UnknownNameError, first_line
from srptq_plugin.graph.reparameterized import plain_copy
from srptq_plugin.graph.types import Size
from srptq_plugin.models.checkpoint import is_checkpoint, load_state
from srptq_plugin.models.factory import build_from
from srptq_plugin.models.model_record import (
    ASSUMED,
    Arguments,
    LoadedModel,
    ModelRecord,
    Range,
    Request,
    SRNetwork,
    State,
    check_range,
)
from srptq_plugin.models.onnx_import.onnx_file import is_onnx
from srptq_plugin.models.onnx_import.reading import load_onnx
from srptq_plugin.models.outputs import keep_output
from srptq_plugin.models.probing import probe
from srptq_plugin.models.recognition import FamilyEntry, recognize
from srptq_plugin.plugins.registry import Registry

logger = logging.getLogger(__name__)
BUNDLED = "edsr-mini"
"""The family of the bundled networks."""
GIVEN = "as given"


@dataclass(frozen=True)
class Origins:
    """Where a network and its input range were taken from, for the log."""

    network: str
    input_range: str


MODULE = Origins("a module", ASSUMED)


def load_model(
    model: str | Path | None = None,
    weights: str | Path | None = None,
    args: Arguments | None = None,
    input_range: Range | None = None,
    *,
    registry: Registry | None = None,
    size: Size | None = None,
    output: str | int | None = None,
    allow_missing: bool = False,
) -> LoadedModel:
    """Load a network and return it in eval mode, ready to quantize, with its record.

    >>> load_model().record
    ModelRecord(name='edsr-mini', scale=4, input_range=(0.0, 255.0), mean=(114.4375, 111.4375, 103.0), \
parameters=380955, multiple=1, channels=3)

    Args:
        model: A family of networks, a checkpoint whose keys a family recognizes, an ONNX file, or
            `package.module:factory`. By default the bundled network.
        weights: The checkpoint of a family or a factory: .safetensors, .pth or .pt.
        args: Options of the family or arguments of the factory, such as `{"upscale": 2}`, or values of the ONNX
            file's other inputs.
        input_range: The levels of black and white that the network was trained with, if they are not the usual ones.
        registry: The plugins with the families, by default all that are installed.
        size: The input to try when the network runs at none of the usual sizes.
        output: The index or key of the output that counts, if the network gives several. By default the last image.
        allow_missing: Whether a factory's weights may lack keys, or have more. They are listed in a warning.
    """
    if input_range is not None:
        check_range(input_range)
    entries = (registry or Registry()).entries("model")
    families = {name: entry for entry in entries for name in entry.names}
    name = str(model or BUNDLED)
    if is_onnx(name):
        _refuse_weights(name, weights)
        source = load_onnx(Path(name), args or {})
        range_origin = source.range_origin if input_range is None else GIVEN
        network = replace(source.network, input_range=input_range or source.network.input_range)
        origins = Origins("an ONNX file", range_origin)
        return describe(Path(name).name, network, size or source.size, output, origins)
    if name not in families and is_checkpoint(model or BUNDLED):
        _refuse_weights(name, weights)
        origin = f"recognized by the keys of {Path(name).name}"
        family, state = recognize(name, load_state(name), entries)
        name = family.name
    else:
        state, origin = (
            None if weights is None else load_state(weights),
            "a family" if name in families else "a factory",
        )
    usual = f"usual for {name}" if name in families else ASSUMED
    origins = Origins(origin, usual if input_range is None else GIVEN)
    if name in families:
        network = _build_family(families[name], args or {}, state, input_range)
    elif ":" in name:
        network = build_from(name, args or {}, state, input_range, allow_missing=allow_missing)
    else:
        raise UnknownNameError("model", name, [*families, "package.module:factory", "FILE.safetensors", "FILE.onnx"])
    return describe(name, network, size, output, origins)


def is_network_file(name: str | Path) -> bool:
    """Tell whether a network is named by the path of a file: a checkpoint, or an ONNX file.

    >>> is_network_file("x4.onnx"), is_network_file("x4.pth"), is_network_file("edsr")
    (True, True, False)
    """
    return is_onnx(name) or is_checkpoint(name)


def describe(
    name: str,
    network: SRNetwork,
    size: Size | None = None,
    output: str | int | None = None,
    origins: Origins = MODULE,
) -> LoadedModel:
    """Copy a network, run it to measure its scale and the sizes that it takes, and return it with its record.

    Says at level INFO what it understood.

    Args:
        name: The name for the record and for errors.
        network: The network, which is left as it is.
        size: The input to try when the network runs at none of the usual sizes.
        output: The output that counts, by default the last image.
        origins: Where the network and its range were taken from.
    """
    module = plain_copy(network.module)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    gray = sum(network.input_range) / 2
    sizing = probe(name, module, gray, size, output)
    if sizing.outputs:
        keep_output(module, sizing.output)
        if output is None:
            logger.warning(
                "model %s gives several outputs (%s); %s is quantized, the last image; `output` chooses another",
                *(name, sizing.outputs, sizing.output),
            )
    facts = network.input_range, network.mean, parameters, sizing.multiple, sizing.channels
    record = ModelRecord(name, sizing.scale, *facts)
    _log(record, origins, fixed=sizing.fixed)
    return LoadedModel(module, record, size if sizing.fixed else None)


def _log(record: ModelRecord, origins: Origins, *, fixed: bool) -> None:
    multiple = f"sides in multiples of {record.multiple}" if record.multiple > 1 else "any size"
    logger.info(
        "network %s (%s): %s, reads %s in %g:%g (%s), %s",
        record.name,
        origins.network,
        "keeps the size" if record.scale == 1 else f"upscales by {record.scale}",
        "RGB" if record.channels > 1 else "Y alone",
        *record.input_range,
        origins.input_range,
        "one size only" if fixed else multiple,
    )


def _refuse_weights(path: str, weights: str | Path | None) -> None:
    """Refuse weights besides the file that stands for a network."""
    if weights is not None:
        raise ArgumentError(
            "model", f"a file brings its own weights; leave `weights={weights}` out, or give a family", path
        )


def _build_family(entry: FamilyEntry, args: Arguments, state: State | None, input_range: Range | None) -> SRNetwork:
    request = Request(state, entry.options.parse(dict(args), entry.name), input_range)
    family = entry.load()
    try:
        return family.build(request)
    except SrptqError:
        raise
    except Exception as error:  # shapes of a wrong checkpoint can make a family fail in any way
        raise SrptqError(
            f"model {entry.name}: the weights belong to another network, or are damaged "
            f"({first_line(error)}); give a checkpoint of this network"
        ) from error
