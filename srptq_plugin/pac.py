"""PaC, pixel-aware calibration: tune the bounds until the quantized network draws what the float one draws.

Paper: Tu et al., CVPR 2023, section 3.3. Loss (eq. 9): L1 of the outputs, in 8-bit image levels whatever the
network's range, + 5 x the pixel transfer loss of the block outputs. Only bounds learn; those of weights and of
activations take turns, weights first.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from srptq_plugin.contracts import Progress, quiet
from srptq_plugin.errors import SrptqError
from srptq_plugin.graph import PreparedGraph
from srptq_plugin.plan import Role
from srptq_plugin.quantizer import BoundedFakeQuantize, Gradient, Mode
from srptq_plugin.teacher import Teacher, normalised
from srptq_plugin.together import average, gathered

Turn = tuple[Role, ...]
LEVELS = 255
"""Steps of an 8-bit image: the paper's networks, and so its weights of the losses, are in these."""


@dataclass(frozen=True)
class Options:
    """What can be asked of PaC; the defaults are ours, `schedule`, `rates` and `feature_loss` have the paper's."""

    epochs: int = 10
    batch: int = 2
    schedule: Literal["alternating", "joint"] = "alternating"
    rates: Literal["relative", "absolute"] = "relative"
    weight_rate: float = 1e-3
    activation_rate: float = 1e-3
    feature_weight: float = 5.0
    output_weight: float = 1.0
    feature_loss: Literal["sum", "literal"] = "sum"
    gradient: Gradient = "full"
    seed: int = 0

    def turn(self, epoch: int) -> Turn:
        """Whose bounds learn in an epoch."""
        if self.schedule == "joint":
            return ("weight", "activation")
        return ("weight",) if epoch % 2 == 0 else ("activation",)


def reconstruct(
    prepared: PreparedGraph, images: Tensor, *, progress: Progress = quiet, **options: object
) -> Mapping[str, float]:
    """Tune the bounds of an observed graph in place; unlabelled images [N, 3, H, W] are all it takes."""
    try:
        chosen = Options(**options)  # pyright: ignore[reportArgumentType]
    except TypeError as error:
        raise SrptqError(f"reconstruction pac: {error}; choices: {', '.join(vars(Options()))}") from error
    counts = gathered(len(images))
    if len(set(counts)) > 1:
        raise SrptqError(f"reconstruction pac: the processes have {counts} images; give each of them as many")
    with torch.enable_grad():
        return _Tuning(prepared, images, chosen, progress).run()


