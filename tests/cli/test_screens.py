import csv
import json
import re
import shutil
import statistics
import threading
from argparse import Namespace
from io import StringIO
from pathlib import Path
from threading import Timer

import pytest
from helpers.command_line import Srptq, Terminal, Written, raising, refused, returning
from hypothesis import given, settings
from hypothesis import strategies as st

from srptq_plugin.cli.command import BY_NAME, COMMANDS, Command
from srptq_plugin.cli.console import Mark, Table, plain, show
from srptq_plugin.cli.cost_command import cost_report
from srptq_plugin.cli.evaluation_report import evaluation_report
from srptq_plugin.cli.option_words import OTHER_NAMES
from srptq_plugin.cli.parser import option_names, parse
from srptq_plugin.cli.progress_bar import Bars
from srptq_plugin.cli.reports import run_report
from srptq_plugin.plugins.recipe_keys import sections
from srptq_plugin.plugins.registry import Registry
from srptq_plugin.runs import verify
from srptq_plugin.runs.run import Run
from srptq_plugin.utils.progress import quiet

ANSI = re.compile(r"\x1b\[[0-9;]*m")


def test_quantize_writes_the_summary_it_prints(written: Written) -> None:
    summary, target = written.summary, written.folder.name
    assert written.result.code == (0 if summary["verify"]["passed"] else 1)
    assert written.result.err == ""
    assert (summary["target"], summary["model"]["name"]) == (target, "edsr-mini")
    assert json.loads((written.folder / "summary.json").read_text()) == summary
    assert all((written.folder / name).is_file() for name in summary["artifacts"])


def test_report_holds_the_facts(written: Written, terminal: Terminal) -> None:
    report = run_report(written.summary, written.folder)
    text = plain(report)
    facts = ["380,955", "body      33 at 8 bits", f"srptq evaluate {written.folder}", "verified: "]
    for fact in [*facts, *written.summary["artifacts"], written.summary["command"]]:
        assert fact in text
    assert "\x1b" not in text
    show(report, terminal)
    assert "\x1b" in terminal.getvalue()


@pytest.mark.parametrize(
    ("won", "after", "lines"),
    [
        (0.25, 2.0, ["tuning won back 0.25 dB\n"]),
        (-1.5, 2.0, ["tuning made that 1.50 dB worse, though the image is nearer to float\n"]),
        (-1.5, None, ["tuning made that 1.50 dB worse\n"]),
        (-1.5, 4.0, ["tuning made that 1.50 dB worse\n", "tuning: raised the loss", "3.00 -> 4.00"]),
        (0.0, 3.0, ["tuning: did not lower the loss"]),
    ],
)
def test_tuning_that_lost_never_looks_won(written: Written, won: float, after: float | None, lines: list[str]) -> None:
    sites = [site | {"projection": {"cost_db": 0.0, "won_db": won}} for site in written.summary["sites"]]
    figures = {} if after is None else {"loss_before": 3.0, "loss_after": after}
    text = plain(run_report({**written.summary, "sites": sites, "reconstruction": figures}, written.folder))
    assert [line for line in lines if line not in text] == []
    assert ("tuning:" in text) == (after is not None and after >= 3)


def test_slower_than_float_is_noted(written: Written) -> None:
    verified = {**written.summary["verify"], "slower": "slower than float: 12 operations stay float"}
    verified |= {"runtime": "stub", "convs_int8": None, "speedup": 0.8}
    verified |= {"psnr": 60.0, "max_levels": 1, "p99_9_levels": 1}
    text = plain(run_report({**written.summary, "verify": verified}, written.folder))
    assert "note: slower than float: 12 operations" in text


@pytest.mark.parametrize(
    ("figures", "line"),
    [
        (
            {"overflow": {"raised": 1150, "channels": 1347, "cost_db": 0.371}},
            "overflow: safe without VNNI: 1,150 of 1,347 channels have a larger scale, 0.37 dB more noise",
        ),
        ({"rounding_db": 1.68}, "rounding: errors of weights compensated: 1.7 dB less noise in the image"),
    ],
)
def test_steps_of_calibration_have_a_line(written: Written, figures: dict[str, object], line: str) -> None:
    assert line in plain(run_report({**written.summary, **figures}, written.folder))
    nothing = dict.fromkeys(figures)
    assert line[: line.index(":") + 1] not in plain(run_report({**written.summary, **nothing}, written.folder))


@pytest.mark.parametrize(("saturates", "bits"), [(True, 16), (False, 32)])
def test_verifying_names_kernels(written: Written, *, saturates: bool, bits: int) -> None:
    verified = {**written.summary["verify"], "runtime": "stub", "kernels": {"jit_avx2_I8": 3}, "saturates": saturates}
    verified |= {"convs_int8": 3, "convs_planned": 3, "speedup": None}
    verified |= {"psnr": 60.0, "max_levels": 1, "p99_9_levels": 1}
    text = plain(run_report({**written.summary, "verify": verified}, written.folder))
    assert f"kernels: 3 jit_avx2_I8; two products are added in {bits} bits here" in text


