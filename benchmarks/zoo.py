"""Networks by others, quantized in their runtimes next to NNCF's and quantize_static's files of the same networks.

    python benchmarks/zoo.py --networks benchmarks/zoo_ntire2022.yaml --folder NTIRE2022_ESR --data Set5 \
        --images BSDS399 --rows benchmarks/zoo.jsonl [--only RFDN] [--runtime openvino] [--recipe fast]

Every network is loaded, quantized by the default recipe of the runtime, scored there and timed, in a process of its
own with a time limit. `--runtime simulation` scores the paper's recipe at 4 bits, which no runtime here computes.
Measurements go to the file of rows, and a restarted benchmark skips the known ones. Prints Markdown. Needs
`pip install 'srptq-plugin[all,bench]'`.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from apart import measure_apart, network_of
from rows import Rows
from zoo_peers import PEERS
from zoo_runtimes import RUNTIMES

from srptq_plugin import Recipe, Run, quantize
from srptq_plugin.calibration.inputs import Inputs
from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.pairs import load_pairs
from srptq_plugin.evaluation.scoring import Upscale, mean_scores
from srptq_plugin.graph.types import Array
from srptq_plugin.runs.run import NETWORK

TIMED_SIDE, TIMED_RUNS = 128, 9
FAMILIES = {"default": "{}-w8a8", "fast": "{}-w8a8-fast"}
SIMULATION, SIMULATED = "simulation", "paper-w4a4"
"""The choice for simulation alone, and its recipe."""


def main() -> None:
    """Measure the missing networks, then print all."""
    arguments = _arguments()
    if arguments.worker:
        _work(arguments)
        return
    rows = Rows(arguments.rows)
    networks: dict[str, Any] = yaml.safe_load(arguments.networks.read_text())
    for name in arguments.only or networks:
        for runtime in arguments.runtime or RUNTIMES:
            key = (name, runtime, SIMULATED if runtime == SIMULATION else arguments.recipe)
            if rows.get(key) is None and not arguments.no_measuring:
                rows.add(key, measure_apart(["--only", name, "--runtime", runtime], arguments.limit))
                print(name, runtime, json.dumps(rows.get(key)), file=sys.stderr, flush=True)
    _print(rows)
    _print_summary(rows)


def _work(arguments: argparse.Namespace) -> None:
    name, runtime = arguments.only[-1], arguments.runtime[-1]
    paths = {key: getattr(arguments, key).resolve() for key in ("data", "images", "networks")}
    torch.set_num_threads(arguments.threads)
    entry = yaml.safe_load(paths["networks"].read_text())[name]
    os.chdir(arguments.folder)
    try:
        row = _measure(entry, runtime, paths, arguments)
    except SrptqError as error:
        row = {"failure": str(error)}
    arguments.worker.write_text(json.dumps(row))


def _measure(
    entry: Mapping[str, Any], runtime: str, paths: Mapping[str, Path], arguments: argparse.Namespace
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        family = SIMULATED if runtime == SIMULATION else FAMILIES[arguments.recipe]
        recipe = Recipe.load(family.format(runtime), arguments.set)
        run = quantize(
            recipe,
            **network_of(entry),
            images=paths["images"],
            scale=4,
            out=Path(folder) / "run",
        )
        if runtime == SIMULATION:
            return _psnrs({"float": run.float(), "sim": run.simulation()}, run, paths["data"])
        return _scores(run, runtime, Path(folder), paths, arguments.threads) | _facts(run)


def _facts(run: Run) -> dict[str, Any]:
    summary: Mapping[str, Any] = json.loads((run.folder / "summary.json").read_text())
    report = summary["verify"]
    return {"verify": report["psnr"], "own": report["own_psnr"], "passed": report["passed"]} | {
        "problems": report["problems"],
        "calibration_s": round(sum(summary["seconds"].values())),
    }


def _scores(run: Run, runtime: str, folder: Path, paths: Mapping[str, Path], threads: int) -> dict[str, Any]:
    files = {"float": run.folder / NETWORK, "ours": run.artifacts[0]}
    row: dict[str, Any] = {}
    try:
        files["peer"] = PEERS[runtime](files["float"], _patches(run), folder)
    except Exception as error:  # noqa: BLE001 - of other tools
        row["peer_failure"] = f"{type(error).__name__}: {str(error)[:200]}"
    models = {name: RUNTIMES[runtime](path, threads) for name, path in files.items()}
    row |= _psnrs({**models, "sim": run.simulation()}, run, paths["data"])
    row |= {f"{name}_ms": ms for name, ms in _times(models, run).items()}
    sides = (TIMED_SIDE, TIMED_SIDE)
    for name in set(models) - {"float"}:
        row |= {f"{name}_{part}": share for part, share in models[name].integer_shares(sides).items()}
    return row


def _psnrs(networks: Mapping[str, Callable[[Array], Array]], run: Run, data: Path) -> dict[str, Any]:
    pairs = load_pairs(data, run.record.scale).usable
    scores = {
        name: mean_scores(_on_tensors(network), pairs, run.record.scale, run.input_range)[0]
        for name, network in networks.items()
    }
    return {f"{name}_db": round(score, 3) for name, score in scores.items()}


def _on_tensors(model: Callable[[Array], Array]) -> Upscale:
    def upscale(image: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(np.asarray(model(image.numpy())))

    return upscale


def _patches(run: Run) -> Sequence[Array]:
    return [patch[None] for patch in Inputs.of_run(run).patches.numpy()]


def _times(models: Mapping[str, Any], run: Run) -> dict[str, float]:
    """Time all models in turns, so that a change of the machine's load meets each of them."""
    image = np.random.default_rng(0).uniform(*run.input_range, (1, 3, TIMED_SIDE, TIMED_SIDE)).astype(np.float32)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(TIMED_RUNS + 2):
        for name, model in models.items():
            start = time.perf_counter()
            model(image)
            if turn > 1:
                seconds[name].append(time.perf_counter() - start)
    return {name: round(1000 * statistics.median(values), 2) for name, values in seconds.items()}


