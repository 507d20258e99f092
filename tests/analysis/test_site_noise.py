"""The estimated noise of activations, against the noise that is measured by rounding each alone."""

import pytest
from helpers import networks

from srptq_plugin.analysis.analyze import measure_noise
from srptq_plugin.analysis.site_noise import estimate_noise
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.models.model_record import ModelRecord

RECORD = ModelRecord("toy", 2, networks.UNIT, None, 0)


def subject(kind: str, target: str) -> Subject:
    table = QuantTable.of(networks.calibrated(kind, 8, target))
    return Subject(networks.graph(kind), table, RECORD, networks.images(8))


@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("kind", ["edsr", "imdn", "shared"])
def test_an_estimate_is_near_the_measurement(kind: str, target: str) -> None:
    toy = subject(kind, target)
    estimated, measured = estimate_noise(toy, weights=True), measure_noise(toy)
    groups = toy.table.plan.groups
    activations = {group for group, sites in groups.items() if sites[0].role == "activation"}
    assert set(estimate_noise(toy)) == activations
    assert set(estimated) == set(groups)
    largest = max(measured[group] for group in groups)
    noisy = [group for group in groups if measured[group] > 0.01 * largest]
    assert not activations >= set(noisy)
    for group in noisy:
        assert estimated[group] == pytest.approx(measured[group], rel=0.7), group


def test_an_estimate_is_the_same_twice() -> None:
    toy = subject("edsr", "openvino")
    assert estimate_noise(toy) == estimate_noise(toy)
