"""Training a prepared graph: weights, biases and bounds learn together, from where calibration left them.

Without labels the float network is the teacher. The result is the best running average of all parameters that learn, by
validation. The start is a candidate too, so training never ends below it.
"""

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import Features, PreparedGraph
from srptq_plugin.qat.batches import Batch
from srptq_plugin.qat.pams import transfer_loss
from srptq_plugin.qat.rounding_distance import collect_distances
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.recipes.schema import TrainingSettings
from srptq_plugin.reconstruction.learning import BOTH, Learning, Rates
from srptq_plugin.utils.distributed import all_reduce_mean
from srptq_plugin.utils.progress import Progress, quiet

LEVELS = 255
"""Losses are in levels of 8-bit pixels, whatever the range of the network."""


def rate_share(options: TrainingSettings, done: int) -> float:
    """Return the share of each learning rate after some steps: a warm-up times the schedule.

    >>> [round(rate_share(TrainingSettings(steps=100), done), 2) for done in (0, 2, 50)]
    [0.33, 1.0, 0.5]
    """
    # The sum makes up for shares that binary fractions cannot hold: 2 % of 1150 steps are 23, not 22.999.
    rising = math.floor(options.warm_up * options.steps + 1e-9)
    warm = min(1.0, (done + 1) / (1 + rising))
    if options.schedule == "cosine":
        return warm * 0.5 * (1 + math.cos(math.pi * done / options.steps))
    return warm if options.schedule == "constant" else warm * 0.5 ** (done // options.halve_every)


def resolve_epochs(settings: TrainingSettings, images: int) -> TrainingSettings:
    """Return settings with the steps of their epochs over so many images, unless they have no epochs.

    >>> resolve_epochs(TrainingSettings(epochs=3, batch=8), images=20).steps
    9
    """
    if settings.epochs is None:
        return settings
    return settings.model_copy(update={"steps": settings.epochs * math.ceil(images / settings.batch)})


@dataclass(frozen=True)
class Validation:
    """The score of the running averages after a step, and the mean loss since the validation before."""

    step: int
    psnr: float
    loss: float | None


def validation_of(record: Mapping[str, Any]) -> Validation:
    """Read a validation from the log in a checkpoint.

    >>> validation_of({"step": 100, "psnr": 31.5, "loss": None})
    Validation(step=100, psnr=31.5, loss=None)
    """
    loss = record["loss"]
    return Validation(int(record["step"]), float(record["psnr"]), None if loss is None else float(loss))


class Training:
    """The state of a training: parameters, averages and optimizers, saved and restored together.

    Attributes:
        learned: the parameters that learn.
        counted: the buffers of quantizers, which change on the way but do not learn.
        average: the running averages of `learned`.
        best: the best `average` so far, followed by `counted` at that step.
        score: the validation score of `best`.
        done: the steps that are done.
        usual: the running mean of the gradient's norm.
    """

    def __init__(self, prepared: PreparedGraph, options: TrainingSettings, peak: float) -> None:
        self.prepared, self.options, self.levels = prepared, options, LEVELS / peak
        rates = Rates(
            options.bound_rate,
            options.bound_rate,
            options.rates,
            options.value_rate,
            level=1 / self.levels,
            absolute_values=options.rates == "absolute",
        )
        prepared.set_mode(Mode.QUANTIZE)
        self.learning = Learning(prepared, rates, "free")
        self.learned: list[nn.Parameter] = self.learning.learned
        self.average = [parameter.detach().clone() for parameter in self.learned]
        self.counted = [buffer for q in prepared.quantizers.values() for buffer in q.buffers()]
        # Any score beats this one, so the validation before the first step makes the start a candidate.
        self.best, self.score = self._copy_average(), -math.inf
        self.done, self.usual = 0, 0.0

    def step(self, batch: Batch) -> float:
        """Take one step. Return its loss, in levels."""
        for quantizer in self.prepared.quantizers.values():
            quantizer.train()
            quantizer.on_progress(self.done / self.options.steps)
        loss = self._loss(batch)
        if not torch.isfinite(loss):
            self.finish()
            raise SrptqError(
                f"training: the loss of step {self.done + 1} is {float(loss.detach())}; lower value_rate or bound_rate"
            )
        self.learning.step(loss, BOTH, rate_share(self.options, self.done), self._shorten)
        # Gradients are averaged in `Learning.step`. Statistics, as in batch norms, differ by process until now.
        all_reduce_mean(buffer for buffer in self.counted if buffer.is_floating_point())
        self.done += 1
        # A shorter memory in the first steps, or the averages would stay close to the start for too long.
        decay = min(self.options.average, self.done / (self.done + 10))
        for mean, parameter in zip(self.average, self.learned, strict=True):
            mean.lerp_(parameter.detach(), 1 - decay)
        return float(loss.detach())

    def _loss(self, batch: Batch) -> Tensor:
        low, high = batch
        output, maps, moves = self._forward(low)
        needs_teacher = high is None or self.options.transfer
        teacher: Features = self.prepared.float_forward(low) if needs_teacher else (output, maps)
        error = self.levels * (output - (teacher[0] if high is None else high))
        loss = error.abs().mean() if self.options.loss == "l1" else error.square().mean().sqrt()
        loss = loss + self.options.calibration * self.levels * moves
        for quantizer in self.prepared.quantizers.values():
            auxiliary = quantizer.auxiliary_loss()
            if auxiliary is not None:
                loss = loss + auxiliary
        if self.options.transfer:
            loss = loss + self.options.transfer * transfer_loss(maps[-1], teacher[1][-1])
        return loss

    def _forward(self, low: Tensor) -> tuple[*Features, Tensor | float]:
        """Return the output, the blocks' outputs and, for FQSR's loss, how far quantizers move values in sum."""
        if not self.options.calibration:
            return *self.prepared.features(low), 0.0
        with collect_distances(self.prepared.quantizers.values()) as terms:
            features = self.prepared.features(low)
        return *features, torch.stack(terms).sum()

    def _shorten(self, learned: list[Tensor]) -> None:
        """Shorten a gradient that is unusually long."""
        longest = self.options.clip * self.usual if self.done else math.inf
        norm = float(nn.utils.clip_grad_norm_(learned, longest))
        # A mean over the first 50 steps, then exponential. Outliers count with their shortened length.
        seen = min(self.done, 50)
        self.usual = (seen * self.usual + min(norm, longest)) / (seen + 1)

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Put the running averages in place, and quantizers in eval mode. On exit the parameters return."""
        current = [parameter.detach().clone() for parameter in self.learned]
        for quantizer in self.prepared.quantizers.values():
            quantizer.eval()
        self._put(self.average)
        try:
            yield
        finally:
            self._put(current)

    def keep_best(self, score: float) -> None:
        """Keep a copy of the running averages if their score is the best so far."""
        if score > self.score:
            self.best, self.score = self._copy_average(), score

    def _copy_average(self) -> list[Tensor]:
        return [tensor.clone() for tensor in (*self.average, *self.counted)]

    def finish(self) -> None:
        """Put the best running averages in place."""
        self._put(self.best)

    def _put(self, values: Sequence[Tensor]) -> None:
        """Set the parameters and, if there are values for them as well, the buffers."""
        # `average` has values for parameters only, and the zip ends there. Setting `.data` leaves optimizers in place.
        for tensor, value in zip((*self.learned, *self.counted), values, strict=False):
            tensor.data.copy_(value)

    def state(self) -> dict[str, Any]:
        """Return all that `resume` needs: tensors, numbers and plain containers."""
        learned = [parameter.detach().clone() for parameter in self.learned]
        state = {"learned": [*learned, *self.counted], "average": self.average, "best": self.best}
        numbers = {"done": self.done, "usual": self.usual, "score": self.score, "options": vars(self.options)}
        return {**state, **numbers, "optimizers": self.learning.state()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned.

        Raises:
            SrptqError: the state is from a training with other options or another network. Nothing has changed then.
        """
        both = [*self.learned, *self.counted]
        fits = _fit(state["learned"], both) and _fit(state["best"], both) and _fit(state["average"], self.learned)
        done = int(state["done"])
        if state["options"] != vars(self.options) or not fits or not 0 <= done <= self.options.steps:
            raise SrptqError(
                "the checkpoint is of another training; resume with the same recipe and run, or start again"
            )
        self.usual, self.score = float(state["usual"]), float(state["score"])
        self._put(state["learned"])
        self.average, self.best = _copy_to_devices(state["average"], both), _copy_to_devices(state["best"], both)
        self.learning.restore(state["optimizers"])
        self.done = done


def train(
    training: Training,
    batches: Callable[[int], Batch],
    validate: Callable[[PreparedGraph], float],
    progress: Progress = quiet,
) -> Iterator[Validation]:
    """Train to the end, from the beginning or from a resumed state.

    Yields each validation. After each the caller may save `training.state()`.

    Args:
        batches: gives the batch of a step.
        validate: returns the score of a graph, greater being better.
        progress: called before each step.
    """
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
    training.keep_best(float(score))
    loss = sum(losses) / len(losses) if losses else None
    losses.clear()
    return Validation(training.done, float(score), loss)


def _copy_to_devices(values: Sequence[Tensor], like: Sequence[Tensor]) -> list[Tensor]:
    """Copy each tensor to the device of its counterpart. There may be more counterparts."""
    return [value.to(other.device, copy=True) for value, other in zip(values, like, strict=False)]


def _fit(saved: Sequence[Tensor], current: Sequence[Tensor]) -> bool:
    """Compare numbers of tensors, shapes and types. False also for NaN or infinity."""
    if len(saved) != len(current):
        return False
    same = all(old.shape == new.shape and old.dtype == new.dtype for old, new in zip(saved, current, strict=True))
    return same and all(bool(torch.isfinite(tensor).all()) for tensor in saved)
