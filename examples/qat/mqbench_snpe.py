"""Training under MQBench from the bounds of a run: `python examples/qat/mqbench_snpe.py [RUN]`.

RUN is a folder that `srptq quantize --recipe snpe-w8a8-fast` wrote. Two lines are ours, after prepare.
"""

import sys

import srptq_plugin

srptq_plugin.activate("mqbench")  # before MQBench is imported
from mqbench.convert_deploy import convert_deploy
from mqbench.prepare_by_platform import BackendType, prepare_by_platform

from srptq_plugin import initialise, train
from srptq_plugin.images import random_patches, sample_images, to_tensor
from srptq_plugin.models import load_model

run = sys.argv[1] if len(sys.argv) > 1 else "run"
network, record = (model := load_model("edsr-mini")).module.eval(), model.record
patches = to_tensor(random_patches(sample_images(record.scale), 64, 32, seed=0), record.input_range)
prepared = prepare_by_platform(network, BackendType.SNPE, {"extra_qconfig_dict": {"a_observer": "dbdc"}}).eval()

initialise(prepared, run)  # the run's bounds
log = train(prepared, patches, steps=40, every=20, batch=4)  # sites that the run has no bounds for observe first
convert_deploy(prepared, BackendType.SNPE, {"x": [1, 3, 48, 48]}, model_name="edsr_qat")

print(f"against the float network: {log[0].psnr:.2f} dB before, {max(each.psnr for each in log):.2f} dB after")
