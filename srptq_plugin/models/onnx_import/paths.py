"""The module paths of operations, from what exporters leave of them in a file."""

from onnx import NodeProto

from srptq_plugin.deploy.onnx_export import read_scopes
from srptq_plugin.models.onnx_import.container import Path, to_component


def module_path(node: NodeProto) -> Path:
    """Return the path of the module that a node was exported from, or () if the file does not tell."""
    scopes = read_scopes(node)
    # The last two are of the module and the operator.
    return split(scopes[-2]) if len(scopes) >= 2 else _from_name(node.name)  # noqa: PLR2004


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
