"""Results on radiographs: report and overlay at the opacity's place in the patient, valid whatever the header lacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from models.vocabulary import Prediction
from node.errors import Refused
from node.profiles import BUILT_IN
from tests.radiographs import CHEST, Opacity, Radiograph, place_of
from tests.real.validators import iod_faults, report_text
from tests.workers.results import pictures
from tests.workers.results.test_presentation import DCIODVFY, faults_of_state
from workers.results import ComposedObject, ComposeRequest, check, compose

DRAWN = BUILT_IN["ohif"].model_copy(update={"objects": ("seg", "gsps", "sr")})
SHOWN: dict[str, Radiograph] = {
    "chest": Radiograph(spacing_mm=(0.5, 0.4)),
    "mirrored": Radiograph(orientation=("R", "F")),
    "upside down, inverted": Radiograph(kind="CR", orientation=("R", "H"), inverted=True),
    "lying": Radiograph(orientation=("F", "L"), shape=(280, 220)),
    "raw": Radiograph(kind="DX raw", calibrated=False, spacing_mm=(0.5, 0.4)),
    "breast": Radiograph(kind="MG", sides=("A", "L"), orientation=("P", "L")),
}


def request(folder: Path, shown: Radiograph) -> ComposeRequest:
    """Give a perfect analysis, to be written without a page."""
    return replace(pictures.request(folder, shown), profile=DRAWN)


def read(objects: list[ComposedObject]) -> dict[str, Dataset]:
    """Read objects by kind."""
    return {entry.kind: pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in objects}


def items(report: Dataset, value_type: str) -> list[Dataset]:
    """Give every content item of that type."""
    found: list[Dataset] = []
    for item in report.get("ContentSequence", ()):
        found += [item] if item.ValueType == value_type else []
        found += items(item, value_type)
    return found


def lines(state: Dataset) -> list[np.ndarray]:
    """Give the outlines of a presentation state."""
    return [
        np.array(graphic.GraphicData, dtype=float).reshape(-1, 2)
        for item in state.GraphicAnnotationSequence
        for graphic in item.GraphicObjectSequence
    ]


@pytest.mark.parametrize("name", SHOWN)
def test_boxes_lie_round_the_opacities_in_the_patient(tmp_path: Path, name: str) -> None:
    """By the image's own orientation each box is where the opacity was drawn; a mirrored one would be on the other side."""
    shown = SHOWN[name]
    written = read(compose(request(tmp_path, shown)).objects)
    assert list(written) == ["gsps", "sr"]
    told = [np.array(item.GraphicData, dtype=float).reshape(-1, 2) for item in items(written["sr"], "SCOORD")]
    image = pydicom.dcmread(tmp_path / "1.dcm")
    for found in (told, lines(written["gsps"])):
        places = [place_of(points, image, shown.sides, shown.spacing_mm) for points in found]
        assert len(places) == len(shown.opacities)
        for spot in shown.opacities:
            low, high = np.array(spot.at_mm) - spot.half_mm, np.array(spot.at_mm) + spot.half_mm
            off = [max(np.abs(each.min(axis=0) - low).max(), np.abs(each.max(axis=0) - high).max()) for each in places]
            assert min(off) < 0.51


@pytest.mark.parametrize("name", SHOWN)
def test_validators_find_no_fault_and_a_rebuild_is_the_same(tmp_path: Path, name: str) -> None:
    """Dciodvfy, dsrdump and dcmpschk are silent on every kind of radiograph, and the bytes repeat."""
    made = request(tmp_path, SHOWN[name])
    objects = compose(made).objects
    for entry in objects:
        path = tmp_path / f"{entry.kind}.dcm"
        path.write_bytes(entry.dataset_bytes)
        assert iod_faults(path) == []
    assert faults_of_state(tmp_path / "gsps.dcm") == []
    assert "Opacity 2" in report_text(tmp_path / "sr.dcm")
    assert compose(made).objects == objects


