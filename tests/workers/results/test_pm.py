"""A parametric map holds each label's probability at the place in the patient where the model gave it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from node.errors import Refused
from node.profiles import Profile
from tests.servers import require
from tests.workers.results import scans
from tests.workers.results.scans import Scan
from workers.results import ComposedObject, ComposeRequest, check, compose

SLOPE = np.array([1.0, 0.5, -0.3])
"""Along which the ramp grows, to the patient's left, back and feet."""
MAPS = Profile(name="maps", objects=("pm", "sr"))
# What dciodvfy of 2022 does not know yet is the derived pixel contrast; and the side is as unknown as in the images.
ALLOWED = {
    "Warning - Unrecognized defined term <QUANTITY> for value 4 of attribute <Image Type>",
    "Warning - Unrecognized defined term <QUANTITY> for value 4 of attribute <Frame Type>",
    (
        "Warning - is only permitted to be empty when actually unknown; should be absent (not empty) if an unpaired body part, "
        "and have a value if a paired body part - attribute <Laterality>"
    ),
}


def request(scan: Scan | None = None) -> ComposeRequest:
    """Give an analysis with the probabilities of the left lung and of nodules: a ramp through the patient, and one voxel."""
    first = scans.request(scan)
    along_mm = (scan or Scan()).places_mm() @ SLOPE
    ramp = np.round(255 * (along_mm - along_mm.min()) / np.ptp(along_mm)).astype(np.uint8)
    peak = np.zeros_like(ramp)
    peak[2, 6, 5] = 128
    return replace(first, prediction=replace(first.prediction, probabilities={1: ramp, 3: peak}), profile=MAPS)


@cache
def composed() -> tuple[ComposeRequest, tuple[ComposedObject, ...]]:
    """Compose once."""
    return request(), tuple(compose(request()).objects)


def maps() -> list[Dataset]:
    """Read the maps back."""
    return [pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in composed()[1] if entry.kind == "pm"]


@pytest.mark.parametrize("plane", ["axial-feet-first", "sagittal", "oblique"])
def test_highdicom_finds_each_probability_at_its_place_in_the_patient(plane: str) -> None:
    """The ramp grows in the same direction of the patient whatever the plane; a mirrored map's would not."""
    scan = Scan(plane=plane, reverse=plane == "sagittal")
    first = next(entry for entry in compose(request(scan)).objects if entry.kind == "pm")
    image = highdicom.pm.ParametricMap.from_dataset(pydicom.dcmread(BytesIO(first.dataset_bytes)))
    volume = image.get_volume(apply_real_world_transform=True)
    places_mm = volume.map_indices_to_reference(np.argwhere(np.ones(volume.spatial_shape, bool)))
    along_mm = scan.places_mm() @ SLOPE
    expected = (places_mm @ SLOPE - along_mm.min()) / np.ptp(along_mm)
    assert np.abs(volume.array.ravel() - expected).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("syntax", ["explicit", "rle", "jpeg-ls"])
def test_a_map_of_too_many_frames_is_several(syntax: str) -> None:
    """Of ten slices and at most four frames each label has three maps, in series of their own; together they are the whole, in place."""
    profile = Profile(name="split", objects=("pm", "sr"), frames_max=4, pm_syntax=syntax)  # type: ignore[arg-type]
    made = replace(request(), profile=profile)
    entries = [pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in compose(made).objects if entry.kind == "pm"]
    assert [int(entry.NumberOfFrames) for entry in entries] == [3, 3, 4] * 2
    assert len({entry.SeriesInstanceUID for entry in entries} | {entry.SOPInstanceUID for entry in entries}) == 12
    assert [entry.SeriesDescription for entry in entries[:2]] == [
        f"Probability of Left lung {n}/3 - AI lung-test 1.2.0 unverified" for n in (1, 2)
    ]
    places = Scan().places_mm()
    for first in (0, 3):
        wanted = made.prediction.probabilities[1 if first == 0 else 3]
        met = set()
        for entry in entries[first : first + 3]:
            assert bool(entry.file_meta.TransferSyntaxUID.is_encapsulated) is (syntax != "explicit")
            for pixels, group in zip(entry.pixel_array, entry.PerFrameFunctionalGroupsSequence, strict=True):
                place = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
                index = int(np.linalg.norm(places[:, 0, 0] - place, axis=1).argmin())
                assert np.array_equal(pixels, wanted[index])
                met.add(index)
            named = entry.ReferencedSeriesSequence[0].ReferencedInstanceSequence
            assert len(named) == int(entry.NumberOfFrames)
        assert met == set(range(10))


def test_a_map_of_which_a_part_is_missing_is_refused() -> None:
    """A piece of a map says nothing of the rest of the label."""
    made = replace(request(), profile=Profile(name="split", objects=("pm", "sr"), frames_max=4))
    objects = compose(made).objects
    with pytest.raises(Refused, match="a slice of one is missing"):
        check.verify(made, [*objects[:1], *objects[2:]])


