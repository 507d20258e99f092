"""PaC, pixel-aware calibration: tune the bounds until the quantized network draws what the float one draws.

Paper: Tu et al., CVPR 2023, section 3.3. Loss (eq. 9): how far the outputs are off, in 8-bit image levels whatever
the network's range, + 5 x the pixel transfer loss of the block outputs. Only bounds learn unless asked otherwise.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.reconstruction.bias_correction import CORRECTED_ON, correct_biases
from srptq_plugin.reconstruction.bounds_selection import choose_bounds
from srptq_plugin.reconstruction.color_augmentation import recolored
from srptq_plugin.reconstruction.cosine import cosines
from srptq_plugin.reconstruction.learning import BOTH, Learning, Rates, Turn, learned_by
from srptq_plugin.reconstruction.pac_options import PacOptions
from srptq_plugin.reconstruction.recompute import RecomputeActivations
from srptq_plugin.reconstruction.sensitivity import block_shares
from srptq_plugin.reconstruction.teacher import Teacher
from srptq_plugin.utils.distributed import all_gather, all_reduce_mean
from srptq_plugin.utils.progress import Progress, quiet

CHOSEN_ON = 16
TINY = 1e-20
REGION = 16
LEVELS = 255
"""Steps of an 8-bit image: the paper's networks, and so its weights of the losses, are in these."""


def reconstruct(
    prepared: PreparedGraph, images: Tensor, *, progress: Progress = quiet, seed: int = 0, **options: object
) -> Mapping[str, float]:
    """Tune the bounds of an observed graph in place; unlabeled images [N, 3, H, W] are all it takes."""
    chosen = PacOptions.parse(options, "reconstruction")
    if all(each.fixed for each in prepared.quantizers.values()):
        raise SrptqError("reconstruction pac: no quantizer here has bounds to tune; set reconstruction to null")
    counts = all_gather(len(images))
    if len(set(counts)) > 1:
        raise SrptqError(f"reconstruction pac: the processes have {counts} images; give each of them as many")
    with torch.enable_grad():
        return _Tuning(prepared, images, chosen, seed, progress).run()


