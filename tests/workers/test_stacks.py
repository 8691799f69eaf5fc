"""Series that hold several volumes: one is chosen by the documented rule, or none with the reason."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from node.errors import Refused
from tests.workers.multiframe import Stack, enhanced, mixed, save
from tests.workers.slices import CORONAL, SAGITTAL, Scan, datasets, slope_of_place, write
from workers.load import Loaded, load

MR = Scan(modality="MR", stored=lambda _: (1.0, -700.0))


def higher(loaded: Loaded) -> float:
    """Give by how much the volume's values are higher than what the generator puts at its places: which stack it is."""
    grid = loaded.volume.grid
    points = grid.to_world_mm(np.argwhere(np.ones(grid.shape)).astype(float)).reshape(*grid.shape, 3)
    over = loaded.volume.array - slope_of_place(points)
    assert over.max() - over.min() < 1.1
    return float(np.round(over.mean()))


def _raised(points: NDArray[np.float64], *, by: float) -> NDArray[np.float64]:
    return slope_of_place(points) + by


def classic(folder: Path, *stacks: Stack, scan: Scan = MR) -> list[Path]:
    """Write several passes over a scan as one series of single images, shuffled."""
    made: list[FileDataset] = []
    for stack in stacks:
        of = stack.scan or scan
        slices = datasets(replace(of, truth=partial(_raised, by=stack.higher)))
        for image in slices:
            for keyword, value in stack.says.items():
                setattr(image, keyword, value)
        made += slices
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        for image in made:
            setattr(image, keyword, made[0][keyword].value)
    return write(folder, [made[index] for index in mixed(len(made))])


def says(keyword: str, *values: Any) -> list[Stack]:
    """Give a stack for each value, each 100 higher than the one before."""
    return [Stack(says={keyword: value}, higher=100.0 * index) for index, value in enumerate(values)]


CLASSIC: dict[str, tuple[list[Stack], float, str]] = {
    "time points": (says("TemporalPositionIdentifier", 3, 1, 2), 100, "time point 1, the first of 3"),
    "heart phases": (says("NominalPercentageOfCardiacPhase", 0, 40, 70, 90), 200, "heart phase 70 %, the nearest to 75 % of 4"),
    "trigger times": (says("TriggerTime", 400, 0, 200), 100, "trigger time 0 ms, the shortest of 3"),
    "echoes": (says("EchoTime", 9.2, 4.6), 100, "echo 4.6, the shortest of 2"),
    "diffusion": (says("DiffusionBValue", 1000, 0, 500), 100, "b-value 0, the lowest of 3"),
    "diffusion without a value": ([Stack(says={"DiffusionBValue": 800}, higher=100), Stack(says={})], 0, "b-value 0, the lowest of 2"),
    "components": (
        says("ImageType", ["ORIGINAL", "PRIMARY", "P", "ND"], ["ORIGINAL", "PRIMARY", "M", "ND"]),
        100,
        "magnitude of 2 complex components",
    ),
    "echoes over time": (
        [
            Stack(says={"TemporalPositionIdentifier": time, "EchoTime": echo}, higher=100 * time + echo)
            for time in (2, 1)
            for echo in (20, 10)
        ],
        110,
        "time point 1, the first of 2, echo 10, the shortest of 2",
    ),
    "time points with their own acquisitions": (
        [Stack(says={"TemporalPositionIdentifier": n, "AcquisitionNumber": 3 - n}, higher=n) for n in (1, 2)],
        1,
        "time point 1, the first of 2",
    ),
}


@pytest.mark.parametrize(("stacks", "expected", "words"), CLASSIC.values(), ids=CLASSIC.keys())
def test_the_rule_chooses_among_single_images(tmp_path: Path, stacks: list[Stack], expected: float, words: str) -> None:
    """Of a classic series that repeats its places the documented one is loaded, whole, and the remark says which."""
    loaded = load(classic(tmp_path, *stacks))
    assert higher(loaded) == expected
    assert loaded.volume.grid.shape == (6, 10, 14)
    assert loaded.origin.remark == words
    assert loaded.origin.given == 6 * len(stacks)


ENHANCED: dict[str, tuple[list[Stack], float, str]] = {
    "time points": (says("TemporalPositionIndex", 2, 1), 100, "time point 1, the first of 2"),
    "heart phases": (says("NominalPercentageOfCardiacPhase", 30.0, 75.0), 100, "heart phase 75 %, the nearest to 75 % of 2"),
    "echoes": (says("EffectiveEchoTime", 4.6, 2.3, 6.9), 100, "echo 2.3, the shortest of 3"),
    "diffusion": (says("DiffusionBValue", 0.0, 800.0), 0, "b-value 0, the lowest of 2"),
    "stacks": (
        [
            Stack(says={"StackID": "A"}, higher=100, scan=replace(MR, shape=(4, 10, 14), planes=SAGITTAL)),
            Stack(says={"StackID": "B"}),
        ],
        0,
        "stack B, the largest of 2",
    ),
    "stacks behind each other": (
        [
            Stack(says={"StackID": "1"}, scan=replace(MR, shape=(2, 10, 14))),
            Stack(says={"StackID": "2"}, scan=replace(MR, shape=(4, 10, 14), origin_mm=(-31.0, -22.0, 49.0))),
        ],
        0,
        "",
    ),
}


