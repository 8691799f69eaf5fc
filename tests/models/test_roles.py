"""Several roles: volumes on grids of their own meet at the same places in the patient, channel by channel in the card's order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import registry
from models.card import BadCard, read
from models.grids import transforms
from models.vocabulary import Grid, Prediction, Unfit, Volume
from tests.models import programs
from tests.models.grids import AXES, ball, grid, middle_mm, places_mm, ramp
from tests.models.shelf import labels, shelve

OPTIONS = """
spacing_mm = [1.5, 1.5, 1.5]
window = [24, 24, 24]
organ_channels = [0, 1, 2]
intensity = { low = 0.0, high = 100.0 }
"""
OUTPUT = "labels\n" + labels("organ", "organ")


class Two(nn.Module):
    """Says 1 where the first role is bright and the second is not, 2 where the second one is."""

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Give (batch, 3, z, y, x)."""
        first, second = seen[:, 0] - 0.5, seen[:, 1] - 0.5
        return torch.stack([torch.zeros_like(first), 40 * first - 10 * second, 40 * second], dim=1)


def lain(name: str, centre_mm: tuple[float, float, float], shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Grid:
    """Give a grid whose field of view has its centre at an LPS point."""
    there = grid(name, shape, spacing_mm)
    moved = np.array(there.origin_mm) + np.array(centre_mm) - np.array(middle_mm(there))
    return replace(there, origin_mm=(float(moved[0]), float(moved[1]), float(moved[2])))


REFERENCE = lain("sagittal", (5.0, -20.0, 60.0), (30, 64, 56), (2.0, 1.0, 1.1))
ONE_MM, TWO_MM = (13.0, -25.0, 66.0), (-6.0, -12.0, 52.0)


def volume(of: Grid, centre_mm: tuple[float, float, float], radius_mm: float = 9.0) -> Volume:
    """Draw one bright ball at a place in the patient."""
    return Volume(array=np.where(ball(of, centre_mm, radius_mm), 100, 0).astype(np.int16), grid=of, unit="1", modality="MR")


def predict(folder: Path, second: Volume, options: str = OPTIONS) -> Prediction:
    """Run the network on the reference, which shows ball one, and another role."""
    files = programs.scripted(Two(), torch.zeros(1))
    model = registry.load(shelve(folder, "torchscript", files, options, OUTPUT, ("t1", "t2")), "cpu")
    return model.predict({"t2": second, "t1": volume(REFERENCE, ONE_MM)}, lambda _: None)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Give twice the common voxels over the sum of both."""
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


@pytest.mark.parametrize("name", AXES)
def test_each_role_is_seen_where_it_lies_in_the_patient(tmp_path: Path, name: str) -> None:
    """A sagittal and a second series in any plane, with other spacings and another centre: both balls lie where they were drawn."""
    second = lain(name, (2.0, -16.0, 57.0), (44, 60, 52), (1.7, 1.2, 0.9))
    prediction = predict(tmp_path, volume(second, TWO_MM))
    assert prediction.grid == REFERENCE
    one, two = ball(REFERENCE, ONE_MM, 9.0), ball(REFERENCE, TWO_MM, 9.0)
    assert dice(prediction.labels == 1, one) > 0.9
    assert dice(prediction.labels == 2, two) > 0.9
    for axis in range(3):  # a mask mirrored along any axis would be told from this one
        assert dice(np.flip(prediction.labels == 2, axis), two) < 0.7


def test_a_role_on_the_reference_s_own_grid_is_resampled_with_it(tmp_path: Path) -> None:
    """Series of one examination share their grid; they meet as exactly as one series does with itself."""
    prediction = predict(tmp_path, volume(REFERENCE, TWO_MM))
    assert dice(prediction.labels == 2, ball(REFERENCE, TWO_MM, 9.0)) > 0.9


def test_where_a_role_ends_it_has_its_background(tmp_path: Path) -> None:
    """Beyond the other's field of view the network sees the background the card names, else the least value there is."""
    second = lain("axial", TWO_MM, (14, 20, 20), (1.5, 1.0, 1.0))
    bright = Volume(array=np.full(second.shape, 40, dtype=np.int16), grid=second, unit="1", modality="MR")
    bright.array[7, 10, 10] = 0
    inside = np.all(np.abs(second.to_index(places_mm(REFERENCE).reshape(-1, 3)) - (np.array(second.shape) - 1) / 2)
                    <= np.array(second.shape) / 2 - 2, axis=1).reshape(REFERENCE.shape)  # fmt: skip
    assert inside.sum() > 500
    dark = predict(tmp_path / "dark", bright)
    assert not (dark.labels == 2).any()
    named = predict(tmp_path / "named", bright, OPTIONS + "roles = { t2 = { background = 100.0 } }\n")
    assert not (named.labels[inside] == 2).any()
    outside = ~ball(REFERENCE, TWO_MM, 20.0)
    assert (named.labels[outside] == 2).mean() > 0.99


def test_each_role_may_have_intensities_of_its_own(tmp_path: Path) -> None:
    """A PET in SUV beside an MR: the role's own window, the other's as for all."""
    second = volume(lain("axial", (2.0, -16.0, 57.0), (44, 60, 52), (1.7, 1.2, 0.9)), TWO_MM)
    faint = replace(second, array=(second.array / 20).astype(np.float32))
    assert not (predict(tmp_path / "all", faint).labels == 2).any()
    own = predict(tmp_path / "own", faint, OPTIONS + "roles = { t2 = { intensity = { low = 0.0, high = 5.0 } } }\n")
    assert dice(own.labels == 2, ball(REFERENCE, TWO_MM, 9.0)) > 0.9


def test_roles_that_show_nothing_in_common_are_unfit(tmp_path: Path) -> None:
    """Two series of different parts of the body cannot be laid over each other, and the reason says so."""
    with pytest.raises(Unfit, match="show no part of what those for t1 show"):
        predict(tmp_path, volume(lain("axial", (2.0, -16.0, 700.0), (10, 20, 20), (2.0, 1.0, 1.0)), TWO_MM))


def test_a_role_that_the_card_has_not_is_bad(tmp_path: Path) -> None:
    """A misspelt role would silently get the wrong intensities."""
    with pytest.raises(BadCard, match="'t3', which is no input"):
        predict(tmp_path, volume(REFERENCE, TWO_MM), OPTIONS + "roles = { t3 = { background = 1.0 } }\n")


def test_a_role_that_may_lie_in_another_frame_is_bad(tmp_path: Path) -> None:
    """Coordinates of two frames of reference mean different places; a card that lets routing take such a series is refused."""
    files = programs.scripted(Two(), torch.zeros(1))
    shelved = shelve(tmp_path, "torchscript", files, OPTIONS, OUTPUT, ("t1", "t2"))
    (tmp_path / "card.toml").write_text((tmp_path / "card.toml").read_text().replace("same_frame = true", "same_frame = false"))
    with pytest.raises(BadCard, match="'t2' is laid over the reference through the patient: it needs same_frame"):
        registry.load(read(shelved.folder / "card.toml"), "cpu")


@pytest.mark.parametrize("name", AXES)
def test_a_straight_line_through_the_patient_stays_one_on_another_grid(name: str) -> None:
    """Coarser or finer, turned or oblique: a linear field keeps its values, and only the field of view counts as seen."""
    source, target = lain(name, (0, 0, 0), (30, 40, 36), (1.2, 0.9, 1.1)), lain("axial", (4.0, 3.0, -2.0), (12, 18, 9), (2.4, 1.0, 3.0))
    values, seen = transforms.onto(ramp(source), source, target, "cpu")
    index = source.to_index(places_mm(target).reshape(-1, 3)).reshape(*target.shape, 3)
    within = np.all((index >= -0.49) & (index <= np.array(source.shape) - 0.51), axis=-1)
    beyond = np.any((index < -0.51) | (index > np.array(source.shape) - 0.49), axis=-1)
    assert seen.numpy()[within].all()
    assert not seen.numpy()[beyond].any()
    core = np.all((index > 4) & (index < np.array(source.shape) - 5), axis=-1)  # means reach that far at the edge
    assert core.sum() > 200
    assert np.abs(values.numpy() - ramp(target))[core].max() < 1e-2
