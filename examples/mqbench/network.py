"""Your network and your low-resolution images; here the ones that come with the package."""

from srptq_plugin import load_model, load_patches

LOADED = load_model("edsr-mini")
NETWORK = LOADED.module.eval()
PATCHES = load_patches(input_range=LOADED.record.input_range)