def test_verify_and_evaluate_a_run(srptq: Srptq, written: Written, photographs: Path) -> None:
    verified = srptq("verify", written.folder, "--json")
    passed = json.loads(verified.out)["passed"]
    assert verified.code == (0 if passed else 1)
    result = srptq("evaluate", written.folder, "--data", photographs, "--json")
    rows = {row["output"]: row for row in json.loads(result.out)["rows"]}
    runtime = {"runtime"} if written.summary["artifacts"] else set[str]()
    assert (result.code, set(rows)) == (0, {"bicubic", "float", "simulated"} | runtime)
    assert rows["float"]["psnr"] > rows["bicubic"]["psnr"]


def test_evaluate_with_all_its_options(srptq: Srptq, written: Written, photographs: Path, tmp_path: Path) -> None:
    shutil.copytree(photographs, tmp_path / "data")
    (tmp_path / "data" / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    options = ("--tile", "16", "--overlap", "0", "--ensemble", "--csv", tmp_path / "scores.csv")
    result = srptq("evaluate", written.folder, "--data", tmp_path / "data", *options)
    assert result.code == 0
    assert "left out: 1 that cannot be scored, named above" in result.out
    assert "ensemble: mean of 8" in result.out
    assert "tiles: 16 x 16 pixels, overlap 0; 2 images in several, 0 padded to fit" in result.out
    assert re.search(
        r"seams: tiles differ from the whole image by at most \d+\.\d\d levels of 255 \(b\.png", result.out
    )
    assert result.err.count("warning: ") == 2
    assert "c.png: not a readable image" in result.err
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["image"] for row in rows} == {"a.png", "b.png"}
    mean = statistics.mean(float(row["psnr"]) for row in rows if row["output"] == "simulated")
    assert re.search(rf"simulated +{mean:.2f} dB", result.out)
    strict = srptq("evaluate", written.folder, "--data", tmp_path / "data", "--strict")
    refused(strict, "1 of 3 images cannot be scored", "c.png: not a readable image")


