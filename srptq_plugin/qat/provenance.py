"""Digests of the inputs of a training. A checkpoint is resumed with the same inputs only."""

from collections.abc import Iterable, Iterator

from srptq_plugin.data.images import Image
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import NETWORK, TABLE, Run
from srptq_plugin.utils.checkpoint import digest


def origins_of(recipe: Recipe, run: Run, images: Iterable[Image]) -> dict[str, str]:
    """Return a digest of each input, by the name that a message gives it."""
    return {
        "recipe": digest([recipe.to_yaml().encode()]),
        "run": digest((run.folder / name).read_bytes() for name in (TABLE, NETWORK)),
        "set of images": digest(_parts(images)),
    }


def _parts(images: Iterable[Image]) -> Iterator[bytes]:
    for image in images:
        yield f"{image.name} {image.pixels.shape}".encode()
        yield image.pixels.tobytes()
