"""Fine-tuning in its parts: patients are shared out whole, a course goes on as if it had never stopped, sides are looked at."""

from __future__ import annotations

import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import card
from models.card import STARTERS
from models.starter.chest_ct.generator import AXES, LEFT, RIGHT
from models.tuning import course, examples, folder, splitting
from models.tuning.course import Plan
from models.tuning.examples import Example
from models.tuning.folder import Tuned
from models.vocabulary import Grid, Volume

GRID = Grid(shape=(20, 24, 30), origin_mm=(-30.0, 0.0, 0.0), axes=AXES, spacing_mm=(2.5, 2.0, 2.0))


def example() -> Example:
    """Give two boxes of lung with a ball of 10 mm in the left one, drawn in LPS."""
    points = GRID.to_world_mm(np.argwhere(np.ones(GRID.shape))).reshape(*GRID.shape, 3)
    lungs = np.where(points[..., 0] > 4, LEFT, np.where(points[..., 0] < -4, RIGHT, 0)).astype(np.uint8)
    ball = np.linalg.norm(points - (15.0, 24.0, 25.0), axis=-1) <= 5
    hu = np.where(lungs > 0, -850, 40).astype(np.int16)
    hu[ball] = 30
    nodules = np.where(ball, 7, 0).astype(np.uint16)
    return Example(volume=Volume(array=hu, grid=GRID, unit="HU", modality="CT"), lungs=np.where(ball, 0, lungs), nodules=nodules)


def test_patients_are_held_out_whole_and_the_same_for_a_seed() -> None:
    """No patient is in two parts; each case is in one; another seed shares out otherwise."""
    patients = [f"p{number // 2}" for number in range(20)]
    parts = splitting.split(patients, 0.25, 3)
    assert sorted(parts.training + parts.tuning + parts.held_out) == list(range(20))
    named = [{patients[at] for at in part} for part in (parts.training, parts.tuning, parts.held_out)]
    assert [len(names) for names in named] == [6, 2, 2]
    assert not named[0] & named[1]
    assert not (named[0] | named[1]) & named[2]
    assert splitting.split(patients, 0.25, 3) == parts
    assert splitting.split(patients, 0.25, 4) != parts
    assert splitting.split(["a", "b"], 0.9, 0).training
    with pytest.raises(ValueError, match="at least two patients"):
        splitting.split(["a", "a"], 0.25, 0)


class Line:
    """A part whose loss follows from the step: a line through noise, with dropout."""

    peak = 1e-2

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.network: nn.Module = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.BatchNorm1d(8), nn.Linear(8, 1))

    def loss(self, step: int) -> Tensor:
        """Give the squared error of a batch."""
        given = torch.randn(16, 4, generator=torch.Generator().manual_seed(step))
        error: Tensor = (self.network(given)[:, 0] - given.sum(dim=1)) ** 2
        return error.mean()


def test_a_course_goes_on_after_a_stop_as_if_it_had_none(tmp_path: Path) -> None:
    """Stopped after 7 of 20 steps and begun again: the weights of one go, to the bit; other cases begin anew."""
    plan = Plan(steps=20, limit_s=None, seed=5, identity="these cases", checkpoint=tmp_path / "whole.checkpoint")
    whole = Line()
    assert course.follow(whole, plan, lambda _at: None).ended
    done: list[int] = []
    broken = replace(plan, checkpoint=tmp_path / "broken.checkpoint", stopped=lambda: len(done) >= 7)
    first = course.follow(Line(), broken, lambda at: done.append(at.done))
    assert (first.done, first.ended) == (7, False)
    again = Line()
    second = course.follow(again, replace(broken, stopped=lambda: False), lambda at: done.append(at.done))
    assert done == list(range(1, 21))
    assert second.ended
    assert len(second.losses) == 20
    assert all(torch.equal(value, whole.network.state_dict()[name]) for name, value in again.network.state_dict().items())
    other = course.follow(Line(), replace(broken, identity="other cases", stopped=lambda: False), lambda _at: None)
    assert other.losses == second.losses  # from its first step, not from the checkpoint's last


