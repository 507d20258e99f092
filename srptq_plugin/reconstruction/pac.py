"""PaC, pixel-aware calibration: tunes bounds so that the quantized network's images match the float network's.

Paper: Tu et al., CVPR 2023, section 3.3. The loss (eq. 9) is the error of the outputs, in 8-bit image levels for any
input range, plus 5 times the pixel transfer loss of the block outputs. By default only bounds learn.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.quantization.quantizer import Mode
from srptq_plugin.reconstruction.bias_correction import CORRECTED_ON, correct_biases
from srptq_plugin.reconstruction.bounds_selection import choose_bounds
from srptq_plugin.reconstruction.color_augmentation import recolor
from srptq_plugin.reconstruction.cosine import cosines
from srptq_plugin.reconstruction.learning import BOTH, Learning, Rates, Turn, learned_bounds
from srptq_plugin.reconstruction.pac_options import PacOptions
from srptq_plugin.reconstruction.pac_state import Begun, Saving
from srptq_plugin.reconstruction.recompute import RecomputeActivations
from srptq_plugin.reconstruction.sensitivity import block_shares
from srptq_plugin.reconstruction.teacher import Teacher
from srptq_plugin.utils.checkpoint import Checkpoint
from srptq_plugin.utils.distributed import all_gather, all_reduce_mean, world_size
from srptq_plugin.utils.progress import Progress, quiet

CHOSEN_ON = 16
"""The number of images on which bounds are chosen and blocks are weighed."""
TINY = 1e-20
"""Added under a square root, whose derivative at 0 is infinite."""
REGION = 16
"""The side of a region in pixels."""
LEVELS = 255
"""Steps of an 8-bit image. The paper's networks have this range, and its weights of the losses hold for it."""


def reconstruct(
    prepared: PreparedGraph,
    images: Tensor,
    *,
    progress: Progress = quiet,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    **options: object,
) -> Mapping[str, float]:
    """Tune the bounds of an observed graph in place.

    Args:
        prepared: An observed graph.
        images: Unlabeled calibration images, [N, 3, H, W].
        progress: Called before each step.
        seed: The seed of the order of images and of their colors.
        checkpoint: Where the state is saved from time to time. If it holds one, the tuning goes on from it.
        options: The fields of `PacOptions`.

    Returns:
        The loss before and after, the number of steps, and the gradient norm of the weighted feature loss relative to
        the output loss.
    """
    chosen = PacOptions.parse(options, "reconstruction")
    if all(quantizer.fixed for quantizer in prepared.quantizers.values()):
        raise SrptqError("reconstruction pac: no quantizer here has bounds to tune; set reconstruction to null")
    counts = all_gather(len(images))
    if len(set(counts)) > 1:
        raise SrptqError(f"reconstruction pac: the processes have {counts} images; give each of them as many")
    with torch.enable_grad():
        return _Tuning(prepared, images, chosen, seed, progress).run(checkpoint and Saving(checkpoint))


