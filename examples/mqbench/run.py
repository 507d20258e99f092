"""Run a config in MQBench's style: `python examples/mqbench/run.py [config.yaml]`."""

import sys
from copy import deepcopy
from pathlib import Path

import srptq_plugin

srptq_plugin.activate("mqbench")

import torch
import yaml
from mqbench.advanced_ptq import ptq_reconstruction
from mqbench.convert_deploy import convert_deploy
from mqbench.prepare_by_platform import BackendType, prepare_by_platform
from mqbench.utils.state import enable_calibration, enable_quantization
from network import LOADED, NETWORK, PATCHES

from srptq_plugin.data.metrics import psnr

path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("config.yaml")
config = yaml.safe_load(path.read_text(encoding="utf-8"))
backend = BackendType[config["quantize"]["backend"]]

model = prepare_by_platform(deepcopy(NETWORK), backend, config["extra_prepare_dict"]).eval()
enable_calibration(model)
with torch.no_grad():
    for batch in PATCHES.split(config["quantize"]["cali_batchsize"]):
        model(batch)
enable_quantization(model)


def fidelity() -> float:
    """Return the PSNR of the quantized network against the float one."""
    low, high = LOADED.record.input_range
    with torch.no_grad():
        outputs = [network(PATCHES[:16]).numpy() for network in (model, NETWORK)]
    return psnr(outputs[0], outputs[1], high - low)


print(f"calibrated: {fidelity():.2f} dB against the float network")
model = ptq_reconstruction(model, list(PATCHES.split(16)), config["quantize"]["reconstruction"])
print(f"reconstructed: {fidelity():.2f} dB")
convert_deploy(model, backend, **config["deploy"])
