"""Pages of radiographs: boxes lie on the opacities in the patient, whichever way the picture is turned or stored."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from models.vocabulary import Box, Finding, Prediction
from node.errors import Refused
from node.profiles import Profile
from tests.radiographs import Radiograph, place_of
from tests.workers.results import forms, scans
from tests.workers.results.test_capture import draft
from workers.load import load
from workers.results import ComposeRequest, check_sc, compose, tables
from workers.results.keyimages import STRIP

PICTURED = Profile(name="pictured", objects=("sc", "kos", "sr"), sc_pages=("summary", "key-images"))


def detected(shown: Radiograph, folder: Path) -> ComposeRequest:
    """Give what a perfect detector says: a box around each opacity."""
    loaded = load([shown.write(folder)])
    findings = []
    for number, mask in enumerate(shown.masks(), start=1):
        rows, columns = np.nonzero(mask)
        low, high = (0, int(rows.min()), int(columns.min())), (1, int(rows.max()) + 1, int(columns.max()) + 1)
        findings.append(Finding(number=number, label=3, score=0.9, box=Box(low=low, high=high)))
    template = forms.boxed()
    labels = np.zeros(loaded.volume.grid.shape, np.uint8)
    return replace(
        template,
        job=scans.job(loaded.sources),
        prediction=Prediction(grid=loaded.volume.grid, labels=labels, findings=tuple(findings)),
        volume=loaded.volume,
        sources=loaded.sources,
        profile=PICTURED,
    )


def pages(request: ComposeRequest) -> list[Dataset]:
    """Compose and read the pages."""
    return [pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in compose(request).objects if entry.kind == "sc"]


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("orientation", [("L", "F"), ("R", "F"), ("L", "H"), ("F", "R")])
def test_boxes_lie_on_the_opacities_in_the_patient(orientation: tuple[str, str], inverted: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Coloured pixels of the key image, taken to the patient, run round the opacities; these are bright; the sides are told."""
    shown = Radiograph(orientation=orientation, inverted=inverted, spacing_mm=(0.5, 0.4))
    request = detected(shown, tmp_path)
    _, key = pages(request)
    assert list(key.PatientOrientation) == list(orientation)
    height = key.Rows - STRIP
    width = round(height * shown.shape[1] * 0.4 / (shown.shape[0] * 0.5))
    pixels = key.pixel_array[:height, :width]
    rows, columns = np.nonzero(pixels.max(axis=2).astype(int) - pixels.min(axis=2) > 8)
    points = np.stack([(columns + 0.5) * shown.shape[1] / width, (rows + 0.5) * shown.shape[0] / height], axis=-1)
    places = place_of(points, request.sources[0], shown.sides, shown.spacing_mm)
    for opacity in shown.opacities:
        away = np.abs(places - opacity.at_mm)
        near = (away <= np.array(opacity.half_mm) + 2.0).all(axis=1)
        assert near.any()
        assert (np.abs(away[near] - opacity.half_mm).min(axis=1) < 1.5).all(), "along the box's sides, not across the opacity"
    everywhere = [(np.abs(places - entry.at_mm) <= np.array(entry.half_mm) + 2.0).all(axis=1) for entry in shown.opacities]
    assert np.logical_or.reduce(everywhere).all(), "and nowhere else"
    inside = np.asarray(Image.fromarray(shown.masks()[0]).resize((width, height)))
    assert pixels[inside].mean() > pixels[~inside].mean() + 60


def test_millimetres_are_told_only_where_they_are_the_patients(tmp_path: Path) -> None:
    """Width and height of a box stand in the table of a calibrated picture; of another there is neither size nor bar."""
    told = {}
    for calibrated in (True, False):
        request = detected(Radiograph(calibrated=calibrated), tmp_path / str(calibrated))
        card = request.card.card.model_dump()
        card["measurements"] = [{"label": 3, "what": ["diameters", "probability"]}]
        request = replace(request, card=replace(request.card, card=type(request.card.card).model_validate(card)))
        told[calibrated] = tables.tables(draft(request))[0].columns
    assert "Width x height" in told[True]
    assert "Width x height" not in told[False]


def test_a_picture_of_unknown_sides_has_no_letters(tmp_path: Path) -> None:
    """None is better than a guessed one; the page passes its check, and a made-up letter does not."""
    request = detected(Radiograph(changes={"PatientOrientation": None}), tmp_path)
    summary, key = pages(request)
    assert " - -" in summary.DerivationDescription
    assert not key.PatientOrientation
    summary.DerivationDescription = summary.DerivationDescription.replace(" - -", " R H")
    with pytest.raises(Refused, match="wrong side"):
        check_sc.verify(request, [summary, key])