class _Tuning:
    def __init__(
        self, prepared: PreparedGraph, images: Tensor, options: PacOptions, seed: int, progress: Progress
    ) -> None:
        self.prepared, self.options, self.seed, self.progress = prepared, options, seed, progress
        ends = all_gather((float(images.min()), float(images.max())))
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        self.images = recolored(images, low, high, seed) if options.recolor else images
        self.levels = LEVELS / max(high - low, 1e-30)
        self.steps = options.epochs * math.ceil(len(images) / options.batch)
        prepared.set_mode(Mode.QUANTIZE)

    def run(self) -> dict[str, float]:
        with Teacher(self.prepared, self.images, self.options.batch) as self.teacher:
            self.shares = self._shares()
            observed = self._mean_loss()
            after, ratio = self._tuned(self._started(observed))
        return {"loss_before": observed, "loss_after": after, "steps": self.steps, "gradient_ratio": ratio}

    def _started(self, before: float) -> float:
        """Improve the start by the means that need no gradient descent; the loss there."""
        if self.options.start == "image":
            self.progress("choosing bounds", 0, 0)
            before = self._or_back(before, learned_by(self.prepared), self._choose)
        if self.options.bias_correction:
            self.progress("correcting biases", 0, 0)
            before = self._or_back(before, list(self.prepared.biases.values()), self._correct)
        return before

    def _shares(self) -> Tensor:
        """How much each block counts in the feature loss."""
        if self.options.blocks == "equal":
            return torch.ones((), device=self.images.device)
        shares = block_shares(self.prepared, self.images[:CHOSEN_ON], seed=self.seed)
        all_reduce_mean([shares])
        return shares

    def _choose(self) -> None:
        choose_bounds(self.prepared, self.images[:CHOSEN_ON], seed=self.seed)

    def _correct(self) -> None:
        correct_biases(self.prepared, self.images[:CORRECTED_ON])

    def _tuned(self, before: float) -> tuple[float, float]:
        """Tune; the loss afterwards, and how strongly the feature loss pulled beside the output loss at the start."""
        options = self.options
        rates = Rates(options.weight_rate, options.activation_rate, options.rates, options.value_rate)
        with Learning(self.prepared, rates, options.weights) as self.learning:
            for quantizer in self.prepared.quantizers.values():
                quantizer.gradient = options.gradient
            ratio = self._gradient_ratio()
            return self._or_back(before, self.learning.learned, self._tune), ratio

    def _or_back(self, before: float, changed: Sequence[nn.Parameter], change: Callable[[], None]) -> float:
        """The loss after a change, or before it where the calibration images say that it was better."""
        start = [each.detach().clone() for each in changed]
        change()
        after = self._mean_loss()
        if after < before:
            return after
        for each, value in zip(changed, start, strict=True):
            each.data.copy_(value)
        return before

    def _tune(self) -> None:
        step = 0
        roles: Turn = tuple(role for role in BOTH if self.prepared.of_role(role))
        generator = torch.Generator().manual_seed(self.seed)
        for epoch in range(self.options.epochs):
            turn = self.options.turn(epoch, roles)
            self.learning.take_turns(turn)
            for chosen in torch.randperm(len(self.images), generator=generator).split(self.options.batch):
                self.progress("tuning", step, self.steps)
                self.learning.step(self._loss(chosen), turn, 0.5 * (1 + math.cos(math.pi * step / self.steps)))
                step += 1
        self.progress("tuning", step, self.steps)

    def _loss(self, chosen: Tensor) -> Tensor:
        """Equation 9 on some samples."""
        output, features = self._losses(chosen)
        return self.options.output_weight * output + self.options.feature_weight * features

    def _losses(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Equations 6 and 8 on some samples."""
        with RecomputeActivations(self.prepared):
            output, maps = self.prepared.features(self.images[chosen])
        wanted, targets = self.teacher(chosen)
        distances = [self._distance(each, target) for each, target in zip(maps, targets, strict=True)]
        return self._off(output - wanted), (self.shares * torch.stack(distances)).mean()

    def _off(self, error: Tensor) -> Tensor:
        """How far the image is off in levels: on average, or in the root mean square of a sample, which PSNR sees.

        Regions count on top: what a few of them are off by hardly shows in the mean, but is seen in every even area.
        """
        regions = avg_pool2d(error, min(REGION, *error.shape[2:]))
        off = error.abs().mean() if self.options.output_loss == "l1" else _root_mean_square(error)
        return self.levels * (off + self.options.region_weight * _root_mean_square(regions))

    def _distance(self, features: Tensor, target: Tensor) -> Tensor:
        """Return how far two maps are apart on the unit sphere: squared, 2 - 2 cos, or as equation (8) is printed."""
        squared = 2 - 2 * cosines(features, target)
        if self.options.feature_loss == "sum":
            return squared.mean()
        return squared.clamp(min=0).add(TINY).sqrt().mean() / target.shape[1]

    def _mean_loss(self) -> float:
        total = torch.zeros((), dtype=torch.float64, device=self.images.device)
        with torch.no_grad():
            for chosen in torch.arange(len(self.images)).split(self.options.batch):
                total += self._loss(chosen) * len(chosen)
        all_reduce_mean([total])
        return float(total) / len(self.images)

    def _gradient_ratio(self) -> float:
        self.learning.take_turns(BOTH)
        parameters, some = learned_by(self.prepared), torch.arange(min(self.options.batch, len(self.images)))
        norms = [_norm(torch.autograd.grad(self._losses(some)[n], parameters, allow_unused=True)) for n in range(2)]
        return self.options.feature_weight * norms[1] / max(norms[0], 1e-30)


def _root_mean_square(error: Tensor) -> Tensor:
    """Of each sample, on average."""
    return error.square().flatten(1).mean(1).add(TINY).sqrt().mean()


def _norm(gradients: tuple[Tensor | None, ...]) -> float:
    return math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None))