def test_evaluating_misfits_is_refused(srptq: Srptq, written: Written, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    command = ("evaluate", written.folder, "--data", data)
    refused(srptq(*command), "1 of 1 images cannot be scored", "broken.png: not a readable image")
    refused(srptq(*command, "--csv", tmp_path / "nowhere" / "a.csv"), "--csv", "nowhere")
    refused(srptq(*command, "--overlap", "8"), "give --tile")
    refused(srptq(*command, "--tile", "16", "--overlap", "8"), "less than half of the tile")


def test_failed_check_exits_with_1(srptq: Srptq, monkeypatch: pytest.MonkeyPatch) -> None:
    verified = {"runtime": "r 1", "passed": False, "problems": ["they differ"], "convs_planned": 2}
    verified |= {"convs_int8": 1, "psnr": 20.0, "p99_9_levels": 9.0, "max_levels": 30.0}
    monkeypatch.setattr(verify, "verify", returning(verified))
    monkeypatch.setattr(Run, "open", returning(None))
    result = srptq("verify", "run")
    assert result.code == 1
    assert "verified: FAILED in r 1\nproblem: they differ" in result.out


def test_recipes_targets_and_plugins_are_listed(srptq: Srptq) -> None:
    names = [recipe["name"] for recipe in json.loads(srptq("recipes", "--json").out)["recipes"]]
    assert "openvino-w8a8" in names
    assert "name: openvino-w8a8\n" in srptq("recipes", "openvino-w8a8").out
    assert json.loads(srptq("recipes", "openvino-w8a8", "--json").out)["target"] == "openvino"
    targets = json.loads(srptq("targets", "--json").out)["targets"]
    assert {"openvino", "onnxruntime", "paper"} <= {preset["target"] for preset in targets}
    assert json.loads(srptq("plugins", "--json").out)["plugins"][0]["distribution"] == "srptq-plugin"
    for command in ("recipes", "targets", "plugins"):
        assert "openvino" in srptq(command).out


@pytest.mark.parametrize("command", ["recipes", "recipes --keys", "targets", "plugins"])
@pytest.mark.parametrize("columns", ["60", "72", "80", "95", "110", "130", "200"])
def test_no_word_is_broken(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, command: str, columns: str) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    arguments = Namespace(name=None, keys="--keys" in command)
    report = BY_NAME[command.split(maxsplit=1)[0]].load()(arguments, quiet).report
    show(report, terminal)
    lines = ANSI.sub("", terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= int(columns)
    cells = [cell for block in report for row in getattr(block, "rows", ()) for cell in row]
    words = {word for cell in cells for word in getattr(cell, "text", cell).split()}
    assert words <= {word for line in lines for word in line.split()}


@pytest.mark.parametrize("name", ["", *BY_NAME])
def test_help_fits_80_columns(srptq: Srptq, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = srptq(*filter(None, [name]), "--help")
    assert result.code == 0
    assert max(map(len, result.out.splitlines())) <= 80


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command.about], ids=lambda command: command.name
)
def test_examples_in_help_are_commands(command: Command) -> None:
    _, heading, examples = command.about.partition("\nexamples:\n")
    assert heading
    assert all(parse(line.split()[1:]).command == command.name for line in examples.splitlines())


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_commands_load_their_function(command: Command) -> None:
    assert getattr(command.load(), "__name__", "") == command.name


def test_arguments_of_other_names_are_options() -> None:
    assert set(OTHER_NAMES.values()) <= option_names()
    assert option_names().isdisjoint(OTHER_NAMES)


@given(data=st.data(), columns=st.integers(2, 4), wordy=st.integers(0, 1))
@settings(max_examples=40)
def test_no_word_of_any_table_is_broken(data: st.DataObject, columns: int, wordy: int) -> None:
    cell = st.lists(st.text("abcdefg_", min_size=1, max_size=40), max_size=8).map(" ".join)
    row = st.tuples(
        st.text("abcdefg_", min_size=1, max_size=20),
        *[cell | cell.map(lambda text: Mark(text, good=True))] * (columns - 1),
    )
    rows = data.draw(st.lists(row, min_size=1, max_size=4))
    screen = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "80")
        show([Table([f"column{number}" for number in range(columns)], rows, wordy=wordy)], screen)
    lines = ANSI.sub("", screen.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    words = {word for row in rows for cell in row for word in getattr(cell, "text", cell).split()}
    assert words <= {word for line in lines for word in line.split()}


def test_cost_of_a_run(srptq: Srptq, written: Written, terminal: Terminal) -> None:
    cost = json.loads(srptq("cost", written.folder, "--input-size", "1x3x90x160", "--json").out)
    assert (cost["input_size"], cost["target"]) == ([1, 3, 90, 160], written.folder.name)
    assert sum(stage["macs"] for stage in cost["stages"]) == cost["macs"]
    assert sum(layer["bops"] for layer in cost["layers"]) == cost["quantized"]["bops"] < cost["float"]["bops"] / 10
    assert max(moment["bytes"] for moment in cost["timeline"]) == cost["quantized"]["memory"]["bytes"]
    assert {site["name"] for site in cost["sites"]} == {site["name"] for site in written.summary["sites"]}
    text = srptq("cost", written.folder).out
    for fact in ("input 1x3x180x320", "all       28.98 G  100.0%", "FQSR's memory", "most memory: at "):
        assert fact in text
    show(cost_report(cost), terminal)
    assert max(map(len, ANSI.sub("", terminal.getvalue()).splitlines())) <= 80


def test_cost_reads_no_image(srptq: Srptq, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srptq_plugin.data.images.sample_images", raising(AssertionError("an image was read")))
    factory = "srptq_plugin.models.srresnet:SRResNet"
    network = ("--model", factory, "--model-args", "upscale=2", "features=8", "blocks=1")
    wide, narrow = (
        json.loads(srptq("cost", "--recipe", "paper-w8a8", "--set", f"weights.bits={bits}", *network, "--json").out)
        for bits in (8, 4)
    )
    assert wide["input_size"] == [1, 3, 360, 640]
    assert narrow["quantized"]["bops"] < wide["quantized"]["bops"] < wide["float"]["bops"]
    assert narrow["float"] == wide["float"]


def test_evaluation_fits_80_columns(terminal: Terminal) -> None:
    row = {"data": "[red]Set5[/red]", "output": "float", "psnr": 30.0, "ssim": 0.9, "images": 5}
    rows = [row, {**row, "output": "simulated", "psnr": 29.5}]
    show(evaluation_report({"rows": rows, "skipped": [], "ensemble": False, "tiles": None}), terminal)
    lines = ANSI.sub("", terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= 80
    assert "-0.50 dB" in lines[-1]
    assert "[red]Set5[/red]" in lines[-1]


def timers() -> list[Timer]:
    return [thread for thread in threading.enumerate() if isinstance(thread, Timer)]


def test_progress_is_for_terminals_and_long_steps(terminal: Terminal) -> None:
    pipe, short = StringIO(), Terminal()
    for stream, delay in ((terminal, 0.0), (pipe, 0.0), (short, threading.TIMEOUT_MAX)):
        with Bars(stream, delay) as progress:
            progress("tuning", 0, 5)
            for timer in timers() if stream is terminal else ():
                timer.join()
            progress("tuning", 4, 5)
    assert "tuning" in terminal.getvalue()
    assert "4 of 5" in terminal.getvalue()
    assert (pipe.getvalue(), short.getvalue()) == ("", "")


def test_every_key_of_a_recipe_is_printed(srptq: Srptq) -> None:
    printed = json.loads(srptq("recipes", "--keys", "--json").out)["keys"]
    names = [key.name for section in sections(Registry()) for key in section.keys]
    assert [key["name"] for key in printed] == names
    line = next(line for line in srptq("recipes", "--keys").out.splitlines() if "weights.per_channel" in line)
    assert all(part in line for part in ("true or false", "true gives each output channel a scale"))
    refused(srptq("recipes", "openvino-w8a8", "--keys"), "not allowed with")
