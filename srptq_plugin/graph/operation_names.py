"""The project's words for operations, from the names that tracers give them."""

# Names of ATen operators, of Tensor methods, of operators of Python and of layers (in lower case) to one word for each.
_OPS = {
    "conv2d": "conv",
    "convolution": "conv",
    "conv_transpose2d": "conv_transpose",
    "split_with_sizes": "split",
    "chunk": "split",
    "tensor_split": "split",
    "unbind": "split",
    "view": "reshape",
    "flatten": "reshape",
    "unflatten": "reshape",
    "squeeze": "reshape",
    "unsqueeze": "reshape",
    "transpose": "permute",
    "bmm": "matmul",
    "contiguous": "identity",
    "clone": "identity",
    "dropout": "identity",
    "alias": "identity",
    "detach": "identity",
    "constant_pad_nd": "pad",
    "reflection_pad2d": "pad",
    "replication_pad2d": "pad",
    "channel_shuffle": "reshape",
    "max_pool2d": "max_pool",
    "avg_pool2d": "avg_pool",
    "avgpool2d": "avg_pool",
    "adaptive_avg_pool2d": "mean",
    "upsample_nearest2d": "nearest",
    "_upsample_nearest_exact2d": "nearest",
    "upsample_bilinear2d": "interpolate",
    "upsample_bicubic2d": "interpolate",
    "convtranspose2d": "conv_transpose",
    "pixelshuffle": "pixel_shuffle",
    "pixelunshuffle": "pixel_unshuffle",
    "channelshuffle": "reshape",
    "leakyrelu": "leaky_relu",
    "upsample": "interpolate",
    "adaptiveavgpool2d": "mean",
    "maxpool2d": "max_pool",
    "batchnorm2d": "batch_norm",
    "iadd": "add",
    "isub": "sub",
    "imul": "mul",
    "truediv": "div",
    "square": "pow",
}


def canonical_op(name: str) -> str:
    """Return the project's word for an operation, from the name that a tracer gave it.

    >>> canonical_op("aten.conv2d.default"), canonical_op("relu_"), canonical_op("add.Tensor")
    ('conv', 'relu', 'add')
    """
    base = name.removeprefix("aten.").split(".")[0]
    base = base if base.startswith("_") else base.rstrip("_")  # a trailing underscore means in place
    return _OPS.get(base, base)