@pytest.mark.parametrize(("stacks", "expected", "words"), ENHANCED.values(), ids=ENHANCED.keys())
def test_the_rule_chooses_among_frames(tmp_path: Path, stacks: list[Stack], expected: float, words: str) -> None:
    """Of an enhanced image whose dimensions repeat places the documented frames are loaded, and named as sources."""
    image = enhanced(MR, stacks)
    count = int(image.NumberOfFrames)
    loaded = load(save(tmp_path, enhanced(MR, stacks, order=mixed(count))))
    assert higher(loaded) == expected
    assert loaded.volume.grid.shape == (6, 10, 14)
    assert loaded.origin.remark == words
    assert len({source.frame for source in loaded.origin.sources}) == 6


def test_a_phase_in_an_image_of_its_own_is_chosen_the_same_way(tmp_path: Path) -> None:
    """Some scanners write one enhanced image a time point: the first is taken, and only it is named as a source."""
    images = [enhanced(MR, [stack]) for stack in says("TemporalPositionIndex", 2, 1)]
    loaded = load(save(tmp_path, *images))
    assert higher(loaded) == 100
    assert loaded.origin.images == (str(images[1].SOPInstanceUID),)


REFUSED: dict[str, tuple[list[Stack], str]] = {
    "acquisitions": (says("AcquisitionNumber", 1, 2), "several acquisitions"),
    "kernels": (says("ConvolutionKernel", "B30f", "B70f"), "several reconstruction kernels"),
    "image types": (says("ImageType", ["ORIGINAL", "PRIMARY", "WATER"], ["ORIGINAL", "PRIMARY", "FAT"]), "several image types"),
    "directions of one b-value": (says("DiffusionBValue", 800, 800), "It is not clear which one counts"),
    "no magnitude": (says("ComplexImageComponent", "PHASE", "REAL"), "none of which is the magnitude"),
    "a time point that lacks slices": (
        [Stack(says={"TemporalPositionIdentifier": 1}, scan=replace(MR, shape=(5, 10, 14))), Stack(says={"TemporalPositionIdentifier": 2})],
        "those of 1 lie at 5 of 6 positions only",
    ),
    "two directions without stack ids": (
        [Stack(says={}), Stack(says={}, scan=replace(MR, planes=CORONAL))],
        "mixes orientations: 6 of 12",
    ),
}


@pytest.mark.parametrize(("stacks", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_where_no_rule_chooses_the_series_is_refused(tmp_path: Path, stacks: list[Stack], reason: str) -> None:
    """What tells two images of a place apart without a rule is named in the reason."""
    with pytest.raises(Refused, match=reason):
        load(classic(tmp_path, *stacks))


def test_frames_told_apart_by_an_unknown_dimension_are_refused(tmp_path: Path) -> None:
    """Two inversion times at each place differ in their dimension indices alone, and are refused with that."""
    stacks = [Stack(says={"DimensionIndexValues": [index, 1]}, higher=index) for index in (1, 2)]
    with pytest.raises(Refused, match="dimension indices"):
        load(save(tmp_path, enhanced(MR, stacks)))


def test_stacks_of_one_size_in_three_directions_are_refused(tmp_path: Path) -> None:
    """A three-plane localizer that does not call itself one has no stack that counts."""
    planes = (MR.planes, SAGITTAL, CORONAL)
    stacks = [Stack(says={"StackID": str(index)}, scan=replace(MR, planes=each)) for index, each in enumerate(planes)]
    with pytest.raises(Refused, match="3 stacks of planes"):
        load(save(tmp_path, enhanced(MR, stacks)))


def test_a_localizer_among_the_slices_is_left_out(tmp_path: Path) -> None:
    """A scout of another plane and size that calls itself LOCALIZER does not cost the series, and the remark says so."""
    made = datasets(MR)
    (scout, *_) = datasets(replace(MR, planes=CORONAL, shape=(1, 20, 20)))
    scout.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    scout.StudyInstanceUID, scout.SeriesInstanceUID = made[0].StudyInstanceUID, made[0].SeriesInstanceUID
    loaded = load(write(tmp_path, [scout, *made]))
    assert loaded.origin.remark == "1 localizer left out"
    assert loaded.origin.given == 7
    assert higher(loaded) == 0


def test_overlapping_slices_are_one_stack(tmp_path: Path) -> None:
    """Slices 3 mm thick every 2 mm are loaded 2 mm apart, thickness or not."""
    loaded = load(classic(tmp_path, Stack(says={"SliceThickness": 3.0, "SpacingBetweenSlices": 2.0})))
    assert loaded.volume.grid.spacing_mm[0] == pytest.approx(2.0)
    assert higher(loaded) == 0
