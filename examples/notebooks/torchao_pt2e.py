# %% [markdown]
# # torchao's PT2E flow
#
# `prepare_pt2e` takes a quantizer. This tutorial first keeps torchao's quantizer for X86 Inductor and changes only
# its observers. Then it takes the placement and the integers of a recipe, and tunes.

# %%
import torch
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

from srptq_adapters.torchao import SRQuantizer, reconstruct, with_observer
from srptq_plugin import equalize, load_model, load_patches

network = load_model().module  # the bundled EDSR, or any module of yours
patches = load_patches(32, input_range=(0, 255))
held_out = load_patches(8, input_range=(0, 255), seed=1)
with torch.no_grad():
    expected = network(held_out)


def export(module: torch.nn.Module) -> torch.fx.GraphModule:
    """Export a network for any number of images."""
    any_batch = ({0: torch.export.Dim.AUTO},)
    return torch.export.export(module, (patches[:2],), dynamic_shapes=any_batch).module()


def fidelity(model: torch.nn.Module) -> float:
    """Return the PSNR against the float network."""
    with torch.no_grad():
        noise = model(held_out) - expected
    return float(10 * torch.log10(255**2 / noise.square().mean()))


# %% [markdown]
# ## A stock quantizer, with and without DBDC


# %%
def stock() -> x86.X86InductorQuantizer:
    """Return torchao's quantizer with its default config."""
    return x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())


for name, quantizer in (("torchao", stock()), ("torchao with DBDC", with_observer(stock(), "dbdc"))):
    prepared = prepare_pt2e(export(network), quantizer)
    with torch.no_grad():
        prepared(patches)  # the observers look
    print(f"{name}: {fidelity(convert_pt2e(prepared)):.2f} dB")

# %% [markdown]
# ## A recipe
#
# `SRQuantizer` places quantizers where the target of the recipe has integers. ONNX Runtime reads both inputs of a sum
# as integers, so more tensors are rounded than above. `equalize` scales channels first. The float network computes the
# same, with less noise from rounding. `reconstruct` tunes the bounds against it:

# %%
equalized = equalize(network, "onnxruntime-w8a8", patches, (0, 255))
prepared = prepare_pt2e(export(equalized), SRQuantizer.from_recipe("onnxruntime-w8a8", input_range=(0, 255)))
with torch.no_grad():
    prepared(patches)
reconstruct(prepared, patches, epochs=2)
converted = convert_pt2e(prepared)
print(f"recipe: {fidelity(converted):.2f} dB")

# %% [markdown]
# `torch.compile(converted)` then runs in int8 kernels. More on compiling and training:
# [torchao.md](../torchao.md).
