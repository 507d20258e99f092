"""Means and files agree with the scores of each image."""

import csv
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srptq_plugin.evaluation.scores import Evaluation, Score

reals = st.floats(0, 100)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@given(st.lists(st.tuples(reals, reals, reals, reals), min_size=1, max_size=9))
def test_file_and_table_have_the_same_means(
    tmp_path_factory: pytest.TempPathFactory, figures: list[tuple[float, float, float, float]]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "scores.csv"
    images = list(enumerate(figures))
    scores = [Score(f"{n}, \u00e9.png", "float", psnr, ssim) for n, (psnr, ssim, _, _) in images]
    evaluation = Evaluation("Toys", [*scores, *(Score(f"{n}.png", "runtime", p, s) for n, (_, _, p, s) in images)])
    evaluation.save(path)
    rows = read(path)
    assert len(rows) == 2 * len(figures)
    assert rows[0] == {"data": "Toys", "image": "0, \u00e9.png", "output": "float"} | {
        "psnr": repr(figures[0][0]),
        "ssim": repr(figures[0][1]),
    }
    for mean in evaluation.means:
        mine = [row for row in rows if row["output"] == mean["output"]]
        assert mean["images"] == len(figures) == len(mine)
        for key in ("psnr", "ssim"):
            assert mean[key] == pytest.approx(math.fsum(float(row[key]) for row in mine) / len(mine))


def test_infinite_score_is_written_and_read(tmp_path: Path) -> None:
    Evaluation("Toys", [Score("a.png", "float", math.inf, 1.0)]).save(tmp_path / "a.csv")
    assert float(read(tmp_path / "a.csv")[0]["psnr"]) == math.inf


def test_failed_save_leaves_the_old_file(tmp_path: Path) -> None:
    path, broken = tmp_path / "a.csv", Any
    Evaluation("Toys", [Score("a.png", "float", 1.0, 1.0)]).save(path)
    before = path.read_text()
    with pytest.raises(TypeError):
        Evaluation("Toys", [Score("b.png", "float", 2.0, 1.0), broken]).save(path)  # pyright: ignore[reportArgumentType]
    assert path.read_text() == before
    Evaluation("Toys", [Score("c.png", "float", 3.0, 1.0)]).save(path)
    assert [row["image"] for row in read(path)] == ["c.png"]
    assert list(tmp_path.iterdir()) == [path]
