"""DBDC and PaC inside torchao's PT2E flow: a float network in, an int8 network for torch.compile out."""

import torch
from torch.export import Dim
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from srptq_adapters.torchao import SRQuantizer, reconstruct
from srptq_plugin import equalize, load_model, load_patches

model = load_model("edsr-mini")
network, record = model.module, model.record
patches = load_patches(32, input_range=record.input_range)

any_size = ({0: Dim.AUTO, 2: Dim.AUTO, 3: Dim.AUTO},)
# Equalizing keeps the function of the network and reduces its noise from rounding.
scaled = equalize(network, "onnxruntime-w8a8", patches, record.input_range)
exported = torch.export.export(scaled, (patches[:2],), dynamic_shapes=any_size).module()
prepared = prepare_pt2e(exported, SRQuantizer.from_recipe("onnxruntime-w8a8", input_range=record.input_range))
for batch in patches.split(16):
    prepared(batch)  # DBDC observes
print(reconstruct(prepared, patches, epochs=2))  # PaC tunes
quantized = convert_pt2e(prepared)

with torch.no_grad():
    image = patches[:1]
    error = (quantized(image) - network(image)).square().mean()
print(f"PSNR against the float network: {10 * torch.log10(255**2 / error):.1f} dB")