class _Tuning:
    def __init__(self, prepared: PreparedGraph, images: Tensor, options: Options, progress: Progress) -> None:
        self.prepared, self.images, self.options, self.progress = prepared, images, options, progress
        ends = gathered((float(images.min()), float(images.max())))
        self.levels = LEVELS / max(max(high for _, high in ends) - min(low for low, _ in ends), 1e-30)
        self.steps = options.epochs * math.ceil(len(images) / options.batch)
        prepared.set_mode(Mode.QUANTIZE)
        self.optimizers = {role: self._optimizer(role) for role in ("weight", "activation")}

    def run(self) -> dict[str, float]:
        quantizers = self.prepared.quantizers.values()
        frozen = [p for p in self.prepared.module.parameters() if p.requires_grad and p.dtype != torch.float64]
        with Teacher(self.prepared, self.images, self.options.batch) as self.teacher:
            try:
                for parameter in frozen:
                    parameter.requires_grad_(False)  # noqa: FBT003
                for quantizer in quantizers:
                    quantizer.gradient = self.options.gradient
                return self._keep_the_better()
            finally:
                for quantizer in quantizers:
                    quantizer.release()
                for parameter in frozen:
                    parameter.requires_grad_(True)  # noqa: FBT003

    def _keep_the_better(self) -> dict[str, float]:
        """Tune; go back to the start if the calibration images say that it was better."""
        ratio = self._gradient_ratio()
        start, before = self._snapshot(), self._mean_loss()
        self._tune()
        after = self._mean_loss()
        if not after < before:
            self._restore(start)
        return {
            "loss_before": before,
            "loss_after": min(before, after),
            "steps": self.steps,
            "gradient_ratio": ratio,
        }

    def _optimizer(self, role: Role) -> torch.optim.Adam:
        """Adam over the bounds of one role, each at a rate relative to the range of its site."""
        options = self.options
        rate = options.weight_rate if role == "weight" else options.activation_rate
        groups = [
            {"params": [q.lower, q.upper], "lr": rate * (_range(q) if options.rates == "relative" else 1.0)}
            for q in self.prepared.of_role(role).values()
            if not q.fixed
        ]
        return torch.optim.Adam(groups or [{"params": [torch.zeros(1, requires_grad=True)]}], lr=rate)

    def _tune(self) -> None:
        peaks = {role: [g["lr"] for g in each.param_groups] for role, each in self.optimizers.items()}
        step = 0
        generator = torch.Generator().manual_seed(self.options.seed)
        for epoch in range(self.options.epochs):
            turn = self.options.turn(epoch)
            self._take_turns(turn)
            for chosen in torch.randperm(len(self.images), generator=generator).split(self.options.batch):
                self.progress("tuning", step, self.steps)
                fade = 0.5 * (1 + math.cos(math.pi * step / self.steps))
                for role in turn:
                    for group, peak in zip(self.optimizers[role].param_groups, peaks[role], strict=True):
                        group["lr"] = peak * fade
                self._step(chosen, turn)
                step += 1
        self.progress("tuning", step, self.steps)

    def _take_turns(self, turn: Turn) -> None:
        for role in ("weight", "activation"):
            for quantizer in self.prepared.of_role(role).values():
                learns = role in turn and not quantizer.fixed
                quantizer.release() if learns else quantizer.hold()
                for end in (quantizer.lower, quantizer.upper):
                    end.requires_grad_(learns)

    def _step(self, chosen: Tensor, turn: Turn) -> None:
        for role in turn:
            self.optimizers[role].zero_grad(set_to_none=True)
        self._loss(chosen).backward()
        for role in turn:
            ends = (end for group in self.optimizers[role].param_groups for end in group["params"])
            average(end.grad for end in ends if end.grad is not None)
            self.optimizers[role].step()

    def _loss(self, chosen: Tensor) -> Tensor:
        """Equation 9 on some samples."""
        output, features = self._losses(chosen)
        return self.options.output_weight * output + self.options.feature_weight * features

    def _losses(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Equations 6 and 8 on some samples."""
        output, maps = self.prepared.features(self.images[chosen])
        wanted, targets = self.teacher(chosen)
        distances = [self._distance(each, target) for each, target in zip(maps, targets, strict=True)]
        return self.levels * (output - wanted).abs().mean(), torch.stack(distances).mean()

    def _distance(self, features: Tensor, target: Tensor) -> Tensor:
        """The squared distance of two maps on the unit sphere: 2 - 2 cos."""
        cosine = (normalised(features) * target.flatten(1).to(features.dtype)).sum(1)
        squared = (2 - 2 * cosine).mean()
        return squared / features[0].numel() if self.options.feature_loss == "literal" else squared

    def _mean_loss(self) -> float:
        total = torch.zeros((), dtype=torch.float64, device=self.images.device)
        with torch.no_grad():
            for chosen in torch.arange(len(self.images)).split(16):
                total += self._loss(chosen) * len(chosen)
        average([total])
        return float(total) / len(self.images)

    def _gradient_ratio(self) -> float:
        """How strongly the feature loss pulls, beside the output loss, at the start."""
        self._take_turns(("weight", "activation"))
        parameters = [p for q in self._learning() for p in (q.lower, q.upper)]
        losses = self._losses(torch.arange(min(self.options.batch, len(self.images))))
        norms = [_norm(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)) for loss in losses]
        return self.options.feature_weight * norms[1] / max(norms[0], 1e-30)

    def _learning(self) -> Iterator[BoundedFakeQuantize]:
        return (q for q in self.prepared.quantizers.values() if not q.fixed)

    def _snapshot(self) -> list[Tensor]:
        return [end.detach().clone() for q in self._learning() for end in (q.lower, q.upper)]

    def _restore(self, saved: list[Tensor]) -> None:
        ends = [end for q in self._learning() for end in (q.lower, q.upper)]
        for end, value in zip(ends, saved, strict=True):
            end.data.copy_(value)


def _range(quantizer: BoundedFakeQuantize) -> float:
    return float((quantizer.upper - quantizer.lower).detach().abs().mean())


def _norm(gradients: tuple[Tensor | None, ...]) -> float:
    return math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None))
