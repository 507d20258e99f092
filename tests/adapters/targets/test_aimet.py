"""AIMET reads what the target snpe writes, in every version, and computes what our reader computes."""

from collections.abc import Callable
from pathlib import Path

import aimet
import networks
import pytest

from srptq_plugin.table import QuantTable

pytest.importorskip("onnxruntime")

from srptq_adapters.targets.encodings import VERSIONS, Version
from srptq_adapters.targets.snpe import TARGET

Deploy = Callable[..., tuple[QuantTable, list[Path]]]
IMAGES = networks.images(2, seed=5)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", ["edsr", "imdn"])
def test_aimet_draws_what_our_reader_draws(kind: str, version: Version, deploy: Deploy, tmp_path: Path) -> None:
    table, files = deploy(kind, "snpe", 8)
    network, encodings = TARGET.write(files[0], table, tmp_path, encodings=version)
    wanted = TARGET.load(network)(IMAGES.numpy())
    found = aimet.simulated(network, encodings, IMAGES.numpy(), wanted)
    assert found["version"] == version
    assert aimet.decibels(found) > 100
