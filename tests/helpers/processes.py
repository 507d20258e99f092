"""Work for several processes at once. They communicate by gloo, and return one result each."""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing

from helpers import networks
from srptq_plugin.errors import SrptqError
from srptq_plugin.planning.prepared_graph import PreparedGraph
from srptq_plugin.qat.training import Training, train
from srptq_plugin.quantization.quantizer import BoundedFakeQuantize
from srptq_plugin.recipes.schema import TrainingSettings
from srptq_plugin.reconstruction.bias_correction import correct_biases
from srptq_plugin.reconstruction.pac import reconstruct

Result = Mapping[str, Any]
Work = Callable[[int, int], Result]
"""A function of the process's rank and the number of processes."""
IMAGES = networks.images(8, seed=3)
JOINT: Mapping[str, Any] = {"epochs": 2, "schedule": "joint", "weight_rate": 1e-2, "activation_rate": 1e-2}
SCHEMES = {
    "w_qscheme": {"bit": 4, "symmetry": True, "per_channel": True, "pot_scale": False},
    "a_qscheme": {"bit": 4, "symmetry": False, "per_channel": False, "pot_scale": False},
}


def together(work: Work, count: int, folder: Path) -> list[Result]:
    """Run some work in `count` processes and return their results by rank."""
    multiprocessing.spawn(_run_rank, (count, work, str(folder)), count)  # pyright: ignore[reportPrivateImportUsage]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def tune(rank: int, count: int) -> Result:
    """Run PaC on this process's share of the images, and again with a share of unequal size, which is refused."""
    prepared = networks.calibrated("edsr", 4, "onnxruntime")
    figures = reconstruct(prepared, IMAGES[rank::count], batch=8 // count, **JOINT)
    bounds = _ends(prepared.quantizers.values())
    refused = refusal_of(lambda: reconstruct(prepared, IMAGES[: 4 - rank], epochs=1))
    correct_biases(untouched := networks.calibrated("edsr", 3, "onnxruntime"), IMAGES[rank::count])
    biases = torch.cat([bias.detach() for bias in untouched.biases.values()])
    return {"figures": figures, "bounds": bounds, "refused": refused, "biases": biases}


def train_gates(rank: int, count: int) -> Result:
    """Train with DDTB on this process's share of each batch. Return its gates after a step and the final state."""
    keys = {"observer": "percentile", "options": {"percentile": 1}, "quantizer": "ddtb"}
    prepared = networks.calibrated("edsr", 2, "paper", activations=keys)
    prepared.on_train_begin(IMAGES[rank::count])
    training = Training(prepared, TrainingSettings(steps=4, every=1, value_rate=0.05, bound_rate=2e-3), peak=1.0)
    records = train(training, lambda step: (IMAGES[4 * (step % 2) :][rank:4:count], None), _closeness(rank, count))
    first = [next(records), next(records)]
    known: dict[str, Tensor] = {name: buffer.clone() for name, buffer in prepared.module.named_buffers()}
    scores = [record.psnr for record in (*first, *records)]
    return {"known": known, "scores": scores, "state": prepared.module.state_dict()}


def calibrate_mqbench(rank: int, count: int) -> Result:
    """Run a plain MQBench script that calibrates and tunes on this process's share of the batches."""
    import srptq_plugin  # noqa: PLC0415 - MQBench is imported where its work is done

    srptq_plugin.activate("mqbench")
    advanced_ptq, platform, state, logging_ = map(
        import_module,
        ("mqbench.advanced_ptq", "mqbench.prepare_by_platform", "mqbench.utils.state", "mqbench.utils.logger"),
    )
    logging_.logger.setLevel(logging.WARNING)
    names = dict.fromkeys(("w_fakequantize", "a_fakequantize"), "BoundedFakeQuantize")
    observers = {"observer": "dbdc", "w_observer": "MinMaxObserver", "a_observer_extra_args": {"ratio": 1e-3}}
    config = {"extra_qconfig_dict": {**names, **observers, **SCHEMES}}
    model = platform.prepare_by_platform(networks.network("edsr"), platform.BackendType.Academic, config).eval()
    batches = list(IMAGES.split(2))[rank::count]
    state.enable_calibration(model)
    with torch.no_grad():
        for batch in batches:
            model(batch)
    state.enable_quantization(model)
    tuned = advanced_ptq.ptq_reconstruction(model, batches, {"pattern": "pac", **JOINT})
    fewer: Any = (model, batches[rank:], {"pattern": "pac", "epochs": 1})
    refused = refusal_of(partial(advanced_ptq.ptq_reconstruction, *fewer))
    return {"calibrated": _scales(model), "tuned": _scales(tuned), "refused": refused}


def _run_rank(rank: int, count: int, work: Work, folder: str) -> None:
    torch.set_num_threads(1)
    if count > 1:
        distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=count)
    torch.save(work(rank, count), f"{folder}/{rank}.pt")
    if count > 1:
        distributed.barrier()
        distributed.destroy_process_group()


def _closeness(rank: int, count: int) -> Callable[[PreparedGraph], float]:
    def closeness(prepared: PreparedGraph) -> float:
        return -float((prepared(IMAGES[rank::count]) - prepared.float_forward(IMAGES[rank::count])[0]).square().mean())

    return closeness


def refusal_of(call: Callable[[], object]) -> str:
    """Return the message of the error that a call raises, or nothing if it raises none."""
    try:
        call()
    except SrptqError as error:
        return str(error)
    return ""


def _scales(model: torch.nn.Module) -> Tensor:
    named = {name: value for name, value in model.state_dict().items() if name.endswith(".scale")}
    return torch.cat([named[name] for name in sorted(named)])


def _ends(quantizers: Iterable[BoundedFakeQuantize]) -> Tensor:
    return torch.cat(
        [end.detach().reshape(-1) for quantizer in quantizers for end in (quantizer.lower, quantizer.upper)]
    )
