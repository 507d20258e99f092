"""The search for the cheapest plan that holds a limit on the drop: write a run, judge it, choose a finer plan."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from srptq_plugin.accuracy.drop_model import DropModel, Point, next_share
from srptq_plugin.accuracy.finer_plans import Choice, FinerPlan, FinerPlans
from srptq_plugin.accuracy.judge import DropLimit, Judge
from srptq_plugin.accuracy.options import OptionFinder
from srptq_plugin.accuracy.words import describe
from srptq_plugin.analysis.site_noise import estimate_noise
from srptq_plugin.analysis.subject import PATCHES, Subject
from srptq_plugin.costs.cost import Costs
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph.network import Network
from srptq_plugin.plugins.bound_recipe import BoundRecipe
from srptq_plugin.runs.run import Run
from srptq_plugin.runs.verify import integer_convs
from srptq_plugin.utils.timing import Clock

logger = logging.getLogger(__name__)
PLANS = 8
"""The most plans that are tried."""
GAIN = 0.01
"""The price, as a share of the float network's multiplications, below which a cheaper plan is not looked for."""
Quantize = Callable[[BoundRecipe | None, Path], Run]
"""Writes a run into a folder: by another recipe, or by the one that the run is for."""


@dataclass(frozen=True)
class Trial:
    """A plan that was calibrated, written and judged."""

    folder: Path
    choice: Choice
    expected: float
    """The share of the first plan's noise that was expected."""
    psnr: tuple[float, ...]
    """The PSNR of each image."""
    drop: float
    integer_macs: float
    """The share of the multiplications that run in integers."""
    bops: float
    """The BitOPs as a share of the float network's."""
    speedup: float | None
    seconds: float

    def record(self) -> dict[str, Any]:
        """Return an object for JSON."""
        return {
            "left_float": list(self.choice.floats),
            "bits": dict(self.choice.bits),
            "price": round(self.choice.price, 4),
            "integer_macs": round(self.integer_macs, 4),
            "bops": round(self.bops, 4),
            "expected_noise": round(self.expected, 4),
            "psnr": round(fmean(self.psnr), 4),
            "drop": round(self.drop, 4),
            "speedup": self.speedup,
            "seconds": round(self.seconds, 1),
        }


@dataclass
class DropControl:
    """Tries plans in folders of their own until the cheapest one that holds the limit is known."""

    limit: DropLimit
    judge: Judge
    patches: Tensor
    quantize: Quantize
    draft: Path
    trials: list[Trial] = field(default_factory=list[Trial])
    judged_in: str = ""

    def run(self) -> Trial:
        """Return the cheapest plan that holds the limit. Raise SrptqError if no plan does."""
        plan: FinerPlan | None = None
        while len(self.trials) < PLANS and (plan or not self.trials):
            self._try(plan)
            plan = self._next()
        held = self._held()
        if not held:
            raise SrptqError(self._failure())
        return min(held, key=lambda trial: (trial.choice.price, trial.drop))

    def record(self, chosen: Trial) -> Mapping[str, Any]:
        """Return the search for the summary: the limit, how it was judged, every plan, and the one that was chosen."""
        return {
            "limit": self.limit.drop,
            "drop": round(chosen.drop, 4),
            "data": self.judge.data,
            "images": len(self.judge.pairs),
            "judged_in": self.judged_in,
            "float_psnr": round(fmean(self._plain), 4),
            "plans": [trial.record() for trial in self.trials],
            "chosen": self.trials.index(chosen),
        }

    def _try(self, plan: FinerPlan | None) -> None:
        """Write a run, judge it, and say what it reached."""
        folder, clock = self.draft / f"plan-{len(self.trials) + 1}", Clock()
        folder.mkdir()
        with clock("plan"):
            run = self.quantize(plan.bound if plan else None, folder)
            if not self.trials:
                self._first = run
            self.judged_in, psnr = self.judge.score(run)
        drop = fmean(self._plain) - fmean(psnr)
        choice, expected = (plan.choice, plan.share) if plan else (Choice(), 1.0)
        seconds, speedup = clock.seconds["plan"], run.summary["verify"]["speedup"]
        trial = Trial(folder, choice, expected, tuple(psnr), drop, *self._shares(run), speedup, seconds)
        self.trials.append(trial)
        logger.info("plan %d: %s", len(self.trials), describe(trial.record()))

    def _next(self) -> FinerPlan | None:
        """Return the next plan to try, or None if there is none, or none that would be worth it."""
        held = self._held()
        if self.trials[0] in held:
            return None
        share = next_share(list(self._points()), self._model.share(self.limit.drop))
        plan = self._plans.within(share)
        tried = plan is None or plan.choice in [trial.choice for trial in self.trials]
        if plan is None or (tried and held):
            return None
        if tried:  # the limit needs less noise than expected
            plan = self._plans.within(0.0)
            return None if plan is None or plan.choice in [trial.choice for trial in self.trials] else plan
        worth = not held or min(trial.choice.price for trial in held) - plan.choice.price >= GAIN
        return plan if worth else None

    def _held(self) -> Sequence[Trial]:
        return [trial for trial in self.trials if trial.drop <= self.limit.drop]

    def _points(self) -> Iterator[Point]:
        for trial in self.trials:
            yield Point(trial.expected, self._model.share(trial.drop))

    @cached_property
    def _plain(self) -> Sequence[float]:
        """The PSNR of the float network for each image."""
        return self.judge.score_float(self._first)

    @cached_property
    def _model(self) -> DropModel:
        return DropModel.of(self._plain, self.trials[0].psnr)

    @cached_property
    def _plans(self) -> FinerPlans:
        """The finer plans, by the noise of the first run's tensors."""
        run = self._first
        self.judge.progress("estimating the noise of tensors", 0, 0)
        bound, network = BoundRecipe.of(run.recipe, run.registry), Network(run.network)
        subject = Subject(run.network, run.table, run.record, self.patches[:PATCHES])
        finder = OptionFinder(bound, network, run.table.plan, run.input_range, self._costs)
        return FinerPlans(finder, finder.find(estimate_noise(subject, weights=True)))

    @cached_property
    def _costs(self) -> Costs:
        """The costs of the network, which all plans have in common."""
        channels, height, width = self.patches.shape[1:]
        return Costs.of(Network(self._first.network), (1, channels, height, width))

    def _shares(self, run: Run) -> tuple[float, float]:
        """Return the share of the multiplications that run in integers, and the BitOPs as a share of float's."""
        costs, plan = self._costs, run.table.plan
        planned = set(integer_convs(plan, run.rules))
        macs = sum(layer.macs for layer in costs.layers if layer.name in planned)
        return macs / max(costs.macs, 1), costs.bops(plan) / max(costs.bops(), 1)

    def _failure(self) -> str:
        best, recipe = min(self.trials, key=lambda trial: trial.drop), self._first.recipe.name
        return (
            f"`max_drop={self.limit.drop:g}`: no plan of recipe {recipe} holds it on {self.judge.data}, in "
            f"{self.judged_in}; the best of {len(self.trials)}: {describe(best.record())}; "
            "allow as much, or take a recipe that tunes"
        )