COLUMNS = {
    "float_db": "float", "sim_db": "simulated", "ours_db": "ours", "peer_db": "peer", "ours_macs": "MACs",
    "ours_tensors": "tensors", "peer_macs": "peer's MACs", "speed": "speed", "peer_speed": "peer's speed",
    "verify": "verify dB", "own": "own dB", "seconds": "s",
}  # fmt: skip


def _print(rows: Rows) -> None:
    print(f"| network | runtime | recipe | {' | '.join(COLUMNS.values())} |")
    print("| --- " * (3 + len(COLUMNS)) + "|")
    for key, row in rows.known.items():
        if "failure" in row:
            print(f"| {' | '.join(key)} | {row['failure'][:200]} |")
            continue
        speeds = {
            column: row["float_ms"] / row[time]
            for column, time in (("speed", "ours_ms"), ("peer_speed", "peer_ms"))
            if time in row
        }
        cells = ({**row, **speeds}.get(column) for column in COLUMNS)
        print(f"| {' | '.join(key)} | {' | '.join('' if value is None else f'{value:.4g}' for value in cells)} |")


def _print_summary(rows: Rows) -> None:
    """Print, for each runtime, the loss of PSNR and the speed relative to the peer."""
    for runtime in RUNTIMES:
        measured = [row for key, row in rows.known.items() if key[1:] == (runtime, "default") and "peer_ms" in row]
        if measured:
            drops = [row["float_db"] - row["ours_db"] for row in measured]
            ratios = [row["peer_ms"] / row["ours_ms"] for row in measured]
            ahead = sum(row["ours_db"] > row["peer_db"] for row in measured)
            print(
                f"\n{runtime}: {len(measured)} networks lose {statistics.median(drops):.2f} dB in the median and "
                f"{max(drops):.2f} at most, {ahead} of them less than the peer's; relative to the peer, speed is "
                f"{statistics.median(ratios):.2f} in the median and {min(ratios):.2f} at least"
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("networks", "folder", "data", "images", "rows"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--runtime", action="append", choices=[*RUNTIMES, SIMULATION])
    parser.add_argument("--recipe", default="default", choices=FAMILIES)
    parser.add_argument("--set", action="append", default=[], help="changes of the recipe, for a try")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=1800, help="seconds for one network in one runtime")
    parser.add_argument("--no-measuring", action="store_true")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
