"""Every form of the report, the parametric map and the structure set on frames, leaning slices and organs that overlap."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from node.profiles import Profile
from tests.servers import require
from tests.workers.multiframe import Stack, enhanced, mixed, save
from tests.workers.results import scans
from tests.workers.results.test_check import items, named
from tests.workers.results.test_frames import CT, TILTED, finished
from tests.workers.results.test_readers import run
from tests.workers.slices import series
from workers.frames import headers
from workers.load import load
from workers.results import ComposeRequest, compose

FORMS = ("measurements", "editable", "text")


def under(request: ComposeRequest, form: Any) -> ComposeRequest:
    """Ask for everything that has a place on the images."""
    ramp = np.arange(request.prediction.labels.size, dtype=np.uint32).reshape(request.prediction.labels.shape) % 251
    prediction = replace(request.prediction, probabilities={3: ramp.astype(np.uint8)})
    return replace(request, prediction=prediction, profile=Profile(name=form, objects=("seg", "pm", "rtstruct", "sr"), sr_form=form))


def read(request: ComposeRequest) -> dict[str, Dataset]:
    """Compose, which checks everything, and read back."""
    return {entry.kind: pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in compose(request).objects}


def below(dataset: Dataset) -> Iterator[Dataset]:
    """Give every item of every sequence."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield item
                yield from below(item)


@pytest.mark.parametrize("form", FORMS)
def test_on_a_multi_frame_image_every_place_names_its_frame(form: str, tmp_path: Path) -> None:
    """Frames stand in the file in no order; each reference names the image, and the frame whose place it is."""
    (path,) = save(tmp_path, enhanced(CT, [Stack(says={})], order=mixed(8)))
    loaded = load([path])
    request = finished(loaded, headers(loaded.origin.sources, {loaded.origin.images[0]: path}))
    objects = read(under(request, form))
    image = pydicom.dcmread(path)
    for kind in ("pm", "rtstruct", "sr"):
        named_images = [item for item in below(objects[kind]) if item.get("ReferencedSOPClassUID") == image.SOPClassUID]
        assert {item.ReferencedSOPInstanceUID for item in named_images} == {image.SOPInstanceUID}
        assert any("ReferencedFrameNumber" in item for item in named_images)
    heights_mm = [float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in image.PerFrameFunctionalGroupsSequence]
    for line in (line for region in objects["rtstruct"].ROIContourSequence for line in region.ContourSequence):
        assert float(line.ContourData[2]) == pytest.approx(heights_mm[line.ContourImageSequence[0].ReferencedFrameNumber - 1], abs=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_on_leaning_slices_everything_passes_the_gate(form: str, tmp_path: Path) -> None:
    """Where the gantry leaned, places follow the slices and not their normal."""
    assert list(read(under(finished(load(series(tmp_path, TILTED))), form))) == ["seg", "pm", "rtstruct", "sr"]


@pytest.mark.parametrize("form", FORMS)
def test_organs_that_overlap_are_each_told_whole(form: str) -> None:
    """The voxels that two organs share count for both."""
    request = scans.request(organs=False)
    one, two = (scans.block(scans.Scan(), low, high) for low, high in (((1, 3, 2), (9, 17, 20)), ((2, 4, 15), (8, 21, 27))))
    request = replace(request, prediction=replace(request.prediction, masks={1: one, 2: two}))
    objects = compose(under(request, form)).objects
    report = pydicom.dcmread(BytesIO(objects[-1].dataset_bytes))
    volumes_ml = [float(item.MeasuredValueSequence[0].NumericValue) for item in named(report, "118565006")][2:]
    assert volumes_ml == [round(float(mask.sum()) * 2.5 * 0.7 * 0.9 / 1000, 1) for mask in (one, two)]
    structure = next(pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in objects if entry.kind == "rtstruct")
    assert [item.ROIName for item in structure.StructureSetROISequence][:2] == ["Left lung", "Right lung"]
    assert len({item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items(report) if "ReferencedSOPSequence" in item}) > 1


@pytest.mark.real
@pytest.mark.parametrize(
    "profile", [Profile(name="alone", objects=("sr",)), Profile(name="c", objects=("seg", "sr"), sr_class="comprehensive")]
)
def test_dcmqi_reads_the_numbers_of_each_mark(profile: Profile, tmp_path: Path) -> None:
    """Also without a SEG, and in the older class."""
    path = tmp_path / "sr.dcm"
    path.write_bytes(compose(replace(scans.request(), profile=profile)).objects[-1].dataset_bytes)
    out = tmp_path / "report.json"
    run(require("tid1500reader"), "--inputDICOM", path, "--outputMetadata", out)
    groups = [group for group in json.loads(out.read_text())["Measurements"] if group.get("measurementItems")]
    assert [group["TrackingIdentifier"] for group in groups] == ["Nodule 1", "Nodule 2", "Left lung", "Right lung"]
    assert groups[0]["measurementItems"][0]["value"] == "38"
