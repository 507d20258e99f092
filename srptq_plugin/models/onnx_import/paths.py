"""The module paths of operations, from what exporters leave of them in a file."""

import re

from onnx import NodeProto

from srptq_plugin.models.onnx_import.container import Path, to_component

SCOPES = "pkg.torch.onnx.name_scopes"
"""The key under which torch's exporter keeps the module paths of a node: a list as text, the operator last."""


def module_path(node: NodeProto) -> Path:
    """Return the path of the module that a node was exported from, or () if the file does not tell."""
    scopes = next((prop.value for prop in node.metadata_props if prop.key == SCOPES), "")
    listed = re.findall(r"'([^']*)'", scopes)
    if len(listed) >= 2:  # noqa: PLR2004 - the module's and the operator's own
        return split(listed[-2])
    return _from_name(node.name)


def _from_name(name: str) -> Path:
    """Return the path in a node's name such as `/body/body.0/conv/Conv`.

    Torch's older exporter repeats a container's name before its child's.
    """
    path: list[str] = []
    before = ""
    for part in name.split("/")[:-1]:
        if part:
            path += split(part.removeprefix(f"{before}.") if before else part)
            before = part
    return tuple(path)


def split(path: str) -> Path:
    """Return a path with dots as components.

    >>> split("body.0.conv")
    ('body', '0', 'conv')
    """
    return tuple(to_component(part) for part in path.split(".") if part)


def owner_of(weight: str) -> Path:
    """Return the path of the module that has a weight, from the weight's name, or () if the name is not of a module.

    >>> owner_of("body.0.conv.weight"), owner_of("onnx::Conv_12")
    (('body', '0', 'conv'), ())
    """
    owner, dot, leaf = weight.rpartition(".")
    return split(owner) if dot and leaf == "weight" else ()
