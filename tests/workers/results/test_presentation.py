"""Presentation states: each outline lies on its mark in the patient, and one that does not never leaves."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from node.errors import Refused
from node.profiles import BUILT_IN
from tests.real.validators import iod_faults
from tests.servers import require
from tests.workers.multiframe import enhanced, mixed, save
from tests.workers.results import scans
from tests.workers.results.test_frames import KINDS, finished
from workers.load import load
from workers.results import ComposedObject, ComposeRequest, check, compose
from workers.results.presentation import name_box

# What the tools say of a state that is in order: dciodvfy takes a part that nobody names for a paired one, and DCMTK 3.6.7
# does not take a date-time of the full 26 characters.
DCIODVFY = "Error - Missing attribute Type 2C Conditional Element=<Laterality> Module=<GeneralSeries>"
DCMPSCHK = ("ContributionDateTime (0018,a002)", "[20250102110000.500000+0000]")


DRAWN = BUILT_IN["ohif"].model_copy(update={"objects": ("seg", "gsps", "sr")})


def states(request: ComposeRequest) -> list[Dataset]:
    """Compose and read the presentation states."""
    objects = compose(replace(request, profile=DRAWN)).objects
    return [pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in objects if entry.kind == "gsps"]


def outlines(state: Dataset) -> list[tuple[Dataset, str, NDArray[np.float64]]]:
    """Give each outline with the reference to its image and its name."""
    return [
        (item.ReferencedImageSequence[0], graphic.TrackingID, np.array(graphic.GraphicData, dtype=float).reshape(-1, 2))
        for item in state.GraphicAnnotationSequence
        for graphic in item.GraphicObjectSequence
    ]


def test_worked_examples_hold() -> None:
    """Every number in the docstring is what the function gives."""
    assert name_box(np.array([[100.0, 60], [120, 60], [120, 80], [100, 80]]), 9, (256, 256)) == (100, 51, 146, 59)


@pytest.mark.parametrize("plane", ["axial", "axial-feet-first", "sagittal", "oblique"])
def test_each_outline_runs_round_its_mark_in_the_patient(plane: str) -> None:
    """Taken to millimetres by the image it names, an outline is the block that was drawn there, border by border."""
    scan = scans.Scan(plane=plane, spacing_mm=(2.5, 0.5, 0.9), reverse=plane == "sagittal")
    request = scans.request(scan)
    (state,) = states(request)
    found = outlines(state)
    assert [name for _, name, _ in found] == ["Nodule 1", "Nodule 2"]
    by_uid = {source.SOPInstanceUID: source for source in request.sources}
    for (image, _, points), (low, high) in zip(found, (((2, 5, 4), (4, 8, 8)), ((3, 6, 18), (6, 11, 21))), strict=True):
        source = by_uid[image.ReferencedSOPInstanceUID]
        place, cosines = np.array(source.ImagePositionPatient, dtype=float), np.array(source.ImageOrientationPatient, dtype=float)
        # The centre of the first pixel is (0.5, 0.5), and Image Position is that centre. Ref: PS3.3 C.10.5, C.7.6.2.1.1
        steps = (points - 0.5) * (scan.spacing_mm[2], scan.spacing_mm[1])
        corners_mm = place + steps[:, :1] * cosines[:3] + steps[:, 1:] * cosines[3:]
        away = corners_mm - np.array(scan.corner_mm)
        along = np.stack([away @ scan.through / 2.5, away @ scan.column / 0.5, away @ scan.row / 0.9], axis=-1)
        assert along[:, 0].max() - along[:, 0].min() < 1e-6
        assert low[0] - 1e-6 <= along[0, 0] < high[0] - 0.5
        assert along[:, 1:].min(axis=0) == pytest.approx(np.array(low[1:]) - 0.5, abs=1e-6)
        assert along[:, 1:].max(axis=0) == pytest.approx(np.array(high[1:]) - 0.5, abs=1e-6)


def test_the_picture_stays_as_the_image_has_it() -> None:
    """Rescale, windows and the millimetres are the source's; the marks are a layer of their own; the words are ours."""
    changes = {"RescaleSlope": "1", "RescaleIntercept": "-1024", "WindowCenter": ["40", "-600"], "WindowWidth": ["400", "1500"]}
    (state,) = states(scans.request(**changes, BodyPartExamined="LUNG", Laterality="L"))
    assert (state.RescaleSlope, state.RescaleIntercept, state.RescaleType) == (1, -1024, "HU")
    (window,) = state.SoftcopyVOILUTSequence
    assert (list(window.WindowCenter), list(window.WindowWidth)) == ([40, -600], [400, 1500])
    (area,) = state.DisplayedAreaSelectionSequence
    assert [*area.DisplayedAreaTopLeftHandCorner, *area.DisplayedAreaBottomRightHandCorner] == [1, 1, 32, 24]
    assert list(area.PresentationPixelSpacing) == [0.7, 0.9]
    assert (state.PresentationLUTShape, state.ContentLabel, state.GraphicLayerSequence[0].GraphicLayer) == ("IDENTITY", "LUNG_TEST", "AI")
    assert (state.BodyPartExamined, state.Laterality, state.Modality) == ("LUNG", "L", "PR")
    assert (state.PresentationCreationDate, state.PresentationCreationTime) == ("20250102", "110000.500000")
    assert {text.UnformattedTextValue for item in state.GraphicAnnotationSequence for text in item.TextObjectSequence} == {
        "Nodule 1",
        "Nodule 2",
    }