def test_millimetres_are_told_only_of_a_calibrated_picture(tmp_path: Path) -> None:
    """Width and height are the truth's where the image is calibrated, absent where it is not; the overlay keeps the proportions."""
    wide = {"spacing_mm": (0.5, 0.4)}
    written = read(compose(request(tmp_path, Radiograph(**wide))).objects)  # type: ignore[arg-type]
    numbers = [
        (item.ConceptNameCodeSequence[0].CodeMeaning, float(item.MeasuredValueSequence[0].NumericValue))
        for item in items(written["sr"], "NUM")
        if item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "mm"
        and item.ConceptNameCodeSequence[0].CodeMeaning in {"Width", "Height"}
    ]
    for name, axis in (("Width", 0), ("Height", 1)):
        values = sorted(value for key, value in numbers if key == name)
        assert values == pytest.approx(sorted(2 * spot.half_mm[axis] for spot in CHEST), abs=0.6)
    area = written["gsps"].DisplayedAreaSelectionSequence[0]
    assert list(area.PresentationPixelSpacing) == [0.5, 0.4]
    written = read(compose(request(tmp_path / "other", Radiograph(calibrated=False, **wide))).objects)  # type: ignore[arg-type]
    meanings = {item.ConceptNameCodeSequence[0].CodeMeaning for item in items(written["sr"], "NUM")}
    assert "Certainty of Finding" in meanings
    assert not meanings & {"Width", "Height"}
    area = written["gsps"].DisplayedAreaSelectionSequence[0]
    assert "PresentationPixelSpacing" not in area
    assert list(area.PresentationPixelAspectRatio) == [5, 4]


def test_an_inverted_picture_stays_inverted(tmp_path: Path) -> None:
    """MONOCHROME1 is shown with the presentation look-up table INVERSE and its own window."""
    written = read(compose(request(tmp_path, Radiograph(inverted=True))).objects)
    assert written["gsps"].PresentationLUTShape == "INVERSE"
    (window,) = written["gsps"].SoftcopyVOILUTSequence
    assert (float(window.WindowCenter), float(window.WindowWidth)) == (1800.5, 3201)


def test_nothing_found_is_a_report_in_words(tmp_path: Path) -> None:
    """No overlay; the report opens as text and says that nothing was marked."""
    made = request(tmp_path, Radiograph())
    none = replace(made, prediction=replace(made.prediction, findings=()))
    written = read(compose(none).objects)
    assert list(written) == ["sr"]
    assert written["sr"].ConceptNameCodeSequence[0].CodeValue == "18748-4"
    assert any("No opacity marked." in item.TextValue for item in items(written["sr"], "TEXT"))


LACKING: dict[str, dict[str, Any]] = {
    "spacing": {"PixelSpacing": None, "ImagerPixelSpacing": None},
    "orientation": {"PatientOrientation": None},
    "window": {"WindowCenter": None, "WindowWidth": None},
    "a width": {"WindowWidth": "0"},
    "side": {"ImageLaterality": None, "Laterality": None, "BodyPartExamined": None},
    "type 2": {"AccessionNumber": None, "PatientBirthDate": None, "ReferringPhysicianName": None, "PatientSex": "X"},
    "presentation shape": {"PresentationLUTShape": None},
}


@pytest.mark.parametrize("what", LACKING)
def test_what_a_header_lacks_makes_no_faulty_object(tmp_path: Path, what: str) -> None:
    """Each result is valid, and its box still where it was."""
    made = request(tmp_path, Radiograph(changes=LACKING[what]))
    for entry in compose(made).objects:
        path = tmp_path / f"{entry.kind}.dcm"
        path.write_bytes(entry.dataset_bytes)
        assert iod_faults(path) == ([DCIODVFY] if what == "side" and entry.kind == "gsps" else [])


