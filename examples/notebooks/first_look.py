# %% [markdown]
# # A first look
#
# This tutorial quantizes the bundled EDSR x4 to the integers of OpenVINO, runs the written file, and then compares
# observers at 4 bits. It needs no data: calibration uses scikit-image's photographs.

# %%
import openvino
import skimage.data
import torch

from srptq_plugin import load_model, load_patches, quantize

run = quantize("openvino-w8a8-fast", out="run/")
print(*(path.name for path in run.artifacts))

# %% [markdown]
# `quantize` has already run the file in OpenVINO and compared it with the simulation in torch. The report is in the
# run's summary, which the folder holds as `summary.json`:

# %%
report = run.summary["verify"]
print(f"{report['convs_int8']} of {report['convs_planned']} convolutions run in int8")
print(f"{report['psnr']:.1f} dB between simulation and runtime")

# %% [markdown]
# The file takes images of any size. The values are those that the network was trained with, here 0 to 255:

# %%
photograph = skimage.data.astronaut()[None, :128, :128].transpose(0, 3, 1, 2).astype("float32")
(enlarged,) = openvino.compile_model(run.artifacts[0])(photograph).values()
print(photograph.shape, enlarged.shape)


# %% [markdown]
# ## The choice of a range
#
# A quantizer maps a range of values to integers. At 4 bits there are 15 steps, so the range decides how much is lost.
# Min-max keeps every value, although the extremes are rare. DBDC drops the emptier end of the histogram bin by bin.
# The target `paper` simulates any number of bits:


# %%
def fidelity(recipe: str, *overrides: str) -> float:
    """Return the PSNR between the quantized and the float network."""
    simulated = quantize(recipe, out="simulated/", overrides=overrides)
    images = load_patches(16, input_range=(0, 255), seed=1)
    with torch.no_grad():
        noise = simulated.table.simulate(simulated.network)(images) - load_model().module(images)
    return float(10 * torch.log10(255**2 / noise.square().mean()))


print(f"min-max: {fidelity('paper-w4a4-minmax', 'reconstruction=null'):.2f} dB")
print(f"DBDC:    {fidelity('paper-w4a4', 'reconstruction=null'):.2f} dB")

# %% [markdown]
# PaC then tunes all ranges together, so that the image changes least:

# %%
print(f"PaC:     {fidelity('paper-w4a4', 'reconstruction.epochs=2'):.2f} dB")
