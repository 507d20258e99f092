"""The hooks: what a plugin may hand in. A plugin is a module or object whose functions bear `hookimpl`.

Hooks take no argument and return records. A record's `load` imports the thing when it is used, so a
plugin costs nothing until then. Announce yours in its pyproject.toml:

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
    """Observers, which make bounds from batches; `load` gives a `plugin_api.ObserverFactory`.

    One is made for each encoding, of weights as of activations. It sees float tensors in the network's own units: a
    weight once, an activation batch by batch. `BatchObserver` in `srptq_plugin/observers/base.py` does all that the
    contract asks for, but for two methods: what to remember of a batch, and the bounds by that. One that has `offers()`
    too, a list of bounds, lets PaC choose among them.

    Example:
        ```python
        from srptq_plugin.plugin_api import Bounds, MinMaxObserver, ObserverEntry, Options, hookimpl


        class HalvesOptions(Options):
            share: float = 0.5


        class Halves(MinMaxObserver):
            options_type = HalvesOptions

            def row_bounds(self, state):
                return Bounds(self.options.share * state.low, self.options.share * state.high)


        @hookimpl
        def srptq_observers():
            return [ObserverEntry("halves", "a share of the extremes", load=lambda: Halves, options=HalvesOptions)]
        ```

    A recipe then says `activations: {observer: halves, options: {share: 0.4}}`.
    """
    raise NotImplementedError


@hookspec
def srptq_quantizers() -> Iterable[QuantizerEntry]:
    """Fake-quantizers, to tune or to train; `load` gives a subclass of `BoundedFakeQuantize`.

    PaC, training, tables and files all ask for `qparams()`, which projects `bounds` on the target's grid. Its
    options are a record, `options_type`. Bounds that are set twice, as a run that goes on
    does, must stay what they were.

    Example:
        ```python
        from srptq_plugin.plugin_api import (
            BoundedFakeQuantize,
            Bounds,
            Options,
            QuantizerEntry,
            hookimpl,
            round_through,
        )


        class SteppedOptions(Options):
            step: float = 0.0625


        class Stepped(BoundedFakeQuantize):
            options_type = SteppedOptions

            @property
            def bounds(self):
                bounds, step = super().bounds, self.options.step
                return Bounds(*(round_through(end / step) * step for end in (bounds.lower, bounds.upper)))


        @hookimpl
        def srptq_quantizers():
            return [QuantizerEntry("stepped", "rounds bounds to steps", load=lambda: Stepped, options=SteppedOptions)]
        ```

    A recipe then says `activations: {quantizer: stepped, quantizer_options: {step: 0.125}}`.
    """
    raise NotImplementedError


@hookspec
def srptq_reconstructions() -> Iterable[ReconstructionEntry]:
    """Reconstructions, which tune a prepared graph in place; `load` gives a `plugin_api.Reconstruction`.

    Calling a `PreparedGraph` runs the quantized network. Its `float_forward(images)` returns the output of the float
    network and the outputs of its blocks. Its `quantizers` are the fake-quantizers by name.

    Example:
        ```python
        from srptq_plugin.plugin_api import Bounds, Options, ReconstructionEntry, hookimpl, quiet


        class WidenOptions(Options):
            factor: float = 1.1


        def widen(prepared, images, *, factor, progress=quiet, seed=0):
            for done, quantizer in enumerate(prepared.quantizers.values()):
                progress("widening", done, len(prepared.quantizers))
                bounds = quantizer.bounds
                quantizer.set_bounds(Bounds.of(bounds.lower * factor, bounds.upper * factor))
            return {"widened": len(prepared.quantizers)}


        @hookimpl
        def srptq_reconstructions():
            return [ReconstructionEntry("widen", "widens every bound", load=lambda: widen, options=WidenOptions)]
        ```

    A recipe then says `reconstruction: {name: widen, factor: 1.2}`.
    """
    raise NotImplementedError


@hookspec
def srptq_models() -> Iterable[ModelEntry]:
    """Families of networks, for `--model`. `load` gives a `plugin_api.ModelFamily`.

    Its `build` reads sizes from the weights, and raises `SrptqError` for weights that it cannot use. The network takes
    RGB images of any size and enlarges them by a whole number, both in `input_range`. Its `recognizes` decides whether
    a checkpoint that `--model` names alone is of this family. A checkpoint that two families recognize is refused.
    `settle` merges the caller's options and the sizes of the weights.

    Example:
        ```python
        from torch import nn

        from srptq_plugin.plugin_api import ModelEntry, ModelFamily, Options, SRNetwork, hookimpl, load_into


        class TinyOptions(Options):
            upscale: int = 2


        def build(request):
            scale = request.options.upscale
            module = nn.Sequential(nn.Conv2d(3, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))
            if request.state is not None:
                load_into(module, request.state)
            return SRNetwork(module, request.input_range or (0.0, 1.0))


        def recognizes(state):
            return state.keys() == {"0.weight", "0.bias"}


        @hookimpl
        def srptq_models():
            family = ModelFamily(build, recognizes)
            return [ModelEntry("tiny-sr", "one convolution and a pixel shuffle", lambda: family, options=TinyOptions)]
        ```

    A command then says `--model tiny-sr --model-args upscale=3`, or `--model tiny.safetensors`. For one network,
    `--model package.module:factory` does without a plugin.
    """
    raise NotImplementedError


@hookspec
def srptq_targets() -> Iterable[TargetEntry]:
    """Targets: their grids, placement rules, writer and runtime; `load` gives a `plugin_api.Target`.

    `Placer` writes Q/DQ ONNX. A format of one's own reads `QuantTable`: a scale and zero point for each site, integers
    for each weight. `examples/third_party_target/tiny_npu.py` is a whole target.

    `srptq verify`, which ends every run, compares the first file with the simulation, on images of four sizes, odd ones
    too, or of the only one that the file takes, and on worst-case images. At 8 bits they agree to 50 dB or better;
    where the runtime counts its integer convolutions, those that were planned are among them; and a `Linter` has no
    severe finding.

    Example:
        ```python
        from srptq_plugin.plugin_api import TargetEntry, hookimpl


        @hookimpl
        def srptq_targets():
            def load():
                from tiny_npu import TinyNpu

                return TinyNpu()

            return [TargetEntry("my-npu", "8 bits, scales are powers of two", load, aliases=("npu",))]
        ```

    A recipe then says `target: my-npu`.
    """
    raise NotImplementedError


@hookspec
def srptq_toolkits() -> Iterable[ToolkitEntry]:
    """Toolkits, which put fake-quantizers at the sites of a plan; `load` gives a `plugin_api.Toolkit`.

    Where sites are, on which grids, is decided before: the same recipe means the same integers in every toolkit.

    Example:
        ```python
        from srptq_plugin.plugin_api import PreparedGraph, ToolkitEntry, hookimpl, own_module


        class Bare:
            version = "1.0"

            def realize(self, program, plan):
                return PreparedGraph.from_plan(own_module(program), plan)


        @hookimpl
        def srptq_toolkits():
            return [ToolkitEntry("bare", "the core's own quantizers, in a plain graph", load=Bare)]
        ```

    A recipe then says `toolkit: bare`, a command `--toolkit bare`.
    """
    raise NotImplementedError
