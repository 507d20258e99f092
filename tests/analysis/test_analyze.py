import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import networks

from srptq_plugin.analysis import Kind
from srptq_plugin.analysis.analyze import BATCH, Analysis, analyze, measure_noise
from srptq_plugin.analysis.kept_rows import KeptRows
from srptq_plugin.analysis.parts import list_parts
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.data.images import Image, to_pixels, to_tensor
from srptq_plugin.data.metrics import psnr_y, ssim_y
from srptq_plugin.deploy.quant_table import QuantTable
from srptq_plugin.errors import SrptqError
from srptq_plugin.evaluation.pairs import Pair
from srptq_plugin.graph.network import Network
from srptq_plugin.graph.stages import STAGES
from srptq_plugin.models.model_record import ModelRecord
from srptq_plugin.planning.prepared_graph import PreparedGraph

RECORD = ModelRecord("toy", 2, networks.UNIT, None, 0)


def subject(kind: str, bits: int = 4) -> Subject:
    table = QuantTable.of(networks.calibrated(kind, bits))
    return Subject(networks.graph(kind), table, RECORD, networks.images(5))


@pytest.fixture(scope="module")
def edsr() -> Analysis:
    return analyze(subject("edsr"))


def test_stages_are_combined_in_every_way(edsr: Analysis) -> None:
    names = [sensitivity.part.name for sensitivity in edsr.parts if sensitivity.part.kind == "stage"]
    assert len(names) == len(set(names)) == 2 ** len(STAGES) - 1
    assert names[0] == "head"
    assert names[-1] == " + ".join(STAGES)


@pytest.mark.parametrize("kind", ["edsr", "imdn", "shared", "esrgan", "normed"])
def test_sites_cover_all_and_blocks_are_disjoint(kind: str) -> None:
    table = subject(kind).table
    groups = set(table.plan.groups)
    sites, blocks = (list_parts(table.plan, networks.graph(kind), [part_kind]) for part_kind in ("site", "block"))
    assert set().union(*(part.groups for part in sites)) == groups
    assert len(sites) == len(groups)
    inside = [group for part in blocks for group in part.groups]
    assert len(inside) == len(set(inside)) < len(groups)


@pytest.mark.parametrize("kind", ["edsr", "mixed", "shared"])
def test_sites_are_in_the_order_of_reading(kind: str) -> None:
    toy = subject(kind)
    keys = list(Network(toy.network).nodes)
    edges = {
        group: min((keys.index(edge.consumer), edge.input_index) for site in sites for edge in site.consumers)
        for group, sites in toy.table.plan.groups.items()
    }
    names = [part.name for part in list_parts(toy.table.plan, toy.network, ["site"])]
    assert all(edges[former] <= edges[latter] for former, latter in pairwise(names))


def test_block_holds_its_inputs_and_weights() -> None:
    toy = subject("edsr")
    first = next(part for part in list_parts(toy.table.plan, toy.network, ["block"]) if part.name == "body.0")
    assert {"body.0.first.weight", "body.0.second.weight", "body.0/relu"} <= first.groups
    assert not any(name.startswith(("body.1", "tail", "grow")) for name in first.groups)


def test_ends_are_float_and_fully_quantized(edsr: Analysis) -> None:
    toy = subject("edsr")
    plain, quantized = PreparedGraph.float_only(toy.network), toy.table.simulate(toy.network)
    with torch.no_grad():
        error = torch.cat([quantized(batch) - plain(batch) for batch in toy.patches.split(BATCH)])
    noise = float((255 * error.double()).square().mean())
    assert edsr.float.noise == 0
    assert edsr.float.psnr is None
    assert edsr.quantized.noise == pytest.approx(noise, rel=1e-9)
    assert edsr.quantized.psnr == pytest.approx(10 * math.log10(255**2 / noise))
    whole = next(sensitivity for sensitivity in edsr.parts if sensitivity.part.name == " + ".join(STAGES))
    assert whole.alone == edsr.quantized
    assert whole.left_float == edsr.float


def test_part_alone_is_its_complement_left_float(edsr: Analysis) -> None:
    by_name = {sensitivity.part.name: sensitivity for sensitivity in edsr.parts}
    assert by_name["head"].alone == by_name["body + upsample + tail"].left_float
    assert by_name["head + body"].alone == by_name["upsample + tail"].left_float


def test_image_with_known_truth_is_scored() -> None:
    toy = subject("edsr")
    rng = np.random.default_rng(0)
    low, high = (rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (16, 32))
    analysis = analyze(toy, [Pair(Image("a", low), Image("a", high))], ["stage"])
    with torch.no_grad():
        output = toy.table.simulate(toy.network)(to_tensor(low[None], networks.UNIT))[0]
    pixels = to_pixels(output, networks.UNIT)
    assert analysis.quantized.psnr_y == psnr_y(pixels, high, 2)
    assert analysis.quantized.ssim_y == ssim_y(pixels, high, 2)
    assert analysis.float.psnr_y is not None


@pytest.mark.parametrize("kinds", [["stage"], ["block", "site"]])
def test_only_the_chosen_kinds_are_measured(kinds: list[Kind]) -> None:
    analysis = analyze(subject("edsr"), kinds=kinds)
    assert {sensitivity.part.kind for sensitivity in analysis.parts} == set(kinds)


def test_progress_counts_to_its_end() -> None:
    seen: list[tuple[int, int]] = []
    analyze(subject("shared"), kinds=["site"], progress=lambda _what, done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)


class Stop(BaseException):
    """A process that ends."""


def test_a_stopped_analysis_repeats_no_measurement(edsr: Analysis, tmp_path: Path) -> None:
    measured: list[int] = []

    def stop(_what: str, done: int, _total: int) -> None:
        measured.append(done)
        if len(measured) == 31:
            raise Stop

    path = tmp_path / "analysis.json.rows"
    with pytest.raises(Stop):
        analyze(subject("edsr"), progress=stop, rows=KeptRows(path))
    path.write_text(f'{path.read_text()}["half a li')
    resumed = KeptRows(path, resume=True)
    again: list[int] = []

    def note(_what: str, done: int, _total: int) -> None:
        again.append(done)

    assert analyze(subject("edsr"), progress=note, rows=resumed) == edsr
    batches = 2  # each has a step at its end
    assert len(again) == batches * (1 + len(edsr.parts)) - (len(measured) - 1) + batches
    assert all(json.loads(line)[1] for line in path.read_text().splitlines())
    assert analyze(subject("edsr"), rows=KeptRows(path, resume=True)) == edsr
    resumed.remove()
    assert not path.exists()


def test_rows_of_another_network_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    analyze(subject("edsr", 8), kinds=["stage"], rows=KeptRows(path))
    resumed = analyze(subject("edsr"), kinds=["stage"], rows=KeptRows(path, resume=True))
    assert resumed == analyze(subject("edsr"), kinds=["stage"])


def test_noise_goes_on_from_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    whole = measure_noise(subject("shared"))
    measure_noise(subject("shared"), rows=KeptRows(path))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[::2]))
    assert measure_noise(subject("shared"), rows=KeptRows(path, resume=True)) == whole


def test_damaged_rows_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text("[1]\n")
    with pytest.raises(SrptqError, match=r"rows: line 1: damaged \(.*\); remove the file to start again"):
        KeptRows(path, resume=True)
