# %% [markdown]
# # An MQBench config
#
# `activate` adds this plugin's parts to MQBench's tables of names. A config then names them like MQBench's own. Call
# it before MQBench is imported:

# %%
import logging

import srptq_plugin

srptq_plugin.activate("mqbench")
import torch
from mqbench.advanced_ptq import ptq_reconstruction
from mqbench.convert_deploy import convert_deploy
from mqbench.prepare_by_platform import BackendType, prepare_by_platform
from mqbench.utils.state import enable_calibration, enable_quantization

logging.disable(logging.INFO)  # MQBench reports every node
patches = srptq_plugin.load_patches(32, input_range=(0, 255))
held_out = srptq_plugin.load_patches(8, input_range=(0, 255), seed=1)


def calibrated(observer: str) -> torch.nn.Module:
    """Prepare the bundled EDSR with 4 bits, and calibrate it with an observer."""
    bits = {"bit": 4, "symmetry": False, "per_channel": False, "pot_scale": False}
    config = {
        "extra_qconfig_dict": {
            "w_observer": "MinMaxObserver",
            "a_observer": observer,
            "w_fakequantize": "FixedFakeQuantize",
            "a_fakequantize": "FixedFakeQuantize",
            "w_qscheme": bits | {"symmetry": True, "per_channel": True},
            "a_qscheme": bits,
        }
    }
    network = srptq_plugin.load_model().module.eval()
    model = prepare_by_platform(network, BackendType.Academic, config).eval()
    enable_calibration(model)
    with torch.no_grad():
        model(patches)
    enable_quantization(model)
    return model


def fidelity(model: torch.nn.Module) -> float:
    """Return the PSNR against the float network."""
    with torch.no_grad():
        noise = model(held_out) - srptq_plugin.load_model().module(held_out)
    return float(10 * torch.log10(255**2 / noise.square().mean()))


# %% [markdown]
# ## An observer is a word in the config

# %%
for observer in ("EMAMinMaxObserver", "EMAQuantileObserver", "dbdc"):
    model = calibrated(observer)
    print(f"{observer}: {fidelity(model):.2f} dB")

# %% [markdown]
# ## PaC is a pattern
#
# It takes the place of `layer` or `block` in the config of `ptq_reconstruction`, and tunes all bounds together:

# %%
model = ptq_reconstruction(model, list(patches.split(16)), {"pattern": "pac", "epochs": 10, "schedule": "joint"})
print(f"dbdc and pac: {fidelity(model):.2f} dB")

# %% [markdown]
# Deployment is MQBench's own, with its faults repaired. `srptq plugins` lists the repairs:

# %%
convert_deploy(model, BackendType.Academic, {"x": [1, 3, 48, 48]}, model_name="edsr")