class _Tuning:
    """One run of PaC on one graph."""

    def __init__(
        self, prepared: PreparedGraph, images: Tensor, options: PacOptions, seed: int, progress: Progress
    ) -> None:
        self.prepared, self.options, self.seed, self.progress = prepared, options, seed, progress
        ends = all_gather((float(images.min()), float(images.max())))
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        self.images = recolor(images, low, high, seed) if options.recolor else images
        black, white = prepared.plan.input_range or (low, high)
        self.levels = LEVELS / max(white - black, 1e-30)
        self.steps = options.epochs * math.ceil(len(images) / options.batch)
        prepared.set_mode(Mode.QUANTIZE)

    def run(self, saving: Saving | None) -> dict[str, float]:
        with Teacher(self.prepared, self.images, self.options.batch) as self.teacher:
            self.shares = self._block_shares()
            begun = saving.begun() if saving else None
            if begun is None:
                observed = self._mean_loss()
                begun = Begun.of(self.prepared, observed, self._improve_start(observed))
            else:
                begun.restore_start(self.prepared)
            after, ratio = self._tune_from(begun, saving)
        return {"loss_before": begun.observed, "loss_after": after, "steps": self.steps, "gradient_ratio": ratio}

    def _improve_start(self, before: float) -> float:
        """Improve the start by the methods that need no gradient descent. Return the loss there."""
        if self.options.start == "image":
            self.progress("choosing bounds", 0, 0)
            before = self._try(before, learned_bounds(self.prepared), self._choose)
        if self.options.bias_correction:
            self.progress("correcting biases", 0, 0)
            before = self._try(before, list(self.prepared.biases.values()), self._correct)
        return before

    def _block_shares(self) -> Tensor:
        """Return the weight of each block in the feature loss."""
        if self.options.blocks == "equal":
            return torch.ones((), device=self.images.device)
        return block_shares(self.prepared, self.images[: _share(CHOSEN_ON)], seed=self.seed)

    def _choose(self) -> None:
        choose_bounds(self.prepared, self.images[: _share(CHOSEN_ON)], seed=self.seed)

    def _correct(self) -> None:
        correct_biases(self.prepared, self.images[: _share(CORRECTED_ON)])

    def _tune_from(self, begun: Begun, saving: Saving | None) -> tuple[float, float]:
        """Tune from a start. Return the loss afterwards, and the ratio of the gradients at the start."""
        options = self.options
        rates = Rates(
            options.weight_rate, options.activation_rate, options.rates, options.value_rate, level=1 / self.levels
        )
        with Learning(self.prepared, rates, options.weights) as self.learning:
            for quantizer in self.prepared.quantizers.values():
                quantizer.gradient = options.gradient
            ratio = self._gradient_ratio()
            tune = partial(self._tune, begun, saving)
            return self._try(begun.before, self.learning.learned, tune, always=options.keep == "last"), ratio

    def _try(
        self, before: float, changed: Sequence[nn.Parameter], change: Callable[[], None], *, always: bool = False
    ) -> float:
        """Change some parameters. Return the loss that remains.

        They are restored unless the mean loss falls or, if they are kept always, is finite.
        """
        start = [parameter.detach().clone() for parameter in changed]
        change()
        after = self._mean_loss()
        # False for NaN as well, so that a run that diverged is undone.
        if after < before or (always and math.isfinite(after)):
            return after
        for parameter, value in zip(changed, start, strict=True):
            parameter.data.copy_(value)
        return before

    def _tune(self, begun: Begun, saving: Saving | None) -> None:
        roles: Turn = tuple(role for role in BOTH if self.prepared.of_role(role))
        begun.restore_progress(self.learning)
        current = -1
        for step, (epoch, samples) in islice(enumerate(self._iter_steps()), begun.steps, None):
            turn = self.options.turn(epoch, roles)
            if epoch != current:
                self.learning.take_turns(turn)
                current = epoch
            self.progress("tuning", step, self.steps)
            # Half a cosine, from the whole rate to 0.
            self.learning.step(self._loss(samples), turn, 0.5 * (1 + math.cos(math.pi * step / self.steps)))
            if saving:
                saving.save_in_time(begun, self.learning, step + 1)
        self.progress("tuning", self.steps, self.steps)

    def _iter_steps(self) -> Iterator[tuple[int, Tensor]]:
        """Yield the epoch and the samples of each step."""
        generator = torch.Generator().manual_seed(self.seed)
        for epoch in range(self.options.epochs):
            for samples in torch.randperm(len(self.images), generator=generator).split(self.options.batch):
                yield epoch, samples

    def _loss(self, samples: Tensor) -> Tensor:
        """Return equation 9 on some samples."""
        output, features = self._losses(samples)
        return self.options.output_weight * output + self.options.feature_weight * features

    def _losses(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """Return equations 6 and 8 on some samples."""
        with RecomputeActivations(self.prepared):
            output, maps = self.prepared.features(self.images[samples])
        target, target_maps = self.teacher(samples)
        distances = [self._distance(features, target) for features, target in zip(maps, target_maps, strict=True)]
        return self._output_error(output - target), (self.shares * torch.stack(distances)).mean()

    def _output_error(self, error: Tensor) -> Tensor:
        """Return the error of the image in levels: its mean magnitude, or each sample's root mean square as in PSNR.

        Regions count on top. A constant error of a few levels hardly shows in the mean, but it shows in even areas.
        """
        regions = avg_pool2d(error, min(REGION, *error.shape[2:]))
        whole = error.abs().mean() if self.options.output_loss == "l1" else _root_mean_square(error)
        return self.levels * (whole + self.options.region_weight * _root_mean_square(regions))

    def _distance(self, features: Tensor, target: Tensor) -> Tensor:
        """Return the distance of two maps on the unit sphere (eq. 8): squared, or as the equation is printed."""
        # For unit vectors |a - b|^2 = 2 - 2 cos. Rounding may make it slightly negative, which a root cannot take.
        squared = 2 - 2 * cosines(features, target)
        if self.options.feature_loss == "sum":
            return squared.mean()
        return squared.clamp(min=0).add(TINY).sqrt().mean() / target.shape[1]

    def _mean_loss(self) -> float:
        total = torch.zeros((), dtype=torch.float64, device=self.images.device)
        with torch.no_grad():
            for samples in torch.arange(len(self.images)).split(self.options.batch):
                total += self._loss(samples) * len(samples)  # the last batch may be smaller
        all_reduce_mean([total])
        return float(total) / len(self.images)

    def _gradient_ratio(self) -> float:
        """Return the gradient norm of the weighted feature loss relative to the output loss, on the first batch."""
        self.learning.take_turns(BOTH)
        parameters = learned_bounds(self.prepared)
        samples = torch.arange(min(self.options.batch, len(self.images)))
        norms = [_norm(torch.autograd.grad(self._losses(samples)[n], parameters, allow_unused=True)) for n in range(2)]
        return self.options.feature_weight * norms[1] / max(norms[0], 1e-30)


def _share(images: int) -> int:
    """Return how many of some images one process takes."""
    return max(1, images // world_size())


def _root_mean_square(error: Tensor) -> Tensor:
    """Return each sample's root mean square, averaged over samples."""
    return error.square().flatten(1).mean(1).add(TINY).sqrt().mean()


def _norm(gradients: tuple[Tensor | None, ...]) -> float:
    return math.sqrt(sum(float(g.square().sum()) for g in gradients if g is not None))
