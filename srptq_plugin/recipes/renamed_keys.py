"""Recipe keys that have another name now. Old recipes are still read."""

import logging
from collections.abc import Mapping

from srptq_plugin.recipes.recipe_files import Data, RecipeLayer

logger = logging.getLogger(__name__)

RENAMED: Mapping[str, Mapping[str, str]] = {
    "": {"equalise": "equalize"},
    "reconstruction": {"recolour": "recolor"},
}
"""The new names of keys, by the section that they are in."""


def use_new_names(layer: RecipeLayer) -> RecipeLayer:
    """Return the layer with every old key under its new name. Each one is named in a warning.

    >>> use_new_names(RecipeLayer("my.yaml", {"equalise": True})).data
    {'equalize': True}
    """
    data = _renamed(layer.source, "", layer.data)
    sections = {name: data[name] for name in RENAMED if isinstance(data.get(name), Mapping)}
    return RecipeLayer(
        layer.source, {**data, **{name: _renamed(layer.source, name, old) for name, old in sections.items()}}
    )


def _renamed(source: str, section: str, data: Data) -> Data:
    old_keys = {old: new for old, new in RENAMED[section].items() if old in data and new not in data}
    prefix = f"{section}." if section else ""
    for old, new in old_keys.items():
        logger.warning("%s: %s%s is now %s%s; rename it", source, prefix, old, prefix, new)
    return {old_keys.get(key, key): value for key, value in data.items()}
