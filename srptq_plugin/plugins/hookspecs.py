"""The hooks: functions that a plugin defines to register components.

A plugin is a module or object whose functions are marked with `hookimpl`. Hooks take no argument and return records. A
record's `load` imports the component when it is used, so a plugin costs nothing until then. An entry point in
pyproject.toml makes a plugin known:

    [project.entry-points.srptq]
    mine = "my_package.plugin"
"""

from collections.abc import Iterable

import pluggy

from srptq_plugin.plugins.entries import (
    ModelEntry,
    ObserverEntry,
    QuantizerEntry,
    ReconstructionEntry,
    TargetEntry,
    ToolkitEntry,
)

PROJECT = "srptq"
"""The name of the pluggy project and of the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def srptq_observers() -> Iterable[ObserverEntry]:
    """Register observers, which turn the batches of a tensor into bounds.

    `load` returns an `ObserverFactory`, usually a subclass of `BatchObserver`. An observer gets float tensors in the
    network's own units: a weight once, an activation batch by batch. If it also has a method `offers()` that returns a
    list of bounds, PaC chooses among them.

    A recipe names it in `weights.observer` or `activations.observer`, with its options in `weights.options` or
    `activations.options`.
    """
    raise NotImplementedError


@hookspec
def srptq_quantizers() -> Iterable[QuantizerEntry]:
    """Register fake-quantizers, which hold the bounds of a site and learn.

    `load` returns a subclass of `BoundedFakeQuantize`. Reconstructions, trainings, tables and files all use its
    `qparams()`, which projects `bounds` on the target's grid.

    A recipe names it in `weights.quantizer` or `activations.quantizer`, with its options in `weights.quantizer_options`
    or `activations.quantizer_options`.
    """
    raise NotImplementedError


@hookspec
def srptq_reconstructions() -> Iterable[ReconstructionEntry]:
    """Register reconstructions, which tune a calibrated network in place.

    `load` returns a `Reconstruction`, a function. It gets a `PreparedGraph`: calling it runs the quantized network,
    `float_forward(images)` returns the output and the blocks' outputs of the float network, and `quantizers` are the
    fake-quantizers by name.

    A recipe names it in `reconstruction.name`, with its options next to the name.
    """
    raise NotImplementedError


@hookspec
def srptq_models() -> Iterable[ModelEntry]:
    """Register model families, which build networks of one architecture.

    `load` returns a `ModelFamily`, a record of two functions. `build` gets a `Request` and returns an `SRNetwork`: it
    reads sizes from the weights, and raises `SrptqError` for weights that it cannot use. `settle` merges these sizes
    with the caller's options. The network takes images of RGB or of Y and enlarges them by a whole number, or keeps
    their size. Both are in `input_range`. `recognizes` decides by keys and shapes whether a checkpoint is of this
    family. A checkpoint that two families recognize is refused.

    A command names it in `--model`, with its options in `--model-args`. If the family recognizes a checkpoint, the
    checkpoint's path is enough for `--model`.
    """
    raise NotImplementedError


@hookspec
def srptq_targets() -> Iterable[TargetEntry]:
    """Register targets: their grids, placement rules, writers and runtimes.

    `load` returns a `Target`. Its `write` gets the float ONNX file and a `QuantTable`: scale and zero point of each
    site, integers of each weight. `Placer` turns them into Q/DQ ONNX, if the format builds on it.

    Every run ends with `srptq verify`. It compares the first written file with the simulation, on worst-case images and
    on images of four sizes, odd ones too, or of the only size that the file takes. At 8 bits they have to agree to 50
    dB or better, or nearly as well as the simulation with itself with other last bits. If the runtime counts its
    integer convolutions, there have to be as many as planned. If the target is also a `Linter`, it must have no
    severe finding.

    A recipe names it in `target`, with its options in `export`.
    """
    raise NotImplementedError


@hookspec
def srptq_toolkits() -> Iterable[ToolkitEntry]:
    """Register toolkits, which insert the fake-quantizers of a plan into an exported network.

    `load` returns a `Toolkit`. It gets an `ExportedProgram` and a `Plan`, which has decided where quantizers are and on
    which grids. The same recipe therefore gives the same integers in every toolkit.

    A recipe names it in `toolkit`, a command in `--toolkit`.
    """
    raise NotImplementedError