def test_images_with_windows_of_their_own_keep_them_and_two_rescales_make_two_states() -> None:
    """A state has one rescale, so images of two need two states; windows are told image by image. MR is so, PET too."""
    request = scans.request(scans.Scan(modality="MR"))
    for index, source in enumerate(request.sources):
        source.WindowCenter, source.WindowWidth = 100 + index, 200
    (state,) = states(request)
    told = {item.ReferencedImageSequence[0].ReferencedSOPInstanceUID: float(item.WindowCenter) for item in state.SoftcopyVOILUTSequence}
    assert told == {request.sources[index].SOPInstanceUID: 100.0 + index for index in (2, 4)}
    for index, source in enumerate(request.sources):
        source.RescaleSlope, source.RescaleIntercept = str(1 + index), "0"
    found = states(request)
    assert [(state.RescaleSlope, state.InstanceNumber, len(outlines(state))) for state in found] == [(3, 1, 1), (5, 2, 1)]
    assert len({state.SOPInstanceUID for state in found}) == 2
    assert len({state.SeriesInstanceUID for state in found}) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_outline_on_a_frame_names_it(kind: str, tmp_path: Path) -> None:
    """Of an enhanced image the frame is named, and the list of images names the image once."""
    scan, stacks = KINDS[kind]
    (path,) = save(tmp_path, enhanced(scan, stacks, order=mixed(8 * len(stacks))))
    loaded = load([path])
    request = finished(loaded)
    (state,) = states(request)
    ((image, _, points),) = outlines(state)
    assert request.prediction.instances is not None
    index = [source.frame for source in loaded.origin.sources].index(image.ReferencedFrameNumber)
    rows, columns = np.nonzero(request.prediction.instances[index])
    assert (points.min(axis=0) == (columns.min(), rows.min())).all()
    assert (points.max(axis=0) == (columns.max() + 1, rows.max() + 1)).all()
    (listed,) = state.ReferencedSeriesSequence[0].ReferencedImageSequence
    assert (listed.ReferencedSOPInstanceUID, listed.ReferencedFrameNumber) == (loaded.origin.images[0], image.ReferencedFrameNumber)
    assert listed.ReferencedSOPClassUID == pydicom.dcmread(path).SOPClassUID


def test_nothing_found_or_not_asked_for_is_no_state() -> None:
    """A detector that marks nothing draws nothing, organs neither; a profile without the kind gets none."""
    assert states(scans.request(nodules=0)) == []
    plain = replace(scans.request(), profile=DRAWN.model_copy(update={"objects": ("seg", "sr")}))
    assert {entry.kind for entry in compose(plain).objects} == {"seg", "sr"}


