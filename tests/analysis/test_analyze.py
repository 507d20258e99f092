import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from helpers import networks

from srptq_plugin.analysis import Kind
from srptq_plugin.analysis.analyze import BATCH, Analysis, analyze
from srptq_plugin.analysis.parts import parts_of
from srptq_plugin.analysis.subject import Subject
from srptq_plugin.data.images import Image, to_pixels, to_tensor
from srptq_plugin.data.metrics import psnr_y, ssim_y
from srptq_plugin.deploy.quant_table import QuantTable
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


def test_stages_come_in_every_combination(edsr: Analysis) -> None:
    names = [each.part.name for each in edsr.parts if each.part.kind == "stage"]
    assert len(names) == len(set(names)) == 2 ** len(STAGES) - 1
    assert names[0] == "head"
    assert names[-1] == " + ".join(STAGES)


@pytest.mark.parametrize("kind", ["edsr", "imdn", "shared", "esrgan", "normed"])
def test_sites_are_all_of_it_and_blocks_are_disjoint(kind: str) -> None:
    table = subject(kind).table
    groups = set(table.plan.groups)
    sites, blocks = (parts_of(table.plan, networks.graph(kind), [each]) for each in ("site", "block"))
    assert set().union(*(part.groups for part in sites)) == groups
    assert len(sites) == len(groups)
    inside = [group for part in blocks for group in part.groups]
    assert len(inside) == len(set(inside)) < len(groups)


@pytest.mark.parametrize("kind", ["edsr", "mixed", "shared"])
def test_sites_come_in_the_order_of_the_network_a_layers_input_before_its_weight(kind: str) -> None:
    made = subject(kind)
    keys = list(Network(made.network).nodes)
    edges = {
        group: min((keys.index(edge.consumer), edge.input_index) for site in sites for edge in site.consumers)
        for group, sites in made.table.plan.groups.items()
    }
    names = [part.name for part in parts_of(made.table.plan, made.network, ["site"])]
    assert all(edges[former] <= edges[latter] for former, latter in pairwise(names))


def test_a_block_is_what_it_reads_and_its_weights() -> None:
    made = subject("edsr")
    first = next(part for part in parts_of(made.table.plan, made.network, ["block"]) if part.name == "body.0")
    assert {"body.0.first.weight", "body.0.second.weight", "body.0/relu"} <= first.groups
    assert not any(name.startswith(("body.1", "tail", "grow")) for name in first.groups)


def test_the_ends_are_the_float_and_the_quantized_network(edsr: Analysis) -> None:
    made = subject("edsr")
    plain, quantized = PreparedGraph.float_only(made.network), made.table.simulate(made.network)
    with torch.no_grad():
        error = torch.cat([quantized(batch) - plain(batch) for batch in made.patches.split(BATCH)])
    noise = float((255 * error.double()).square().mean())
    assert edsr.float.noise == 0
    assert edsr.float.psnr is None
    assert edsr.quantized.noise == pytest.approx(noise, rel=1e-9)
    assert edsr.quantized.psnr == pytest.approx(10 * math.log10(255**2 / noise))
    whole = next(each for each in edsr.parts if each.part.name == " + ".join(STAGES))
    assert whole.alone == edsr.quantized
    assert whole.left_float == edsr.float


def test_what_is_quantized_alone_is_what_the_others_leave_float(edsr: Analysis) -> None:
    found = {each.part.name: each for each in edsr.parts}
    assert found["head"].alone == found["body + upsample + tail"].left_float
    assert found["head + body"].alone == found["upsample + tail"].left_float


def test_an_image_whose_truth_is_known_is_scored() -> None:
    made = subject("edsr")
    rng = np.random.default_rng(0)
    low, high = (rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (16, 32))
    found = analyze(made, [Pair(Image("a", low), Image("a", high))], ["stage"])
    with torch.no_grad():
        output = made.table.simulate(made.network)(to_tensor(low[None], networks.UNIT))[0]
    drawn = to_pixels(output, networks.UNIT)
    assert found.quantized.psnr_y == psnr_y(drawn, high, 2)
    assert found.quantized.ssim_y == ssim_y(drawn, high, 2)
    assert found.float.psnr_y is not None


@pytest.mark.parametrize("kinds", [["stage"], ["block", "site"]])
def test_only_the_kinds_asked_for(kinds: list[Kind]) -> None:
    found = analyze(subject("shared"), kinds=kinds)
    assert {each.part.kind for each in found.parts} <= set(kinds)


def test_progress_counts_to_its_end() -> None:
    seen: list[tuple[int, int]] = []
    analyze(subject("shared"), kinds=["site"], progress=lambda _what, done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1]
    assert seen == sorted(seen)
