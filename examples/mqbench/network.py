"""Your network and your low-resolution images; here the ones that come with the package."""

from srptq_plugin.images import random_patches, sample_images, to_tensor
from srptq_plugin.models import load_model

LOADED = load_model("edsr-mini", None, {}, None)
NETWORK = LOADED.module.eval()
SAMPLES = sample_images(LOADED.record.scale)
PATCHES = to_tensor(random_patches(SAMPLES, 100, 48, seed=0), LOADED.record.input_range)
