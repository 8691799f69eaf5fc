"""The picture of a training shows what the training reported."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from torch import nn

from models.starter.chest_ct import curves
from models.starter.chest_ct.course import Order, begin, report


def test_what_a_training_reports_is_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each line that `report` prints is one point; steps done twice count once, and other lines are passed over."""
    run = begin(nn.Conv3d(1, 1, 1), Order(out=tmp_path / "none", checkpoint=tmp_path / "none.checkpoint"), 700)
    for run.done, lungs in ((20, 0.5), (40, 0.4), (41, 9.0), (40, 0.25)):
        report(run, {"lungs": lungs})
    report(run, {"judged": 0.1, "painted": 0.2, "right": 0.95})
    told = ["going on from step 20", *capsys.readouterr().out.splitlines()]
    assert curves.read(told) == {("lungs",): {20: (0.5,), 40: (0.25,)}, ("judged", "painted", "right"): {40: (0.1, 0.2, 0.95)}}


def test_a_picture_is_written_for_each_training(tmp_path: Path) -> None:
    """Two trainings are drawn one above the other."""
    heights = []
    for courses in ({("lungs",): {20: (0.5,), 40: (0.4,)}}, {("lungs",): {20: (0.5,)}, ("judged", "right"): {20: (0.1, 0.9)}}):
        curves.draw(courses, tmp_path / "curves.png")
        with Image.open(tmp_path / "curves.png") as picture:
            heights.append(picture.height)
    assert heights[1] == 2 * heights[0]


def test_a_file_without_a_report_is_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    """An empty picture would say nothing."""
    with pytest.raises(ValueError, match="step 20/700"):
        curves.draw(curves.read(["nothing"]), tmp_path / "curves.png")