def test_organs_are_outlined_where_a_model_has_no_findings() -> None:
    """What a model without findings says is its organs."""
    (state,) = states(scans.request(finds=False))
    assert sorted(name for _, name, _ in outlines(state)) == ["Left lung", "Right lung"]


@cache
def composed() -> tuple[ComposeRequest, tuple[ComposedObject, ...]]:
    """Compose once, on pictures as wide as they are high."""
    request = scans.request(scans.Scan(shape=(10, 32, 32)), WindowCenter="40", WindowWidth="400", RescaleSlope="1", RescaleIntercept="0")
    request = replace(request, profile=DRAWN)
    return request, tuple(compose(request).objects)


def _graphic(state: Dataset) -> Dataset:
    graphic: Dataset = state.GraphicAnnotationSequence[0].GraphicObjectSequence[0]
    return graphic


def _moved(how: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Callable[[Dataset], None]:
    def fault(state: Dataset) -> None:
        graphic = _graphic(state)
        graphic.GraphicData = how(np.array(graphic.GraphicData, dtype=float).reshape(-1, 2)).ravel().tolist()

    return fault


def _first_image(state: Dataset) -> Dataset:
    image: Dataset = state.GraphicAnnotationSequence[0].ReferencedImageSequence[0]
    return image


def _drop(state: Dataset) -> None:
    state.GraphicAnnotationSequence = Items(state.GraphicAnnotationSequence[:1])


def _swap(state: Dataset) -> None:
    one, other = (item.GraphicObjectSequence[0] for item in state.GraphicAnnotationSequence)
    one.TrackingUID, other.TrackingUID = other.TrackingUID, one.TrackingUID


def _set(path: str, value: Any) -> Callable[[Dataset], None]:
    def fault(state: Dataset) -> None:
        target = state
        *steps, last = path.split(".")
        for step in steps:
            target = target[step].value[0]
        target[last].value = value

    return fault


OUTLINE = "where the prediction marks it"
FAULTS: dict[str, tuple[Callable[[Dataset], Any], str]] = {
    "mirrored": (_moved(lambda points: np.array([32.0, 0]) + points * (-1, 1)), OUTLINE),
    "upside down": (_moved(lambda points: np.array([0, 32.0]) + points * (1, -1)), OUTLINE),
    "rows for columns": (_moved(lambda points: points[:, ::-1]), OUTLINE),
    "half a pixel off": (_moved(lambda points: points + 0.5), OUTLINE),
    "half a pixel less": (_moved(lambda points: points - (0.5, 0)), OUTLINE),
    "a pixel off": (_moved(lambda points: points - (-1, 0)), OUTLINE),
    "in millimetres": (_moved(lambda points: points * (0.9, 0.7)), OUTLINE),
    "open": (_moved(lambda points: np.concatenate([points[:-1], points[:1] + 1])), OUTLINE),
    "on the next slice": (lambda state: _first_image(state).__setattr__("ReferencedSOPInstanceUID", f"{scans.ROOT}.3.4"), "no image"),
    "of another image": (_set("ReferencedSeriesSequence.ReferencedImageSequence.ReferencedSOPInstanceUID", "1.2.3"), "not analysed"),
    "of another series": (_set("ReferencedSeriesSequence.SeriesInstanceUID", "1.2.3"), "images' series"),
    "of another class": (
        _set("ReferencedSeriesSequence.ReferencedImageSequence.ReferencedSOPClassUID", "1.2.840.10008.5.1.4.1.1.4"),
        "not analysed",
    ),
    "a mark left out": (_drop, "everything"),
    "two marks exchanged": (_swap, "by its name"),
    "a name left out": (_set("GraphicAnnotationSequence.TextObjectSequence.UnformattedTextValue", "Something"), "by its name"),
    "a name outside": (_set("GraphicAnnotationSequence.TextObjectSequence.BoundingBoxBottomRightHandCorner", [99.0, 9.0]), "outside"),
    "another unit": (_set("GraphicAnnotationSequence.GraphicObjectSequence.GraphicAnnotationUnits", "DISPLAY"), "pixels"),
    "another patient": (_set("PatientID", "PHI-0000"), "PatientID"),
    "another study": (_set("StudyInstanceUID", "1.2.3"), "StudyInstanceUID"),
    "black for white": (_set("PresentationLUTShape", "INVERSE"), "black and white"),
    "another window": (_set("SoftcopyVOILUTSequence.WindowWidth", "4000"), "window"),
    "another rescale": (_set("RescaleIntercept", "-1024"), "rescale"),
    "a part of the image": (_set("DisplayedAreaSelectionSequence.DisplayedAreaBottomRightHandCorner", [16, 16]), "whole image"),
    "another spacing": (_set("DisplayedAreaSelectionSequence.PresentationPixelSpacing", ["1", "1"]), "spacing"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_stops_the_result(name: str) -> None:
    """An overlay that is mirrored, shifted, on another image or changes the picture never leaves."""
    request, objects = composed()
    fault, reason = FAULTS[name]
    spoiled = []
    for entry in objects:
        if entry.kind == "gsps":
            state = pydicom.dcmread(BytesIO(entry.dataset_bytes))
            fault(state)
            buffer = BytesIO()
            pydicom.dcmwrite(buffer, state)
            entry = replace(entry, dataset_bytes=buffer.getvalue())  # noqa: PLW2901 -- the fault is the point
        spoiled.append(entry)
    with pytest.raises(Refused, match=reason):
        check.verify(request, spoiled)


def test_a_state_left_out_stops_the_result() -> None:
    """Where a profile wants it, marks without an overlay do not leave."""
    request, objects = composed()
    with pytest.raises(Refused, match="everything"):
        check.verify(request, [entry for entry in objects if entry.kind != "gsps"])


def test_ragged_marks_with_islands_in_their_holes_are_outlined() -> None:
    """What a network marks is no block: the outline runs round the largest part, holes and what lies in them included."""
    request = scans.request(finds=False)
    labels = np.where(np.random.default_rng(5).random(request.prediction.labels.shape) > 0.42, np.uint8(1), np.uint8(0))
    labels[:, 5:16, 5:16] = 1
    labels[:, 7:14, 7:14] = 0
    labels[:, 10, 10] = 1
    (state,) = states(replace(request, prediction=replace(request.prediction, labels=labels)))
    assert [name for _, name, _ in outlines(state)] == ["Left lung"]


def test_the_state_is_the_same_to_the_byte_every_time() -> None:
    """Two builds of one request are one file."""
    request, objects = composed()
    assert [entry.dataset_bytes for entry in compose(request).objects] == [entry.dataset_bytes for entry in objects]


@pytest.mark.parametrize("part", [None, "CHEST"])
def test_validators_find_no_fault(part: str | None, tmp_path: Path) -> None:
    """Dciodvfy and DCMTK's dcmpschk read the state; their known lines are compared to the letter."""
    changes = {"BodyPartExamined": part} if part else {}
    (state,) = states(scans.request(WindowCenter="40", WindowWidth="400", **changes))
    path = tmp_path / "gsps.dcm"
    state.save_as(path)
    assert iod_faults(path) == ([] if part else [DCIODVFY])
    assert faults_of_state(path) == []


def faults_of_state(path: Path) -> list[str]:
    """Give what DCMTK's checker of presentation states says, without what it always says of a full date-time."""
    ran = subprocess.run([require("dcmpschk"), str(path)], capture_output=True, text=True, errors="replace", check=False)
    blocks = re.split(r"^E: \n?", ran.stdout + ran.stderr, flags=re.MULTILINE)
    return [
        line
        for block in blocks
        if not all(known in block for known in DCMPSCHK)
        for line in block.splitlines()
        if line.startswith("E:") or (line.startswith("W:") and "Testing" not in line and "Test failed" not in line)
    ]
