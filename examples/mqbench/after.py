"""The same MQBench script with two changes: `activate` comes first, and the observer is `dbdc`."""

from copy import deepcopy

import srptq_plugin

srptq_plugin.activate("mqbench")  # before MQBench is imported
import torch
from mqbench.convert_deploy import convert_deploy
from mqbench.prepare_by_platform import BackendType, prepare_by_platform
from mqbench.utils.state import enable_calibration, enable_quantization
from network import NETWORK, PATCHES

CONFIG = {"extra_qconfig_dict": {"w_observer": "MinMaxObserver", "a_observer": "dbdc"}}

model = prepare_by_platform(deepcopy(NETWORK), BackendType.SNPE, CONFIG).eval()
enable_calibration(model)
with torch.no_grad():
    for batch in PATCHES.split(16):
        model(batch)
enable_quantization(model)
convert_deploy(model, BackendType.SNPE, {"x": [1, 3, 48, 48]}, model_name="edsr")