def test_a_limit_in_seconds_ends_a_course_before_its_steps(tmp_path: Path) -> None:
    """With no time at all one step is done, and the course has ended."""
    plan = Plan(steps=1000, limit_s=1e-9, seed=5, identity="x", checkpoint=tmp_path / "a.checkpoint")
    assert course.follow(Line(), plan, lambda _at: None).done == 1


def test_labels_go_to_the_networks_grid_in_the_patient() -> None:
    """On 3 mm the ball is where it is in LPS and as large, it counts as left lung, and its number is 1."""
    made = example()
    assert made.lungs is not None
    scan = examples.scan_of(made, made.lungs, (3.0, 3.0, 3.0))
    inside = scan.instances == 1
    assert np.array_equal(np.unique(scan.instances), [0, 1])
    middle = scan.volume.grid.to_world_mm(np.argwhere(inside).mean(axis=0, keepdims=True))[0]
    assert np.linalg.norm(middle - (15.0, 24.0, 25.0)) < 1.5
    assert 0.6 < inside.sum() * 27 / (np.pi / 6 * 1000) < 1.6
    assert set(scan.organs[inside]) == {LEFT}
    assert abs(scan.nodules[0].diameter_mm - 10) < 1
    assert np.median(scan.volume.array[scan.organs == RIGHT]) == -850


def test_exchanged_lungs_are_told() -> None:
    """Left is at greater x: labels of a mirrored scan, or with their names exchanged, are no lesson."""
    made = example()
    assert examples.sides_at_fault(made) == ""
    assert made.lungs is not None
    exchanged = np.array([0, RIGHT, LEFT], np.uint8)[made.lungs]
    assert "left and right are exchanged" in examples.sides_at_fault(replace(made, lungs=exchanged))
    assert "right lung" in examples.sides_at_fault(replace(made, lungs=np.where(made.lungs == RIGHT, 0, made.lungs)))


def test_a_kept_lesson_is_read_as_it_was(tmp_path: Path) -> None:
    """Voxels and labels come back; a scan without drawn nodules teaches lungs alone."""
    made = example()
    assert made.lungs is not None
    lesson = examples.lesson_of(replace(made, nodules=None), made.lungs, 1)
    examples.save(lesson, tmp_path / "a.safetensors")
    again = examples.load(tmp_path / "a.safetensors")
    assert again.cubes is None
    assert again.whole is not None
    assert lesson.whole is not None
    assert np.array_equal(again.whole.organs, lesson.whole.organs)
    assert np.array_equal(again.whole.volume.array, lesson.whole.volume.array)


def test_a_disk_that_is_full_leaves_the_model_and_the_checkpoint_that_were_there(tmp_path: Path) -> None:
    """A first model and checkpoint are whole; a second of each, that cannot be written to its end, changes no byte of them."""
    base = card.read(STARTERS / "chest_ct" / "card.toml")
    tuned = Tuned(name="a", base=base, weights={"lungs": b"1" * 10, "nodules": b"2" * 10}, calibration=None, limits=(), history={})
    folder.write(tmp_path, tuned)
    folder.finish(tmp_path, {}, better=True)
    plan = Plan(steps=1, limit_s=None, seed=5, identity="a", checkpoint=tmp_path / "a.checkpoint")
    course.follow(Line(), plan, lambda _at: None)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert sorted(before) == ["a.checkpoint", "card.toml", "lungs.safetensors", "nodules.safetensors"]
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, most[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            folder.write(tmp_path, replace(tuned, weights={"lungs": b"3" * 10, "nodules": b"4" * 10_000}))
        with pytest.raises(OSError, match="File too large"):
            course.follow(Line(), replace(plan, identity="b"), lambda _at: None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
