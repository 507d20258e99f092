"""The network and the low-resolution images. Replace these, which come with the package, by your own."""

from srptq_plugin import load_model, load_patches

LOADED = load_model("edsr-mini")
NETWORK = LOADED.module.eval()
PATCHES = load_patches(input_range=LOADED.record.input_range)
