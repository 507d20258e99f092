"""PSNR and seconds inside MQBench: its own observers and reconstructions, dbdc, and dbdc with PaC, in one run.

    python benchmarks/inside_mqbench.py --model imdn:imdn --weights IMDN_x4.safetensors --images BSDS399 --data Set5 \
        --leaf imdn:ContrastAttention

Academic, W4A4, weights per channel, activations asymmetric. 100 patches of 48 x 48 are cut from the downscaled
photographs. Seconds cover calibration and reconstruction. Rows with the same calibration share it, and its seconds
count in each. MQBench's reconstructions cannot look into IMDN's attention, so the attention is a float leaf in every
row. MQBench has to be importable. `imdn` is in examples/: run it with PYTHONPATH=examples. Prints each row of a
Markdown table when it is measured, and finally the Pareto front.
"""

import argparse
import contextlib
import copy
import functools
import io
import pkgutil
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import srptq_plugin
from srptq_plugin.data.images import load_images, random_patches, to_tensor
from srptq_plugin.evaluation.pairs import load_pairs
from srptq_plugin.evaluation.scoring import mean_scores
from srptq_plugin.models.loading import load_model

srptq_plugin.activate("mqbench")

from mqbench.advanced_ptq import ptq_reconstruction  # noqa: E402 # pyright: ignore[reportMissingImports]
from mqbench.prepare_by_platform import (  # noqa: E402 # pyright: ignore[reportMissingImports]
    BackendType,
    prepare_by_platform,
)
from mqbench.utils.state import enable_calibration, enable_quantization  # noqa: E402 # pyright: ignore[reportMissingImports]

PLAIN = {"observer": "MinMaxObserver", "fakequantize": "FixedFakeQuantize"}
ROUNDED = {"w_observer": "MSEObserver", "w_fakequantize": "AdaRoundFakeQuantize", "a_fakequantize": "QDropFakeQuantize"}
PAC_OF_PAPER = {
    "pattern": "pac",
    "schedule": "alternating",
    "output_loss": "l1",
    "region_weight": 0.0,
    "recolor": False,
}
MQBENCHS_OPTIONS = {
    "pattern": "block",
    "scale_lr": 4e-5,
    "warm_up": 0.2,
    "weight": 0.01,
    "b_range": [20, 2],
    "keep_gpu": True,
    "round_mode": "learned_hard_sigmoid",
}
SCHEMES = {
    "w_qscheme": {"bit": 4, "symmetry": True, "per_channel": True, "pot_scale": False},
    "a_qscheme": {"bit": 4, "symmetry": False, "per_channel": False, "pot_scale": False},
}


@dataclass(frozen=True)
class Method:
    """An observer, optionally quantizers that learn rounding, and optionally a reconstruction."""

    name: str
    observer: str
    rounded: bool = False
    reconstruction: dict[str, Any] | None = None


def methods() -> Iterator[Method]:
    """Yield the methods in the order of the table."""
    for observer in ("MinMaxObserver", "EMAMinMaxObserver", "EMAQuantileObserver", "EMAMSEObserver", "dbdc"):
        yield Method(observer, observer)
    for epochs in (1, 3, 10):
        yield Method(f"dbdc + PaC, {50 * epochs} steps", "dbdc", reconstruction={**PAC_OF_PAPER, "epochs": epochs})
    for steps in (500, 2000):
        for name, keep in (("BRECQ", 1.0), ("QDrop", 0.5)):
            config = {**MQBENCHS_OPTIONS, "max_count": steps, "prob": keep}
            yield Method(f"{name}, {steps} steps a block", "EMAMSEObserver", rounded=True, reconstruction=config)


def main() -> None:
    """Quantize by every method and evaluate."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    loaded = load_model(arguments.model, arguments.weights, {}, None)
    images = load_images(arguments.images, scale=arguments.scale)
    patches = to_tensor(random_patches(images, 100, 48, 0), loaded.record.input_range)
    pairs = load_pairs(arguments.data, arguments.scale, strict=True).usable

    def evaluate(model: torch.nn.Module) -> float:
        return mean_scores(model, pairs, arguments.scale, loaded.record.input_range)[0]

    print(f"{arguments.model}, {arguments.data.name}, Academic W4A4, {arguments.threads} thread(s), seed 0")
    print(f"float: {evaluate(loaded.module):.2f} dB\n")
    print("| | PSNR | seconds | of which calibration |\n| --- | --- | --- | --- |")
    rows: list[tuple[str, float, float]] = []
    leaves = [pkgutil.resolve_name(arguments.leaf)] if arguments.leaf else []
    calibrate = functools.cache(functools.partial(_calibrate, loaded.module, patches, leaves))
    for method in methods():
        observed, observing = calibrate(method.observer, method.rounded)
        model, tuning = _reconstruct(observed, method, patches)
        rows.append((method.name, evaluate(model), observing + tuning))
        print(f"| {method.name} | {rows[-1][1]:.2f} | {observing + tuning:.1f} | {observing:.1f} |", flush=True)
    print(f"\nPareto front of PSNR and seconds: {'; '.join(_pareto_front(rows))}.")


def _pareto_front(rows: list[tuple[str, float, float]]) -> Iterator[str]:
    for name, psnr, seconds in rows:
        rivals = [row for row in rows if row[0] != name]
        if not any(rival_psnr >= psnr and rival_seconds < seconds for _, rival_psnr, rival_seconds in rivals):
            yield name


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--leaf", metavar="MODULE:CLASS", help="a layer that MQBench does not look into")
    return parser.parse_args()


def _calibrate(
    network: torch.nn.Module,
    patches: Tensor,
    leaves: list[type],
    observer: str,
    rounded: bool,  # noqa: FBT001
) -> tuple[Any, float]:
    qconfig = {f"{side}_{key}": value for side in "wa" for key, value in PLAIN.items()}
    qconfig |= {**SCHEMES, **(ROUNDED if rounded else {}), "a_observer": observer}
    with _silence(), torch.no_grad():
        network = copy.deepcopy(network).eval()
        config = {"extra_qconfig_dict": qconfig, "leaf_module": leaves}
        model = prepare_by_platform(network, BackendType.Academic, config).eval()
        enable_calibration(model)
        start = time.perf_counter()
        for batch in patches.split(16):
            model(batch)
        return model, time.perf_counter() - start


def _reconstruct(model: Any, method: Method, patches: Tensor) -> tuple[Any, float]:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - MQBench draws its batches by it
    start = time.perf_counter()
    with _silence():
        tuned = copy.deepcopy(model)
        if method.reconstruction is not None:
            tuned = ptq_reconstruction(tuned, list(patches.split(2)), method.reconstruction)
        seconds = time.perf_counter() - start
        enable_quantization(tuned)
    return tuned.eval(), seconds


@contextlib.contextmanager
def _silence() -> Generator[None]:
    """Suppress MQBench's log of every layer."""
    from mqbench.utils.logger import logger  # noqa: PLC0415 # pyright: ignore[reportMissingImports]

    logger.setLevel("WARNING")
    with contextlib.redirect_stdout(io.StringIO()):
        yield


if __name__ == "__main__":
    main()
