"""The hooks: what a plugin may hand in. A plugin is a module or object whose functions bear `hookimpl`.

Hooks take no argument and return records. A record's `load` imports the thing when it is used, so a
plugin costs nothing until then. Announce yours in its pyproject.toml:

    [project.entry-points.srptq]
    mine = "my_package.plugin"
"""

from collections.abc import Iterable

import pluggy

from srptq_plugin.contracts import (
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
def srptq_toolkits() -> Iterable[ToolkitEntry]:
    """Toolkits, which put fake-quantizers at the sites of a plan; `load` gives a `contracts.Toolkit`.

    Example:
        ```python
        @hookimpl
        def srptq_toolkits():
            def load():
                from my_package.toolkit import EagerToolkit

                return EagerToolkit()

            return [ToolkitEntry("eager", "my own eager-mode quantizers", load)]
        ```
    """
    raise NotImplementedError


@hookspec
def srptq_targets() -> Iterable[TargetEntry]:
    """Targets: their grids, placement rules, writer and runtime; `load` gives a `contracts.Target`.

    Example:
        ```python
        @hookimpl
        def srptq_targets():
            def load():
                from my_package.npu import TARGET

                return TARGET

            return [TargetEntry("my-npu", "8-bit affine, per tensor", load, aliases=("npu",))]
        ```
    """
    raise NotImplementedError


@hookspec
def srptq_observers() -> Iterable[ObserverEntry]:
    """Observers, which make bounds from batches; `load` gives a `contracts.ObserverFactory`.

    Example:
        ```python
        class Halves:
            def __init__(self, grid: IntGrid, share: float = 0.5) -> None: ...
            def update(self, values: Tensor) -> None: ...
            def merge(self, other: Observer) -> None: ...
            def bounds(self) -> Bounds: ...


        @hookimpl
        def srptq_observers():
            return [ObserverEntry("halves", "a share of the plain extremes", load=lambda: Halves)]
        ```

    A recipe then says `activations: {observer: halves, options: {share: 0.4}}`.
    """
    raise NotImplementedError


@hookspec
def srptq_reconstructions() -> Iterable[ReconstructionEntry]:
    """Reconstructions, which tune a prepared graph in place; `load` gives a `contracts.Reconstruction`.

    Example:
        ```python
        def widen(prepared, images, *, progress=quiet, factor=1.1):
            ...  # move the bounds of the prepared graph's quantizers
            return {"widened": 37}


        @hookimpl
        def srptq_reconstructions():
            return [ReconstructionEntry("widen", "every bound a little wider", load=lambda: widen)]
        ```

    A recipe then says `reconstruction: {name: widen, factor: 1.2}`.
    """
    raise NotImplementedError


@hookspec
def srptq_quantizers() -> Iterable[QuantizerEntry]:
    """Fake-quantizer classes, to tune or to train; `load` gives the class.

    Example:
        ```python
        class Stochastic(BoundedFakeQuantize):
            choices = {"seed": 0}

            def forward(self, values: Tensor) -> Tensor: ...  # reads self.options["seed"]


        @hookimpl
        def srptq_quantizers():
            return [QuantizerEntry("stochastic", "rounds up as often as not", load=lambda: Stochastic)]
        ```

    A recipe then says `activations: {quantizer: stochastic, quantizer_options: {seed: 3}}`.
    """
    raise NotImplementedError


@hookspec
def srptq_models() -> Iterable[ModelEntry]:
    """Families of networks; `load` gives what `srptq quantize --model` builds and fills from a checkpoint.

    Example:
        ```python
        @hookimpl
        def srptq_models():
            def load():
                from my_package.networks import FAMILY

                return FAMILY

            return [ModelEntry("tiny-sr", "four convolutions and a pixel shuffle", load)]
        ```
    """
    raise NotImplementedError
