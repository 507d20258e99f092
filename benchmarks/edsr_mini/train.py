"""Train a reference network on high-resolution photographs, with a seed and the possibility to resume.

    python benchmarks/edsr_mini/train.py edsr-mini-x4 --images BSDS399 --out runs
    python benchmarks/edsr_mini/train.py edsr-mini-x2 --images BSDS399 --out runs --start edsr_mini_x4.safetensors

Writes OUT/NAME.pt (everything that resuming needs), OUT/NAME.jsonl (a line every 250 steps) and, at the end,
OUT/NAME.safetensors (averaged weights, fp16). Run again, it continues where it stopped. On the same machine with the
same number of threads, it ends with the weights of an uninterrupted run. The last photographs are for validation only.

The weights in the package were trained on BSDS500's 399 photographs of `train` and `test` (without 302003), with
`--threads 1 --bf16`. x4 continued from earlier weights (31.38 dB on Set5), x2 from the body of x4. Their logs are in
benchmarks/edsr_mini/logs. Set5: 31.42 dB at x4, 37.47 dB at x2.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.pairs import Pair, load_pairs
from srptq_plugin.evaluation.scoring import mean_scores
from srptq_plugin.models.checkpoint import load_state
from srptq_plugin.models.edsr import EDSR
from srptq_plugin.qat.batches import Batch, Patches

LEVELS = (0.0, 255.0)
HELD_OUT = 8
EVERY = 250
AVERAGED = 0.999
WIDE = 16
"""Convolutions with fewer input or output channels compute in float32, even with --bf16."""


@dataclass(frozen=True)
class Job:
    """A network and the options of its training."""

    scale: int
    features: int
    blocks: int
    steps: int
    rate: float
    patch: int = 32
    batch: int = 16
    seed: int = 0

    def network(self) -> EDSR:
        """Return an untrained network, the same in every call."""
        torch.manual_seed(self.seed)
        return EDSR(self.scale, self.features, self.blocks)

    def rate_at(self, step: int) -> float:
        """Return the learning rate of a step: a short warm-up, then a cosine to zero."""
        warm = min(1.0, (step + 1) / 100)
        return self.rate * warm * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))


JOBS = {
    "edsr-mini-x4": Job(scale=4, features=32, blocks=16, steps=5_000, rate=2e-4),
    "edsr-mini-x2": Job(scale=2, features=32, blocks=16, steps=4_000, rate=4e-4),
    "edsr-baseline-x4": Job(scale=4, features=64, blocks=16, steps=200_000, rate=2e-4, patch=48),
    "edsr-baseline-x2": Job(scale=2, features=64, blocks=16, steps=200_000, rate=2e-4, patch=48),
}


class Training:
    """Weights, their running average, the optimizer and the number of steps, saved and restored together."""

    def __init__(self, job: Job, start: Path | None, device: str, *, bf16: bool) -> None:
        self.job, self.device = job, device
        self.network = job.network()
        if start is not None:
            _start_from(self.network, load_state(start))
        self.network = self.network.to(device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        learned = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(learned, job.rate)
        self.done = 0
        if bf16:
            _wide_in_bf16(self.network, device)

    def step(self, batch: Batch) -> float:
        """Take a step on a batch. Return the mean absolute difference before it."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.job.rate_at(self.done)
        low, high = (
            images.to(self.device, memory_format=torch.channels_last) for images in batch if images is not None
        )
        loss = (self.network(low) - high).abs().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.done += 1
        # A short average at first, so that the untrained weights fade.
        share = min(AVERAGED, self.done / (self.done + 10))
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value, 1 - share)
        return float(loss.detach())

    def averaged(self) -> EDSR:
        """Return a network with the averaged weights, as they are saved."""
        network = self.job.network()
        network.load_state_dict(self.weights())
        return network.eval()

    def weights(self) -> dict[str, Tensor]:
        """Return the averaged weights at the precision of the file."""
        return {name: value.half().float().cpu().contiguous() for name, value in self.average.items()}

    def save(self, path: Path) -> None:
        """Write a checkpoint atomically."""
        state = {"done": self.done, "network": self.network.state_dict(), "average": self.average}
        torch.save(state | {"optimizer": self.optimizer.state_dict()}, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def resume(self, path: Path) -> None:
        """Continue from a checkpoint."""
        state: Mapping[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.done = dict(state["average"]), state["done"]


def main() -> None:
    """Train one of the jobs to its end."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    job = JOBS[arguments.job]
    pairs = photographs(arguments.images, job.scale)
    arguments.out.mkdir(parents=True, exist_ok=True)
    training = Training(job, arguments.start, arguments.device, bf16=arguments.bf16)
    checkpoint = arguments.out / f"{arguments.job}.pt"
    if checkpoint.is_file():
        training.resume(checkpoint)
    for record in train(training, pairs):
        training.save(checkpoint)
        with checkpoint.with_suffix(".jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")
        print(" ".join(f"{key} {value}" for key, value in record.items()), flush=True)
    halves = {name: value.half() for name, value in training.weights().items()}
    save_file(halves, checkpoint.with_suffix(".safetensors"))


def train(training: Training, pairs: Sequence[Pair]) -> Iterator[dict[str, float]]:
    """Train to the end and yield a record every few steps."""
    losses: list[float] = []
    patches = _patches(pairs[:-HELD_OUT], training.job)
    start = time.perf_counter()
    while training.done < training.job.steps:
        losses.append(training.step(patches(training.done)))
        if training.done % EVERY == 0 or training.done == training.job.steps:
            seconds = time.perf_counter() - start
            score, _ = mean_scores(training.averaged(), pairs[-HELD_OUT:], training.job.scale, LEVELS)
            yield {
                "step": training.done,
                "loss": round(float(np.mean(losses)), 4),
                "held_out": round(score, 4),
                "seconds": round(seconds, 1),
            }
            losses.clear()
            start = time.perf_counter()


def photographs(folder: Path, scale: int) -> Sequence[Pair]:
    """Return photographs, cropped to a multiple of the scale, with their downscaled versions."""
    pairs = load_pairs(folder, scale, strict=True).usable
    if len(pairs) <= HELD_OUT:
        raise SrptqError(f"{folder}: {len(pairs)} photographs. {HELD_OUT} are held out, so give more")
    return pairs


def _patches(pairs: Sequence[Pair], job: Job) -> Patches:
    lows, highs = [pair.low for pair in pairs], [pair.high for pair in pairs]
    return Patches(lows, highs, job.scale, job.patch, job.batch, LEVELS, job.seed)


def _start_from(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the weights whose shapes fit. From a network of another scale, these are the body's."""
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    fitting = {name: value for name, value in state.items() if shapes.get(name) == value.shape}
    network.load_state_dict(fitting, strict=False)


def _wide_in_bf16(network: nn.Module, device: str) -> None:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and min(module.in_channels, module.out_channels) >= WIDE:
            module.forward = torch.autocast(device, torch.bfloat16)(module.forward)
        elif isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", choices=sorted(JOBS))
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights to start from (only tensors that fit are loaded)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bf16", action="store_true", help="wide convolutions in bfloat16: twice as fast")
    return parser.parse_args()


if __name__ == "__main__":
    main()
