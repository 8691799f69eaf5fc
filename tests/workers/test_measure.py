"""Measures: the worked examples of the docstrings, and bodies whose volume and diameters are known."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from models.card import Card, read
from models.vocabulary import Box, Finding, Grid, Prediction, Volume
from workers.measure import attenuation_hu, diameters_mm, key_slice, largest_part, measure, outline, volume_mm3

GRID = Grid(shape=(20, 60, 80), origin_mm=(5, 6, 7), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(2.0, 0.5, 0.8))
CARD = """
schema_version = 1
[model]
name = "m"
version = "1"
title = "M"
licence = "x"
intended_use = "x"
limits = ["x"]
[runtime]
format = "x"
[[inputs]]
role = "ct"
reference = true
[inputs.accept]
modality = ["CT"]
[output]
kind = "labels"
inverse = "runtime"
[[output.labels]]
index = 7
label = "Organ"
kind = "organ"
category = { scheme = "SCT", value = "123037004", meaning = "Anatomical Structure" }
type = { scheme = "SCT", value = "39607008", meaning = "Lung" }
cielab = [1, 1, 1]
[[output.labels]]
index = 2
label = "Other"
kind = "organ"
category = { scheme = "SCT", value = "123037004", meaning = "Anatomical Structure" }
type = { scheme = "SCT", value = "39607008", meaning = "Lung" }
cielab = [1, 1, 1]
[[output.labels]]
index = 3
label = "Nodule"
kind = "finding"
category = { scheme = "SCT", value = "49755003", meaning = "Morphologically Abnormal Structure" }
type = { scheme = "SCT", value = "27925004", meaning = "Nodule" }
cielab = [1, 1, 1]
[[measurements]]
label = 7
what = ["volume", "probability"]
[[measurements]]
label = 3
what = ["volume", "diameters", "hu", "probability"]
"""


@pytest.fixture
def card(tmp_path: Path) -> Card:
    """Give a card with two organs, out of index order, and one finding."""
    (tmp_path / "card.toml").write_text(CARD)
    return read(tmp_path / "card.toml").card


def ellipse(rows: int, columns: int, centre: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """Give a 2-D mask of the pixels whose centres lie in an ellipse."""
    row, column = np.mgrid[:rows, :columns]
    return ((row - centre[0]) / radii[0]) ** 2 + ((column - centre[1]) / radii[1]) ** 2 <= 1


def enclosed(polyline: np.ndarray) -> float:
    """Give a closed polyline's area by the shoelace formula."""
    x, y = polyline[:-1].T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def test_worked_examples_hold() -> None:
    """Every number in the docstrings is what the function gives."""
    grid = Grid(shape=(1, 1, 10), origin_mm=(0, 0, 0), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(2, 0.5, 0.5))
    assert volume_mm3(10, grid) == 5
    mean, deviation = attenuation_hu([np.array([10, 20]), np.array([30, 40])])
    assert (mean, round(deviation, 2)) == (25, 11.18)
    assert key_slice([1, 4, 4, 4, 2]) == 2
    ring = np.ones((5, 5), dtype=bool)
    ring[1, 1] = ring[3:, :] = ring[:, 3:] = False
    ring[4, 4] = True
    assert np.array_equal(np.argwhere(largest_part(ring)), np.argwhere(np.ones((3, 3))))
    lone = np.zeros((5, 9), dtype=bool)
    lone[2, 5] = True
    assert outline(lone).tolist() == [[5, 2], [5.5, 2], [6, 2], [6, 2.5], [6, 3], [5.5, 3], [5, 3], [5, 2.5], [5, 2]]
    assert diameters_mm(np.ones((3, 8), dtype=bool), row_mm=2, column_mm=0.5)[0] == pytest.approx(6.95, abs=0.005)


@pytest.mark.parametrize("radius_px", [2.2, 5.0, 12.5, 25.3])
def test_a_disc_keeps_its_diameter(radius_px: float) -> None:
    """Both diameters of a disc are its diameter, within a pixel at any size."""
    long_mm, short_mm = diameters_mm(ellipse(64, 64, (31.3, 30.6), (radius_px, radius_px)), row_mm=0.5, column_mm=0.5)
    assert long_mm == pytest.approx(radius_px, abs=0.5)
    assert short_mm == pytest.approx(radius_px, abs=0.5)


