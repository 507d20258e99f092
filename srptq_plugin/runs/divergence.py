"""Simulation and runtime compared at every site inside the network: where they part, and by how many levels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.types import Array, Reals
from srptq_plugin.planning.plan import Site
from srptq_plugin.planning.prepared_graph import PreparedGraph, site_number
from srptq_plugin.plugins.protocols import Inspectable
from srptq_plugin.runs.run import Run
from srptq_plugin.utils.progress import Progress, quiet

Levels = np.ndarray[Any, np.dtype[np.int64]]
Meet = Callable[[Site, Tensor], Tensor]
"""Takes the tensor behind a quantizer, and returns the tensor that its readers get."""


@dataclass(frozen=True)
class Difference:
    """The values of a tensor whose levels differ: how many, and by how many levels at most."""

    values: int = 0
    most: int = 0

    def joined(self, levels: Levels) -> "Difference":
        """Count the differences of another tensor as well."""
        return Difference(
            self.values + int(np.count_nonzero(levels)), max(self.most, int(np.abs(levels).max(initial=0)))
        )


@dataclass(frozen=True)
class SiteDifference:
    """The difference of simulation and runtime at one site.

    Attributes:
        name: The name of the site.
        stage: Its stage.
        values: The number of values compared.
        own: The difference that the operations before this site make, from the same integers at their inputs.
        whole: The difference with all that came before, which every convolution spreads.
    """

    name: str
    stage: str
    values: int = 0
    own: Difference = Difference()
    whole: Difference = Difference()


@dataclass(frozen=True)
class Divergence:
    """The differences of all sites in the order of the network.

    Attributes:
        sites: The sites that the runtime hands out.
        unseen: The names of activations that it does not hand out.
        undisturbed: Whether the output is the same, to the last bit, as without handing out tensors.
    """

    sites: Sequence[SiteDifference]
    unseen: Sequence[str]
    undisturbed: bool

    @property
    def first(self) -> SiteDifference | None:
        """The first site at which simulation and runtime differ, or None."""
        return next((site for site in self.sites if site.whole.values), None)

    def record(self) -> dict[str, Any]:
        """Return one object for JSON."""
        return asdict(self)


def why_not(run: Run) -> str:
    """Return why a run cannot be compared inside, or "" if it can."""
    if not run.artifacts:
        return "nothing was exported: the run is a simulation"
    if not isinstance(run.target, Inspectable):
        return f"the runtime of {run.recipe.target} hands out no tensors between its operations"
    return ""


def find_divergence(run: Run, images: Sequence[Array], progress: Progress = quiet) -> Divergence:
    """Compare every site on images. The run must be one that `why_not` has nothing against.

    Args:
        run: The run.
        images: At least one, [1, channels, height, width] in the network's range.
        progress: A callback for progress.
    """
    if reason := why_not(run):
        raise SrptqError(f"{run.folder}: {reason}; give a run for onnxruntime or openvino")
    target: Any = run.target
    runtime, inspection = target.load(run.artifacts[0]), target.inspect(run.artifacts, run.table)
    simulation = _Watched(run)
    sites: dict[str, SiteDifference] = {}
    undisturbed, tensors = True, dict[str, Reals]()
    for done, image in enumerate(images):
        progress("comparing sites", done, len(images))
        output, tensors = inspection(image)
        undisturbed &= np.array_equal(output, runtime(image))
        for name, difference in simulation.differences(image, tensors).items():
            sites[name] = _joined(sites.get(name), difference)
    progress("comparing sites", len(images), len(images))
    # a repeated site holds values that were compared before they moved
    activations = [site.name for site in run.table.plan.sites if site.role == "activation" and not site.repeats]
    return Divergence(list(sites.values()), [name for name in activations if name not in tensors], undisturbed)


def _joined(first: SiteDifference | None, second: SiteDifference) -> SiteDifference:
    if first is None:
        return second
    pairs = (first.own, second.own), (first.whole, second.whole)
    own, whole = (Difference(a.values + b.values, max(a.most, b.most)) for a, b in pairs)
    return SiteDifference(first.name, first.stage, first.values + second.values, own, whole)


class _Watched(fx.Interpreter):
    """The simulation, interrupted behind the quantizer of every site.

    It computes in double precision, as integer kernels sum exactly, or in single if the network cannot run in double.
    """

    def __init__(self, run: Run) -> None:
        self._run, self._kind = run, torch.float64
        self._sites = {site_number(number): site for number, site in enumerate(run.table.plan.sites)}
        self._meet: Meet = _pass_on
        self._start(run.simulated(double=True))

    def _start(self, simulated: PreparedGraph) -> None:
        super().__init__(simulated.capture)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module. Let the reader of a site's tensor meet another one."""
        output = super().call_module(target, args, kwargs)
        site = self._sites.get(str(target))
        return output if site is None or site.role == "weight" else self._meet(site, output)

    def differences(self, image: Array, tensors: Mapping[str, Reals]) -> dict[str, SiteDifference]:
        """Compare the tensors of the runtime, by site, with the simulation's on the same image."""
        whole = self._levels(image, tensors, replaced=False)
        own = self._levels(image, tensors, replaced=True)
        sites = {site.name: site for site in self._sites.values()}
        return {
            name: SiteDifference(
                name, sites[name].stage, levels.size, Difference().joined(own[name]), Difference().joined(levels)
            )
            for name, levels in whole.items()
        }

    def _levels(self, image: Array, tensors: Mapping[str, Reals], *, replaced: bool) -> dict[str, Levels]:
        """Return the difference in levels by site, in the order of the network.

        Args:
            image: The image.
            tensors: The runtime's tensors.
            replaced: Whether readers get the runtime's tensor in place of the simulation's.
        """
        levels: dict[str, Levels] = {}

        def meet(site: Site, simulated: Tensor) -> Tensor:
            if site.name not in tensors:
                return simulated
            measured = torch.from_numpy(tensors[site.name])
            scale = float(self._run.table.qparams[site.name].scale)
            levels[site.name] = ((measured - simulated.double()) / scale).round().long().numpy()
            return measured.to(simulated.dtype) if replaced else simulated

        self._meet = meet
        self._run_once(image)
        return levels

    def _run_once(self, image: Array) -> None:
        try:
            with torch.no_grad():
                self.run(torch.from_numpy(image).to(self._kind))
        except RuntimeError:
            if self._kind == torch.float32:
                raise
            # the network holds constants in single precision
            self._kind = torch.float32
            self._start(self._run.simulated())
            self._run_once(image)


def _pass_on(_site: Site, tensor: Tensor) -> Tensor:
    return tensor
