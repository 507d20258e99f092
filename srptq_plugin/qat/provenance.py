"""What a training began with, as digests: a checkpoint goes on from the same alone."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

from srptq_plugin.data.images import Image
from srptq_plugin.errors import SrptqError
from srptq_plugin.recipes.recipe import Recipe
from srptq_plugin.runs.run import NETWORK, TABLE, Run


def origins_of(recipe: Recipe, run: Run, images: Iterable[Image]) -> dict[str, str]:
    """By what a message calls them."""
    return {
        "recipe": _digest([recipe.to_yaml().encode()]),
        "run": _digest((run.folder / name).read_bytes() for name in (TABLE, NETWORK)),
        "set of images": _digest(_parts(images)),
    }


def check_origins(begun: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse to go on with something else.

    >>> check_origins({"recipe": "1", "run": "2"}, {"recipe": "1", "run": "3"})
    Traceback (most recent call last):
    srptq_plugin.errors.SrptqError: begun with another run; resume with what it was begun with, or start anew
    """
    other = [name for name, digest in found.items() if begun[name] != digest]
    if other:
        named = " and another ".join(other)
        raise SrptqError(f"begun with another {named}; resume with what it was begun with, or start anew")


def _parts(images: Iterable[Image]) -> Iterator[bytes]:
    for each in images:
        yield f"{each.name} {each.pixels.shape}".encode()
        yield each.pixels.tobytes()


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
