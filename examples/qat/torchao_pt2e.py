"""Training in torchao's PT2E flow from the bounds of a run: `python examples/qat/torchao_pt2e.py [RUN]`.

RUN is a folder that `srptq quantize --recipe onnxruntime-w8a8-fast` wrote. The plugin adds two lines after prepare.
"""

import sys

import torch
from torch.export import Dim
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from srptq_adapters.torchao import SRQuantizer
from srptq_plugin import initialize, load_model, load_patches, train

run = sys.argv[1] if len(sys.argv) > 1 else "run"
model = load_model("edsr-mini")
network, record = model.module, model.record
patches = load_patches(64, size=32, input_range=record.input_range)

any_size = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)
exported = torch.export.export(network, (patches[:2],), dynamic_shapes=any_size).module()
prepared = prepare_pt2e(exported, SRQuantizer.from_recipe("onnxruntime-w8a8", input_range=record.input_range))

initialize(prepared, run)  # the run's bounds
log = train(prepared, patches, steps=40, every=20, batch=4)  # without labels the float network is the teacher
quantized = convert_pt2e(prepared)

best = max(validation.psnr for validation in log)
print(f"against the float network: {log[0].psnr:.2f} dB before, {best:.2f} dB after")
