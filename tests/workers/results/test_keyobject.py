"""The selection of key images: those on which something is largest, resolved, and nothing that the check would not see."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from node.errors import Refused
from node.profiles import Profile
from tests.servers import require
from tests.workers.multiframe import Stack, enhanced, mixed, save
from tests.workers.results import forms, scans
from tests.workers.results.test_frames import CT, finished
from tests.workers.results.test_readers import run
from workers.load import load
from workers.results import ComposeRequest, check_kos, compose

SELECTING = Profile(name="selecting", objects=("seg", "sc", "kos", "sr"), sc_pages=("summary", "key-images"))


def of_kind(request: ComposeRequest, kind: str) -> list[Dataset]:
    """Compose, and read the objects of one kind back."""
    return [pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in compose(request).objects if entry.kind == kind]


@cache
def selection() -> tuple[ComposeRequest, bytes]:
    """Compose once."""
    request = replace(scans.request(), profile=SELECTING)
    return request, next(entry.dataset_bytes for entry in compose(request).objects if entry.kind == "kos")


def test_it_names_the_slices_where_something_is_largest() -> None:
    """The nodules' slices and the lungs', each once, and as evidence; in words what was marked."""
    request, blob = selection()
    dataset = pydicom.dcmread(BytesIO(blob))
    named = [item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in dataset.ContentSequence if item.ValueType == "IMAGE"]
    assert named == sorted(set(named), key=lambda uid: int(uid.rsplit(".", 1)[1]))
    assert {f"{scans.ROOT}.3.3", f"{scans.ROOT}.3.4"} & set(named)
    evidence = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert sorted(item.ReferencedSOPInstanceUID for item in evidence.ReferencedSOPSequence) == sorted(named)
    text = next(item.TextValue for item in dataset.ContentSequence if item.ValueType == "TEXT" and "marked" in item.TextValue)
    assert text.endswith("Not verified by a physician.")
    assert dataset.ConceptNameCodeSequence[0].CodeValue == "113000"
    assert (dataset.Modality, dataset.SeriesNumber) == ("KO", 9005)
    assert dataset.PatientID == request.sources[0].PatientID


def test_without_a_mark_there_is_none() -> None:
    """Nothing found has no key image."""
    assert of_kind(replace(scans.request(nodules=0, organs=False), profile=SELECTING), "kos") == []


def test_of_a_multi_frame_image_it_names_frames(tmp_path: Path) -> None:
    """One image, the frame that the slice is; the pages name it too, and pass."""
    (path,) = save(tmp_path, enhanced(CT, [Stack(says={})], order=mixed(8)))
    request = replace(finished(load([path])), profile=SELECTING)
    (dataset,) = of_kind(request, "kos")
    items = [item.ReferencedSOPSequence[0] for item in dataset.ContentSequence if item.ValueType == "IMAGE"]
    frames = {item.ReferencedFrameNumber for item in items}
    assert frames <= set(request.frames)
    assert {item.ReferencedSOPInstanceUID for item in items} == {request.sources[0].SOPInstanceUID}
    pages = of_kind(request, "sc")
    assert frames == {page.SourceImageSequence[0].ReferencedFrameNumber for page in pages if len(page.SourceImageSequence) == 1}


def test_boxes_alone_have_key_images_and_pages() -> None:
    """A detector's box is selected and drawn as a rectangle, and the pages pass their check."""
    request = replace(forms.boxed(), profile=SELECTING.model_copy(update={"objects": ("sc", "kos", "sr")}))
    (dataset,) = of_kind(request, "kos")
    assert len([item for item in dataset.ContentSequence if item.ValueType == "IMAGE"]) == 1
    assert len(of_kind(request, "sc")) == 2


def test_a_classification_has_a_page_and_no_key_images() -> None:
    """Its probabilities stand in a table; nothing is marked, so nothing is selected."""
    request = forms.scored(0.874, 0.496, 0.2, profile=SELECTING)
    assert [entry.kind for entry in compose(request).objects] == ["sc", "sr"]


def _first_image(dataset: Dataset) -> Dataset:
    image: Dataset = next(item for item in dataset.ContentSequence if item.ValueType == "IMAGE").ReferencedSOPSequence[0]
    return image


FAULTS: dict[str, tuple[Callable[[Dataset], Any], str]] = {
    "an image of nobody": (lambda d: setattr(_first_image(d), "ReferencedSOPInstanceUID", "1.2.3"), "not analysed"),
    "an image without a mark": (
        lambda d: setattr(_first_image(d), "ReferencedSOPInstanceUID", f"{scans.ROOT}.3.1"),
        "nothing is marked",
    ),
    "evidence missing": (
        lambda d: d.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence.pop(),
        "evidence",
    ),
    "another title": (lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeValue", "113001"), "of interest"),
    "no words": (lambda d: setattr(d, "ContentSequence", [i for i in d.ContentSequence if i.ValueType != "TEXT"]), "what it shows"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_selection_of_something_else_is_refused(name: str) -> None:
    """113001 would even reject the images."""
    change, reason = FAULTS[name]
    request, blob = selection()
    dataset = pydicom.dcmread(BytesIO(blob))
    change(dataset)
    with pytest.raises(Refused, match=reason):
        check_kos.verify(request, [dataset])


def test_a_missing_selection_is_refused() -> None:
    """Where the profile asks for one and something is marked."""
    request, _ = selection()
    with pytest.raises(Refused, match="one selection"):
        check_kos.verify(request, [])


@pytest.mark.real
def test_other_readers_find_no_fault(tmp_path: Path) -> None:
    """Dciodvfy is silent, DCMTK reads the content."""
    path = tmp_path / "kos.dcm"
    path.write_bytes(selection()[1])
    said = run(require("dciodvfy"), path).split("\n") if require("dciodvfy") else []
    assert [line for line in said if line and "KeyObjectSelection" not in line] == []
    assert "Of Interest" in run(require("dsrdump"), path)