def test_a_map_says_of_what_it_is_the_probability() -> None:
    """One map a label, each in a series of its own, since a viewer shows the last of a series."""
    first, second = maps()
    assert [entry.ContentDescription for entry in (first, second)] == ["Probability of Left lung", "Probability of Nodule"]
    assert first.SeriesInstanceUID != second.SeriesInstanceUID
    assert (first.SeriesNumber, second.SeriesNumber) == (9006, 9016)
    assert second.SeriesDescription == "Probability of Nodule - AI lung-test 1.2.0 unverified"
    mapping = second.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert [item.ConceptCodeSequence[0].CodeMeaning for item in mapping.QuantityDefinitionSequence] == ["Probability", "Nodule"]


def test_a_model_without_probabilities_writes_no_map() -> None:
    """What is asked for and not there is left out."""
    assert [entry.kind for entry in compose(replace(scans.request(), profile=MAPS)).objects] == ["sr"]


def test_the_same_map_is_the_same_bytes() -> None:
    """No clock and no chance."""
    assert tuple(compose(request()).objects) == composed()[1]


def test_probabilities_of_an_unknown_label_are_refused() -> None:
    """A map must say of what it is."""
    known = request()
    strange = replace(known, prediction=replace(known.prediction, probabilities={9: known.prediction.probabilities[1]}))
    with pytest.raises(Refused, match="label 9"):
        compose(strange)


def _shared(entry: Dataset) -> Dataset:
    return entry.SharedFunctionalGroupsSequence[0]


def _mirror(entry: Dataset) -> None:
    frames = np.frombuffer(entry.PixelData, "<u2").reshape(-1, entry.Rows, entry.Columns)
    entry.PixelData = frames[:, :, ::-1].tobytes()


def _swap(entry: Dataset) -> None:
    entry.PerFrameFunctionalGroupsSequence = list(entry.PerFrameFunctionalGroupsSequence)[::-1]


def _move(entry: Dataset) -> None:
    position = entry.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    position.ImagePositionPatient = [float(value) + 0.1 for value in position.ImagePositionPatient]


def _of(entry: Dataset, keyword: str, value: Any) -> None:
    setattr(_shared(entry).RealWorldValueMappingSequence[0], keyword, value)


def _cancer(entry: Dataset) -> None:
    code = _shared(entry).RealWorldValueMappingSequence[0].QuantityDefinitionSequence[0].ConceptCodeSequence[0]
    code.CodeValue, code.CodeMeaning = "111047", "Probability of cancer"


FAULTS: dict[str, tuple[Callable[[Dataset], Any], str]] = {
    "mirrored": (_mirror, "not hold the probabilities"),
    "slices in another order": (_swap, "not hold the probabilities"),
    "a frame moved": (_move, "none of the images"),
    "another slope": (lambda e: _of(e, "RealWorldValueSlope", 1 / 256), "not hold the probabilities"),
    "called probability of cancer": (_cancer, "does not say that it holds"),
    "percent": (
        lambda e: setattr(_shared(e).RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0], "CodeValue", "%"),
        "does not say",
    ),
    "of another label": (lambda e: setattr(e, "ContentDescription", "Probability of Nodule"), "does not say that it holds"),
    "of no label": (lambda e: setattr(e, "ContentDescription", "Probability of Liver"), "a label without probabilities"),
    "another frame of reference": (lambda e: setattr(e, "FrameOfReferenceUID", "1.2.3"), "frame of reference"),
    "spacing swapped": (lambda e: setattr(_shared(e).PixelMeasuresSequence[0], "PixelSpacing", [0.9, 0.7]), "orientation or spacing"),
    "an image not referenced": (lambda e: e.ReferencedSeriesSequence[0].ReferencedInstanceSequence.pop(), "refer to the images"),
    "another source": (
        lambda e: setattr(
            e.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0], "ReferencedSOPInstanceUID", "1.2.3"
        ),
        "another source image",
    ),
    "short": (lambda e: setattr(e, "PixelData", e.PixelData[:-2]), "short"),
    "another patient": (lambda e: setattr(e, "PatientID", "PHI-1"), "PatientID"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_planted_in_a_map_is_refused(name: str) -> None:
    """A map that is not the model's, of these images and this patient, never leaves."""
    fault, reason = FAULTS[name]
    known, objects = composed()
    dataset = maps()[0]
    fault(dataset)
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    with pytest.raises(Refused, match=reason):
        check.verify(known, [replace(objects[0], dataset_bytes=buffer.getvalue()), *objects[1:]])


def test_a_map_that_is_missing_is_refused() -> None:
    """A site that asks for maps must not get half of them."""
    known, objects = composed()
    with pytest.raises(Refused, match="one parametric map for each label"):
        check.verify(known, objects[1:])


@pytest.mark.real
def test_dciodvfy_finds_no_fault_in_a_map(tmp_path: Path) -> None:
    """Its lines are compared with an exact list."""
    for entry in composed()[1]:
        if entry.kind == "pm":
            path = tmp_path / "pm.dcm"
            path.write_bytes(entry.dataset_bytes)
            done = subprocess.run([require("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
            assert {line.strip() for line in (done.stdout + done.stderr).splitlines()} - {"ParametricMap"} <= ALLOWED
