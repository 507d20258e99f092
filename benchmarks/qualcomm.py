"""Networks by others on Qualcomm's tools: encodings in AIMET, Q/DQ files on HTP as Qualcomm emulates it.

    SRPTQ_AIMET=aimet/bin/python python benchmarks/qualcomm.py --networks benchmarks/zoo_ntire2022.yaml \
        --folder NTIRE2022_ESR --rows benchmarks/qualcomm.jsonl [--only RFDN]

Every network is quantized with few patches, twice, in a process of its own with a time limit. Measurements go to the
file of rows, and a restarted benchmark skips the known ones. Prints Markdown. Needs the extra `qnn` and, for AIMET's
column, a Python with aimet-onnx.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from apart import measure_apart, network_of
from rows import Rows

from srptq_plugin import Recipe, Run, quantize
from srptq_plugin.data.images import to_tensor
from srptq_plugin.errors import SrptqError

RECIPE = "snpe-w8a8-fast"
SMALL = ["calibration.patches=8"]
SIDE = 64
CLIENT = Path(__file__).parents[1] / "tests" / "clients" / "aimet_encodings.py"


def main() -> None:
    """Measure the missing networks, then print all."""
    arguments = _arguments()
    if arguments.worker:
        _work(arguments)
        return
    rows = Rows(arguments.rows)
    networks: dict[str, Any] = yaml.safe_load(arguments.networks.read_text())
    for name in arguments.only or networks:
        if rows.get((name,)) is None and not arguments.no_measuring:
            rows.add((name,), measure_apart(["--only", name], arguments.limit))
            print(name, json.dumps(rows.get((name,))), file=sys.stderr, flush=True)
    _print(rows, networks)


def _work(arguments: argparse.Namespace) -> None:
    worker, aimet = arguments.worker.resolve(), os.environ.get("SRPTQ_AIMET")
    torch.set_num_threads(arguments.threads)
    entry = yaml.safe_load(arguments.networks.read_text())[arguments.only[-1]]
    os.chdir(arguments.folder)
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("encodings", "qdq"):
            try:
                run = _quantized(entry, kind, Path(folder) / kind)
                row |= _on_htp(run) if kind == "qdq" else _in_aimet(run, aimet)
            except SrptqError as error:
                row[f"{kind}_failure"] = str(error)
            worker.write_text(json.dumps(row))


def _quantized(entry: Mapping[str, Any], kind: str, out: Path) -> Run:
    return quantize(
        Recipe.load(RECIPE, [*SMALL, f"export.format={kind}"]),
        **network_of(entry),
        input_size=(1, 3, SIDE, SIDE),
        out=out,
    )


def _in_aimet(run: Run, python: str | None) -> dict[str, Any]:
    """Return how far AIMET's simulation of the encodings is from the same file read back here."""
    report = _report(run)
    if python is None:
        return {"read_back": report["psnr"]}
    image = to_tensor(run.images()[0].pixels[None, :SIDE, :SIDE], run.input_range).numpy()
    arrays = {"input": image, "output": run.target.load(run.artifacts[0])(image)}
    for name, values in arrays.items():
        np.save(run.folder / f"{name}.npy", values)
    files = [*run.artifacts, *(run.folder / f"{name}.npy" for name in arrays)]
    done = subprocess.run([python, str(CLIENT), *map(str, files)], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        return {"read_back": report["psnr"], "aimet_failure": done.stderr.strip().splitlines()[-1][:200]}
    record = json.loads(done.stdout.splitlines()[-1])
    error = record["mean_square"]
    aimet = 10 * math.log10(record["range"] ** 2 / error) if error else None
    return {"read_back": report["psnr"], "aimet": aimet and round(aimet, 1), "aimet_equal": not error}


def _on_htp(run: Run) -> dict[str, Any]:
    report = _report(run)
    return {key: report[key] for key in ("psnr", "own_psnr", "passed", "problems", "convs_int8", "convs_planned")}


def _report(run: Run) -> Mapping[str, Any]:
    return json.loads((run.folder / "summary.json").read_text())["verify"]


def _print(rows: Rows, networks: Mapping[str, Any]) -> None:
    print("| network | AIMET and the file read back | HTP and simulation | the simulation and itself | convolutions |")
    print("| --- | --- | --- | --- | --- |")
    for name in networks:
        row = rows.get((name,))
        if row is not None:
            print(f"| {name} | {_aimet(row)} | {_htp(row)} | {_decibels(row.get('own_psnr'))} | {_convs(row)} |")


def _aimet(row: Mapping[str, Any]) -> str:
    failure = row.get("failure") or row.get("encodings_failure") or row.get("aimet_failure")
    return failure or ("equal" if row.get("aimet_equal") else _decibels(row.get("aimet")))


def _htp(row: Mapping[str, Any]) -> str:
    failure = row.get("failure") or row.get("qdq_failure")
    return failure or ("equal" if row.get("passed") and row.get("psnr") is None else _decibels(row.get("psnr")))


def _convs(row: Mapping[str, Any]) -> str:
    return f"{row['convs_int8']} of {row['convs_planned']}" if "convs_int8" in row else ""


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} dB"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, required=True, help="the networks, as YAML")
    parser.add_argument("--folder", type=Path, required=True, help="the repository of the networks")
    parser.add_argument("--rows", type=Path, required=True, help="the file of measurements")
    parser.add_argument("--only", nargs="*", default=[], help="names of networks")
    parser.add_argument("--no-measuring", action="store_true", help="print the known measurements")
    parser.add_argument("--limit", type=int, default=900, help="seconds for a network")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