@pytest.mark.parametrize(("row_mm", "column_mm"), [(0.5, 1.0), (1.0, 0.5)])
def test_diameters_are_millimetres_where_pixels_are_not_square(row_mm: float, column_mm: float) -> None:
    """An ellipse of 30 by 12 mm measures so, also where it is drawn on pixels twice as high as wide."""
    mask = ellipse(120, 120, (60, 60), (15 / row_mm, 6 / column_mm))
    assert diameters_mm(mask, row_mm=row_mm, column_mm=column_mm) == pytest.approx((30, 12), abs=1.0)


def test_the_short_diameter_stands_on_the_long_one() -> None:
    """A bar of 40 by 10 pixels at 45 degrees: its diagonal is the long one, and the chord across it the short one."""
    row, column = np.mgrid[:80, :80] - 40.0
    along, across = (row + column) / np.sqrt(2), (row - column) / np.sqrt(2)
    bar = (np.abs(along) <= 20) & (np.abs(across) <= 5)
    long_mm, short_mm = diameters_mm(bar, row_mm=1, column_mm=1)
    assert long_mm == pytest.approx(np.hypot(40, 10), abs=1.5)
    # Across the diagonal, at atan(10/40) to the bar: 10 / cos(14 degrees).
    assert short_mm == pytest.approx(10 / np.cos(np.arctan(0.25)), abs=1.5)


@pytest.mark.parametrize("seed", range(6))
def test_an_outline_encloses_exactly_its_mask(seed: int) -> None:
    """The outline of any shape is closed, has six points or more, the mask's area, and every pixel centre inside."""
    noise = np.random.default_rng(seed).random((24, 30))
    mask = largest_part(noise > 0.42)
    polyline = outline(mask)
    assert len(polyline) >= 6
    assert np.array_equal(polyline[0], polyline[-1])
    assert enclosed(polyline) == mask.sum()
    for row, column in np.argwhere(np.ones(mask.shape)):
        crossings = 0
        for (x1, y1), (x2, y2) in pairwise(polyline):
            crossings += bool(x1 == x2 and x1 > column + 0.5 and min(y1, y2) < row + 0.5 < max(y1, y2))
        assert crossings % 2 == mask[row, column]


def test_segments_are_measured_on_their_grid(card: Card) -> None:
    """Organs come in the card's order and findings by number, each with its volume, values, key slice and outline."""
    labels = np.zeros(GRID.shape, dtype=np.uint8)
    labels[2:9, 10:40, 5:25] = 7
    labels[3, 50, 70] = 2
    instances = np.zeros(GRID.shape, dtype=np.uint16)
    instances[10, 20:24, 60:65] = 1
    instances[11, 20:26, 60:65] = 1
    array = np.full(GRID.shape, -800, dtype=np.int16)
    array[10, 20:24, 60:65], array[11, 20:26, 60:65] = 40, 60
    finding = Finding(number=1, label=3, score=0.876, box=Box(low=(10, 20, 60), high=(12, 26, 65)), deviation=0.043)
    prediction = Prediction(grid=GRID, labels=labels, instances=instances, findings=(finding,))
    organ, other, nodule = measure(prediction, Volume(array=array, grid=GRID, unit="HU", modality="CT"), card)
    assert (organ.key, other.key, nodule.key, nodule.label) == (("organ", 7), ("organ", 2), ("finding", 1), 3)
    assert [(entry.value, entry.unit.value) for entry in organ.measurements] == [(3.4, "mL")]  # 7 * 30 * 20 * 0.8 mm3 = 3360
    assert other.measurements == ()
    assert (organ.key_slice, other.key_slice, nodule.key_slice) == (5, 3, 11)
    values = {(entry.concept.value, entry.derivation.meaning if entry.derivation else ""): entry.value for entry in nodule.measurements}
    assert values[("118565006", "")] == 40  # 50 voxels of 0.8 mm3
    assert values[("112031", "Mean")] == 52  # (20 * 40 + 30 * 60) / 50
    assert values[("112031", "Standard Deviation")] == 10
    assert values[("111012", "")] == 88
    assert values[("111012", "Standard Deviation")] == 4
    assert values[("103339001", "")] == pytest.approx(np.hypot(4.0, 2.5), abs=0.05)  # 5 columns of 0.8, between row middles 5 of 0.5
    assert list(values)[-1] == ("112031", "Standard Deviation")
    assert set(map(tuple, nodule.outline.tolist())) >= {(60, 20), (65, 20), (65, 26), (60, 26)}
    assert enclosed(nodule.outline) == 30


