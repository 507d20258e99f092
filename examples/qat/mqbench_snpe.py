"""Training under MQBench from the bounds of a run: `python examples/qat/mqbench_snpe.py [RUN]`.

RUN is a folder that `srptq quantize --recipe snpe-w8a8-fast` wrote. The plugin adds two lines after prepare.
"""

import sys

import srptq_plugin

srptq_plugin.activate("mqbench")  # before MQBench is imported
from mqbench.convert_deploy import convert_deploy
from mqbench.prepare_by_platform import BackendType, prepare_by_platform

from srptq_plugin import initialize, load_model, load_patches, train

run = sys.argv[1] if len(sys.argv) > 1 else "run"
model = load_model("edsr-mini")
network, record = model.module.eval(), model.record
patches = load_patches(64, size=32, input_range=record.input_range)
prepared = prepare_by_platform(network, BackendType.SNPE, {"extra_qconfig_dict": {"a_observer": "dbdc"}}).eval()

initialize(prepared, run)  # the run's bounds
log = train(prepared, patches, steps=40, every=20, batch=4)  # sites without bounds in the run observe first
convert_deploy(prepared, BackendType.SNPE, {"x": [1, 3, 48, 48]}, model_name="edsr_qat")

best = max(validation.psnr for validation in log)
print(f"against the float network: {log[0].psnr:.2f} dB before, {best:.2f} dB after")
