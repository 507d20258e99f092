"""Batch norms and mean shifts of a prepared model: folding undoes unfolding."""

import pytest
import torch
from helpers import networks
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.ao.nn.intrinsic.qat import ConvBn2d
from torch.ao.quantization import get_default_qat_qconfig

from srptq_plugin.graph.export import graph_of
from srptq_plugin.graph.network import Network
from srptq_plugin.qat.folding import Convolution, Folded, Values, convolutions

CHANNELS = 3


def numbers(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(seed: int, *, has_bias: bool) -> dict[str, Tensor]:
    own = {"conv.weight": numbers(seed, CHANNELS, 2, 3, 3), "norm.weight": 0.5 + numbers(seed + 1, CHANNELS).abs()}
    own |= {"norm.bias": numbers(seed + 2, CHANNELS), "shift.bias": numbers(seed + 3, CHANNELS)}
    return own | ({"conv.bias": numbers(seed + 4, CHANNELS)} if has_bias else {})


def after(kind: str, own: dict[str, Tensor], seed: int) -> Folded | None:
    mean, deviation = numbers(seed + 5, CHANNELS), 0.5 + numbers(seed + 6, CHANNELS).abs()
    match kind:
        case "batch norm":
            scale = own["norm.weight"] / deviation
            return Folded(scale, own["norm.bias"] - mean * scale, "norm.weight", "norm.bias")
        case "mean shift":
            return Folded(0.5 + numbers(seed + 7, CHANNELS).abs(), own["shift.bias"], beta="shift.bias")
        case _:
            return None


@pytest.mark.parametrize("kind", ["batch norm", "mean shift", "nothing"])
@given(seed=st.integers(0, 10_000), bias=st.sampled_from(["bias", "no bias"]))
def test_folding_undoes_unfolding(kind: str, seed: int, bias: str) -> None:
    has_bias = bias == "bias"
    own = parameters(seed, has_bias=has_bias)
    convolution = Convolution("conv.weight", "conv.bias", folded := after(kind, own, seed))
    learns = kind == "batch norm"
    factor = 0.5 + numbers(seed + 8, CHANNELS).abs() if learns else torch.ones(CHANNELS)
    bias_values = numbers(seed + 9, CHANNELS) if has_bias or folded else None
    values = Values(numbers(seed + 10, CHANNELS, 2, 3, 3), bias_values)
    changed = own | convolution.unfold(values, own, factor)
    again = refolded(changed, kind, own, seed)
    torch.testing.assert_close(again.weight, values.weight, rtol=1e-4, atol=1e-4)
    if bias_values is not None:
        assert again.bias is not None
        torch.testing.assert_close(again.bias, bias_values, rtol=1e-4, atol=1e-3)


def refolded(changed: dict[str, Tensor], kind: str, own: dict[str, Tensor], seed: int) -> Values:
    """Fold the convolution with the changed parameters. A batch norm's scale and shift follow from these."""
    folded = after(kind, changed, seed)
    if kind == "mean shift":
        assert folded is not None
        folded = Folded(after(kind, own, seed).scale, changed["shift.bias"])  # pyright: ignore[reportOptionalMemberAccess]
    return Convolution("conv.weight", "conv.bias", folded).values(changed)


@pytest.mark.parametrize("kind", ["edsr", "mixed", "imdn", "shared", "rrdb"])
def test_an_exported_network_has_nothing_to_unfold(kind: str) -> None:
    network = Network(graph_of(networks.exported(kind)))
    own = {name: value.detach() for name, value in network.module.named_parameters()}
    convs = list(convolutions(network, own, own))
    assert {conv.weight for conv in convs} == {name for name, value in own.items() if value.ndim == 4}
    assert not [conv.weight for conv in convs if conv.folded]
    assert all(torch.equal(conv.values(own).weight, own[conv.weight]) for conv in convs)


def test_batch_norm_inside_a_layer_is_folded() -> None:
    layer = ConvBn2d(3, 3, 1, bias=True, qconfig=get_default_qat_qconfig())
    norm = layer.bn
    norm.weight.data, norm.running_mean = torch.tensor([2.0, 0.5, 1.0]), torch.tensor([0.3, 0.0, -1.0])
    graph = fx.Graph()
    graph.output(graph.call_module("0", (graph.placeholder("image"),)))
    model = fx.GraphModule(nn.Sequential(layer), graph)
    own = {name: value.detach() for name, value in model.named_parameters()}
    (conv,) = convolutions(Network(model), own, ())
    assert conv.folded is not None
    assert (conv.folded.gamma, conv.folded.beta, conv.folded.fused) == ("0.bn.weight", "0.bn.bias", True)
    plain, values = nn.Conv2d(3, 3, 1), conv.values(own)
    assert values.bias is not None
    plain.weight.data, plain.bias.data = values.weight, values.bias  # pyright: ignore[reportOptionalMemberAccess]
    image = numbers(0, 2, 3, 4, 4)
    exact = norm.eval()(nn.functional.conv2d(image, layer.weight, layer.bias))
    torch.testing.assert_close(plain(image), exact)
