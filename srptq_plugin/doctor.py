"""Facts about this machine for bug reports: its processor, its packages, and which targets run integers here."""

import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from srptq_plugin.errors import NotInstalledError, UnknownNameError, first_line
from srptq_plugin.pipeline import quantize
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.recipes.recipe_files import RecipeLayer
from srptq_plugin.utils.progress import Progress, quiet

PACKAGE = "srptq-plugin"
CPU_INFO = Path("/proc/cpuinfo")
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "avx512_bf16", "asimddp", "i8mm")
"""The instructions that matter to integer kernels. The last two are ARM's."""
VARIABLES = ("OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES")
"""The variables of the environment that change kernels or threads."""
DEVELOPMENT = re.compile(r"extra == .(?:dev|docs|bench)\b")
"""Requirements of those who develop this package."""
TRIAL: Mapping[str, Any] = {
    "activations": {"observer": "minmax"},
    "calibration": {"patches": 2, "size": 24},
    "reconstruction": None,
}


@dataclass(frozen=True)
class Trial:
    """How a target did with a network of three convolutions.

    Attributes:
        target: Its name.
        runtime: The runtime that ran the file, or None.
        integers: How many of the three convolutions ran in integers, or None if the runtime does not report it.
        saturates: Whether its kernels add two products in 16 bits here, or None if unknown.
        passed: Whether the runtime computed what was simulated, or None if it could not be tried.
        note: What else there is to say.
    """

    target: str
    runtime: str | None
    integers: int | None
    saturates: bool | None
    passed: bool | None
    note: str


def describe_machine() -> dict[str, str]:
    """Return facts about the system, the processor and torch."""
    gpus = (
        [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    facts = {
        PACKAGE: version(PACKAGE),
        "python": f"{platform.python_version()}, {platform.platform()}",
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "instructions": ", ".join(_instructions()) or "unknown",
        "torch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        "GPU": ", ".join(gpus) or "none that torch finds",
    }
    variables = ", ".join(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ)
    return facts | ({"environment": variables} if variables else {})


def installed_packages() -> dict[str, str | None]:
    """Return the versions of the packages that this one can use, None for those that are not installed."""
    lines = [line for line in distribution(PACKAGE).requires or [] if not DEVELOPMENT.search(line)]
    names = sorted({re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in lines} - {PACKAGE})
    return {name: _version(name) for name in names}


def try_targets(names: Sequence[str] = (), progress: Progress = quiet) -> list[Trial]:
    """Quantize a small network for targets, run the files, and compare them with the simulation.

    Args:
        names: The targets. By default all.
        progress: A callback for progress.
    """
    registry = Registry()
    known = [entry.name for entry in registry.entries("target")]
    for name in names:
        if name not in known:
            raise UnknownNameError("target", name, known)
    trials: list[Trial] = []
    chosen = names or known
    for done, name in enumerate(chosen):
        progress("trying targets", done, len(chosen))
        trials.append(_try_target(name, registry))
    progress("trying targets", len(chosen), len(chosen))
    return trials


def _try_target(name: str, registry: Registry) -> Trial:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Conv2d(16, 3, 3, padding=1)).eval()
    recipe = Recipe.from_layers([RecipeLayer("doctor", {"target": name, **TRIAL})])
    try:
        with TemporaryDirectory() as folder:
            run = quantize(recipe, model=network, out=Path(folder) / "run", device="cpu", registry=registry)
    except NotInstalledError as error:
        return Trial(name, None, None, None, None, str(error))
    except Exception as error:  # noqa: BLE001 - a broken runtime raises anything, and the others are tried as well
        return Trial(name, None, None, None, passed=False, note=first_line(error))
    verified = run.summary["verify"]
    note = "; ".join([*verified["problems"], *filter(None, [verified["note"]])])
    if verified["runtime"] is None:
        return Trial(name, None, None, None, None, note)
    return Trial(name, verified["runtime"], verified["convs_int8"], verified["saturates"], verified["passed"], note)


def _processor() -> str:
    return _cpu_info().get("model name") or platform.processor() or platform.machine()


def _instructions() -> list[str]:
    """Return the `FLAGS` that the system reports."""
    info = _cpu_info()
    flags = (info.get("flags") or info.get("Features") or "").split()
    return [flag for flag in FLAGS if flag in flags]


def _cpu_info() -> dict[str, str]:
    """Return what Linux says of the first processor. Other systems have no such file."""
    if not CPU_INFO.is_file():
        return {}
    first = CPU_INFO.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