def test_the_look_up_table_of_a_picture_goes_with_it(tmp_path: Path) -> None:
    """A VOI look-up table is copied, not replaced by a window."""
    path = Radiograph().write(tmp_path)
    image = pydicom.dcmread(path)
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], (16 * np.arange(4096)).astype("<u2").tobytes()
    image.VOILUTSequence = [table]
    made = request(tmp_path / "again", Radiograph())
    image.remove_private_tags()
    source = Dataset()
    source.update({element.tag: element for element in image if element.keyword != "PixelData"})
    (state,) = [entry for entry in compose(replace(made, sources=(source,))).objects if entry.kind == "gsps"]
    (shown,) = pydicom.dcmread(BytesIO(state.dataset_bytes)).SoftcopyVOILUTSequence
    assert "WindowCenter" not in shown
    assert list(shown.VOILUTSequence[0].LUTDescriptor) == [4096, 0, 16]
    (tmp_path / "gsps.dcm").write_bytes(state.dataset_bytes)
    assert iod_faults(tmp_path / "gsps.dcm") == []


Corner = tuple[int, ...]


def _boxes(how: Callable[[Corner, Corner], tuple[Corner, Corner]]) -> Callable[[Prediction], Prediction]:
    def change(prediction: Prediction) -> Prediction:
        moved = []
        for finding in prediction.findings:
            low, high = how(finding.box.low, finding.box.high)
            moved.append(replace(finding, box=replace(finding.box, low=low, high=high)))  # type: ignore[arg-type]
        return replace(prediction, findings=tuple(moved))

    return change


CHANGED: dict[str, Callable[[Prediction], Prediction]] = {
    "mirrored": _boxes(lambda low, high: ((0, low[1], 260 - high[2]), (1, high[1], 260 - low[2]))),
    "a pixel aside": _boxes(lambda low, high: ((0, low[1], low[2] + 1), (1, high[1], high[2] + 1))),
    "a pixel larger": _boxes(lambda low, high: ((0, low[1], low[2]), (1, high[1] + 1, high[2]))),
    "one missing": lambda prediction: replace(prediction, findings=prediction.findings[:1]),
}


@pytest.mark.parametrize("kind", ["gsps", "sr"])
@pytest.mark.parametrize("how", CHANGED)
def test_a_box_that_is_not_the_predictions_never_leaves(tmp_path: Path, kind: str, how: str) -> None:
    """One object made of other boxes, the other of the true ones: the last gate sees it."""
    made = request(tmp_path, Radiograph())
    true, false = compose(made).objects, compose(replace(made, prediction=CHANGED[how](made.prediction))).objects
    mixed = [wrong if right.kind == kind else right for right, wrong in zip(true, false, strict=True)]
    with pytest.raises(Refused):
        check.verify(made, mixed)
    check.verify(made, true)


def test_a_box_outside_of_the_picture_is_refused(tmp_path: Path) -> None:
    """A box that leaves the picture, or is empty, is no result; nor is one whose card does not announce boxes."""
    made = request(tmp_path, Radiograph())
    for how in (lambda low, _: (low, (1, 500, 260)), lambda low, _: (low, low)):
        with pytest.raises(Refused, match="box"):
            compose(replace(made, prediction=_boxes(how)(made.prediction)))
    card = pictures.card(output=made.card.card.output.model_dump() | {"kind": "labels"})
    with pytest.raises(Refused, match="announce"):
        compose(replace(made, card=card))


@pytest.mark.parametrize("profile", BUILT_IN)
def test_the_smallest_pictures_have_results_in_every_profile(tmp_path: Path, profile: str) -> None:
    """One row, or a dozen, with a box from border to border and a name that has no room: written, checked, and in place."""
    spot = Opacity(at_mm=(10.0, 0.0), half_mm=(8.0, 5.0))
    for number, shape in enumerate(((1, 260), (12, 100))):
        made = replace(pictures.request(tmp_path / str(number), Radiograph(shape=shape, opacities=(spot,))), profile=BUILT_IN[profile])
        written = read(compose(made).objects)
        (points,) = lines(written["gsps"])
        (finding,) = made.prediction.findings
        assert points.min(axis=0).tolist() == [finding.box.low[2], finding.box.low[1]]
        assert points.max(axis=0).tolist() == [finding.box.high[2], finding.box.high[1]]
