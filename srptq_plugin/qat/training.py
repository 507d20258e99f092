"""Training a prepared graph: weights, biases and bounds learn together, from where calibration left them.

Without labels the float network is the teacher. What is kept is that running average of all that learns which
validated best, the start among them.
"""

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import Features, PreparedGraph
from srptq_plugin.qat.batches import Batch
from srptq_plugin.qat.pams import transfer_loss
from srptq_plugin.qat.rounding_distance import moved
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.reconstruction.learning import BOTH, Learning, Rates
from srptq_plugin.utils.distributed import all_reduce_mean
from srptq_plugin.utils.progress import Progress, quiet

LEVELS = 255


@dataclass(frozen=True)
class TrainingOptions:
    """How to train. Rates are shares: of a site's range for bounds, of a weight's step for weights.

    `transfer`: the weight of PAMS's structured knowledge transfer, on the output of the last block. `calibration`: the
    weight of FQSR's calibration loss, summed over quantizers, in the network's own units (the paper has 0.3). `clip`:
    gradients longer than so many times their running mean are shortened to that. `every`: steps between two
    validations, each of which writes a checkpoint.
    """

    steps: int = 1000
    bound_rate: float = 3e-4
    value_rate: float = 0.01
    loss: Literal["l1", "rms"] = "l1"
    transfer: float = 0.0
    calibration: float = 0.0
    average: float = 0.999
    clip: float = 3.0
    every: int = 100

    def share(self, step: int) -> float:
        """A short warm-up, then a cosine to nothing."""
        warm = min(1.0, (step + 1) / (1 + self.steps // 50))
        return warm * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class Validation:
    """How good the running averages are after a step, and the mean loss of the steps before it."""

    step: int
    psnr: float
    loss: float | None


def validation_of(record: Mapping[str, Any]) -> Validation:
    """One of those that a checkpoint keeps.

    >>> validation_of({"step": 100, "psnr": 31.5, "loss": None})
    Validation(step=100, psnr=31.5, loss=None)
    """
    loss = record["loss"]
    return Validation(int(record["step"]), float(record["psnr"]), None if loss is None else float(loss))


class Training:
    """All that changes while a graph is trained; saved and restored as one."""

    def __init__(self, prepared: PreparedGraph, options: TrainingOptions, peak: float) -> None:
        self.prepared, self.options, self.levels = prepared, options, LEVELS / peak
        rates = Rates(options.bound_rate, options.bound_rate, "relative", options.value_rate)
        prepared.set_mode(Mode.QUANTIZE)
        self.learning = Learning(prepared, rates, "free")
        self.learned: list[nn.Parameter] = self.learning.learned
        self.average = [each.detach().clone() for each in self.learned]
        self.counted = [each for q in prepared.quantizers.values() for each in q.buffers()]
        self.best, self.score = [each.clone() for each in (*self.average, *self.counted)], -math.inf
        self.done, self.usual = 0, 0.0

    def step(self, batch: Batch) -> float:
        """One step; how far the image was off before it, in levels."""
        for quantizer in self.prepared.quantizers.values():
            quantizer.train()
            quantizer.on_progress(self.done / self.options.steps)
        loss = self._loss(batch)
        if not torch.isfinite(loss):
            self.finish()
            raise SrptqError(
                f"training: the loss of step {self.done + 1} is {float(loss.detach())}; lower value_rate or bound_rate"
            )
        self.learning.step(loss, BOTH, self.options.share(self.done), self._shorten)
        all_reduce_mean(each for each in self.counted if each.is_floating_point())
        self.done += 1
        kept = min(self.options.average, self.done / (self.done + 10))
        for mean, each in zip(self.average, self.learned, strict=True):
            mean.lerp_(each.detach(), 1 - kept)
        return float(loss.detach())

    def _loss(self, batch: Batch) -> Tensor:
        low, high = batch
        output, maps, moves = self._forward(low)
        taught: Features = self.prepared.float_forward(low) if high is None or self.options.transfer else (output, maps)
        error = self.levels * (output - (taught[0] if high is None else high))
        loss = error.abs().mean() if self.options.loss == "l1" else error.square().mean().sqrt()
        loss = loss + self.options.calibration * self.levels * moves
        loss = sum(
            (pull for each in self.prepared.quantizers.values() if (pull := each.auxiliary_loss()) is not None), loss
        )
        if self.options.transfer:
            loss = loss + self.options.transfer * transfer_loss(maps[-1], taught[1][-1])
        return loss

    def _forward(self, low: Tensor) -> tuple[*Features, Tensor | float]:
        """The output, the blocks' outputs and, where it is asked for, how far quantizers move what they round."""
        if not self.options.calibration:
            return *self.prepared.features(low), 0.0
        with moved(self.prepared.quantizers.values()) as terms:
            found = self.prepared.features(low)
        return *found, torch.stack(terms).sum()

    def _shorten(self, learned: list[Tensor]) -> None:
        """Shorten gradients that are unusually long."""
        longest = self.options.clip * self.usual if self.done else math.inf
        norm = float(nn.utils.clip_grad_norm_(learned, longest))
        seen = min(self.done, 50)
        self.usual = (seen * self.usual + min(norm, longest)) / (seen + 1)

    @contextmanager
    def averaged(self) -> Generator[None]:
        """The graph with the running averages in place, for a while."""
        now = [each.detach().clone() for each in self.learned]
        for quantizer in self.prepared.quantizers.values():
            quantizer.eval()
        self._put(self.average)
        try:
            yield
        finally:
            self._put(now)

    def validated(self, score: float) -> None:
        """Remember the running averages if they are the best so far."""
        if score > self.score:
            self.best, self.score = [each.clone() for each in (*self.average, *self.counted)], score

    def finish(self) -> None:
        """Leave the best of the running averages in place."""
        self._put(self.best)

    def _put(self, values: Sequence[Tensor]) -> None:
        """Set what learns and, where their values are given as well, what is counted on the way."""
        for each, value in zip((*self.learned, *self.counted), values, strict=False):
            each.data.copy_(value)

    def state(self) -> dict[str, Any]:
        """Everything that resuming needs."""
        learned = [each.detach().clone() for each in self.learned]
        state = {"learned": [*learned, *self.counted], "average": self.average, "best": self.best}
        numbers = {"done": self.done, "usual": self.usual, "score": self.score, "options": vars(self.options)}
        return {**state, **numbers, "optimizers": self.learning.state()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` gave."""
        both = [*self.learned, *self.counted]
        alike = (
            _alike(state["learned"], both) and _alike(state["best"], both) and _alike(state["average"], self.learned)
        )
        done = int(state["done"])
        if state["options"] != vars(self.options) or not alike or not 0 <= done <= self.options.steps:
            raise SrptqError(
                "the checkpoint is of another training; resume with the same recipe and run, or start anew"
            )
        self.usual, self.score = float(state["usual"]), float(state["score"])
        self._put(state["learned"])
        self.average, self.best = (_moved(state[key], both) for key in ("average", "best"))
        self.learning.restore(state["optimizers"])
        self.done = done


def train(
    training: Training,
    batches: Callable[[int], Batch],
    validate: Callable[[PreparedGraph], float],
    progress: Progress = quiet,
) -> Iterator[Validation]:
    """Train to the end; a record of each validation, after which the caller may save `training.state()`."""
    losses: list[float] = []
    total = training.options.steps
    with training.learning:
        training.learning.take_turns(BOTH)
        if training.done == 0:
            yield _validated(training, validate, losses)
        while training.done < total:
            progress("training", training.done, total)
            with torch.enable_grad():
                losses.append(training.step(batches(training.done)))
            if training.done % training.options.every == 0 or training.done == total:
                yield _validated(training, validate, losses)
        progress("training", total, total)
        training.finish()


def _validated(training: Training, validate: Callable[[PreparedGraph], float], losses: list[float]) -> Validation:
    with training.averaged(), torch.no_grad():
        score = torch.tensor(validate(training.prepared), dtype=torch.float64)
    all_reduce_mean([score])
    training.validated(float(score))
    loss = sum(losses) / len(losses) if losses else None
    losses.clear()
    return Validation(training.done, float(score), loss)


def _moved(values: Sequence[Tensor], to: Sequence[Tensor]) -> list[Tensor]:
    """Copies, each on the device of another tensor."""
    return [value.to(each.device, copy=True) for value, each in zip(values, to, strict=False)]


def _alike(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> bool:
    """Whether tensors have the shapes and types of others, and hold numbers."""
    pairs = list(zip(found, wanted, strict=False))
    same = all(one.shape == other.shape and one.dtype == other.dtype for one, other in pairs)
    return len(found) == len(wanted) and same and all(bool(torch.isfinite(each).all()) for each in found)