def test_a_series_without_absolute_values_has_no_attenuation(card: Card) -> None:
    """Where values have no unit, no Hounsfield number is given."""
    instances = np.zeros(GRID.shape, dtype=np.uint16)
    instances[1, 1, 1] = 1
    finding = Finding(number=1, label=3, score=1, box=Box(low=(1, 1, 1), high=(2, 2, 2)))
    prediction = Prediction(grid=GRID, labels=np.zeros(GRID.shape, dtype=np.uint8), instances=instances, findings=(finding,))
    (only,) = measure(prediction, Volume(array=np.zeros(GRID.shape, dtype=np.int16), grid=GRID, unit="1", modality="MR"), card)
    assert "112031" not in {entry.concept.value for entry in only.measurements}
    assert len(only.outline) >= 6


def test_a_finding_without_voxels_is_a_fault(card: Card) -> None:
    """A finding whose box holds none of its voxels is not measured in silence."""
    finding = Finding(number=1, label=3, score=1, box=Box(low=(1, 1, 1), high=(2, 2, 2)))
    empty = np.zeros(GRID.shape)
    prediction = Prediction(grid=GRID, labels=empty.astype(np.uint8), instances=empty.astype(np.uint16), findings=(finding,))
    with pytest.raises(ValueError, match="no voxel"):
        measure(prediction, Volume(array=empty.astype(np.int16), grid=GRID, unit="HU", modality="CT"), card)


def _radiograph(*, calibrated: bool, boxes: bool) -> tuple[Prediction, Volume]:
    """Give a finding of 4 rows by 10 columns on a picture of 40 x 60 pixels, 0.5 mm high and 0.2 mm wide."""
    flat = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
    grid = Grid(shape=(1, 40, 60), origin_mm=(0, 0, 0), axes=flat, spacing_mm=(1, 0.5, 0.2), space="image", calibrated=calibrated)
    instances = np.zeros(grid.shape, np.uint16)
    instances[0, 10:14, 20:30] = 1
    finding = Finding(number=1, label=3, score=0.654, box=Box(low=(0, 10, 20), high=(1, 14, 30)))
    labels = np.zeros(grid.shape, np.uint8)
    prediction = Prediction(grid=grid, labels=labels, instances=None if boxes else instances, findings=(finding,))
    return prediction, Volume(array=np.zeros(grid.shape, np.float32), grid=grid, unit="1", modality="DX")


def _measured(card: Card, *, calibrated: bool, boxes: bool) -> list[tuple[str, float, str]]:
    asked = card.measurements[-1].model_copy(update={"what": ("volume", "area", "diameters", "hu", "probability")})
    (segment,) = measure(*_radiograph(calibrated=calibrated, boxes=boxes), card.model_copy(update={"measurements": (asked,)}))
    assert segment.key_slice == 0
    assert segment.outline.tolist()[::2] == [[20, 10], [30, 10], [30, 14], [20, 14], [20, 10]]
    assert len(segment.outline) == 9
    return [(entry.concept.meaning, entry.value, entry.unit.value) for entry in segment.measurements]


def test_a_box_has_sides_and_a_score_and_no_area(card: Card) -> None:
    """Of a finding that a box alone marks, width, height and score are known; nothing that needs its voxels is given."""
    assert _measured(card, calibrated=True, boxes=True) == [("Width", 2.0, "mm"), ("Height", 2.0, "mm"), ("Certainty of Finding", 65, "%")]


def test_a_radiograph_has_millimetres_only_where_it_is_calibrated(card: Card) -> None:
    """Areas are in pixels and no length is given where the distance of pixels in the patient is not known; a volume never is."""
    assert _measured(card, calibrated=False, boxes=True) == [("Certainty of Finding", 65, "%")]
    assert _measured(card, calibrated=False, boxes=False) == [("Area", 40, "{pixels}"), ("Certainty of Finding", 65, "%")]
    names = [(name, unit) for name, _, unit in _measured(card, calibrated=True, boxes=False)]
    assert names == [("Area", "mm2"), ("Long Axis", "mm"), ("Short Axis", "mm"), ("Certainty of Finding", "%")]
    assert _measured(card, calibrated=True, boxes=False)[0][1] == 4.0
