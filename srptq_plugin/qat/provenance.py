"""Digests of the inputs of a training. A checkpoint is resumed with the same inputs only."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from srptq_plugin.data.images import Image
from srptq_plugin.errors import SrptqError
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import NETWORK, TABLE, Run


def origins_of(recipe: Recipe, run: Run, images: Iterable[Image]) -> dict[str, str]:
    """Return a digest of each input, by the name that a message gives it."""
    return {
        "recipe": _digest([recipe.to_yaml().encode()]),
        "run": _digest((run.folder / name).read_bytes() for name in (TABLE, NETWORK)),
        "set of images": _digest(_parts(images)),
    }


def check_origins(begun: Mapping[str, str], current: Mapping[str, str]) -> None:
    """Raise an error if the current inputs differ from those at the beginning of the training.

    >>> check_origins({"recipe": "1", "run": "2"}, {"recipe": "1", "run": "3"})
    Traceback (most recent call last):
    srptq_plugin.errors.SrptqError: begun with another run; resume with what it was begun with, or start again
    """
    different = [name for name, digest in current.items() if begun[name] != digest]
    if different:
        named = " and another ".join(different)
        raise SrptqError(f"begun with another {named}; resume with what it was begun with, or start again")


def _parts(images: Iterable[Image]) -> Iterator[bytes]:
    for image in images:
        yield f"{image.name} {image.pixels.shape}".encode()
        yield image.pixels.tobytes()


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
