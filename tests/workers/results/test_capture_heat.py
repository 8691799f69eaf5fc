"""The pages that show a probability: its colours lie where the model gave it in the patient, and a page that lies never leaves."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from io import BytesIO
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.errors import Refused
from tests.workers.results.scans import Scan
from tests.workers.results.test_capture import keys, textured
from workers.results import ComposeRequest, check_sc, compose

HEATED = re.compile(r"(\d+),(\d+) (\d+)x(\d+) s(\d+) r(\d+)-(\d+) c(\d+)-(\d+) \S+ \S+ p3")
SCANS = {
    "axial": Scan(),
    "sagittal": Scan(plane="sagittal", shape=(10, 24, 32)),
    "oblique": Scan(plane="oblique"),
    "reversed": Scan(reverse=True),
}
Pixels = NDArray[np.uint8]


def peaked(form: str) -> tuple[ComposeRequest, NDArray[np.float64]]:
    """Give an analysis whose probability of nodules falls off round a place beside its first finding; and that place in LPS."""
    scan = SCANS[form]
    request = textured(scan)
    places = scan.places_mm()
    assert request.prediction.instances is not None
    peak = places[request.prediction.instances == 1].mean(axis=0) + np.array([2.0, 3.0, 0.5])
    share = np.exp(-((places - peak) ** 2).sum(axis=-1) / (2 * 4.0**2))
    probabilities = {3: np.rint(255 * share).astype(np.uint8)}
    return replace(request, prediction=replace(request.prediction, probabilities=probabilities)), peak


@cache
def written(form: str) -> tuple[ComposeRequest, NDArray[np.float64], tuple[bytes, ...]]:
    """Compose once."""
    request, peak = peaked(form)
    return request, peak, tuple(entry.dataset_bytes for entry in compose(request).objects if entry.kind == "sc")


def read(form: str) -> list[Dataset]:
    """Give the pages as read back."""
    return [pydicom.dcmread(BytesIO(page)) for page in written(form)[2]]


def pixels_of(page: Dataset) -> Pixels:
    """Give (rows, columns, 3)."""
    return np.frombuffer(page.PixelData, np.uint8)[: page.Rows * page.Columns * 3].reshape(page.Rows, page.Columns, 3).copy()


@pytest.mark.parametrize("form", SCANS)
def test_the_warmest_pixel_is_the_probabilitys_peak_in_the_patient(form: str) -> None:
    """Taken back to the slice and to LPS, the warmest of all pictures is nearest to the place that the formula names."""
    request, peak, _ = written(form)
    places, found = SCANS[form].places_mm(), []
    for page in read(form):
        for told in HEATED.finditer(page.DerivationDescription):
            left, top, width, height, number, row, rows, column, columns = (int(part) for part in told.groups())
            part = pixels_of(page)[top : top + height, left : left + width].astype(int)
            warmth = part[..., 0] - part[..., 2]
            down, across = np.argwhere(warmth >= warmth.max() - 1).mean(axis=0)
            at = (row - 1 + (down + 0.5) * (rows - row + 1) / height, column - 1 + (across + 0.5) * (columns - column + 1) / width)
            found.append((int(warmth.max()), places[number - 1, int(at[0]), int(at[1])]))
    assert found
    plane = min((np.linalg.norm(places[source] - peak, axis=-1).min() for source in range(len(places))), default=0.0)
    hottest, place = max(found, key=lambda entry: entry[0])
    assert hottest > 60
    assert np.linalg.norm(place - peak) < plane + max(SCANS[form].spacing_mm) + 1
    assert request.prediction.probabilities[3].max() > 200


def test_without_probabilities_there_is_no_such_page() -> None:
    """And with them one page more, with words that say what the colours are."""
    pages = [entry for entry in compose(textured()).objects if entry.kind == "sc"]
    assert len(written("axial")[2]) == len(pages) + 1


def spoiled(change: Callable[[Pixels], Pixels]) -> tuple[ComposeRequest, list[Dataset]]:
    """Change the pixels of the heated pictures' areas on their page."""
    pages = read("axial")
    page = next(entry for entry in pages if HEATED.search(entry.get("DerivationDescription", "")))
    pixels = pixels_of(page)
    for told in HEATED.finditer(page.DerivationDescription):
        left, top, width, height = (int(part) for part in told.groups()[:4])
        pixels[top : top + height, left : left + width] = change(pixels[top : top + height, left : left + width])
    page.PixelData = pixels.tobytes()
    return written("axial")[0], pages


def cold(pixels: Pixels) -> Pixels:
    """Take the colours away."""
    return np.repeat(pixels[..., 2:], 3, axis=2)


def mirrored(pixels: Pixels) -> Pixels:
    """Mirror the colours, not the image."""
    warmth = pixels[..., 0].astype(int) - pixels[..., 2]
    changed = pixels.astype(int)
    changed[..., 0] = np.clip(changed[..., 2] + warmth[:, ::-1], 0, 255)
    return changed.astype(np.uint8)


def hotter(pixels: Pixels) -> Pixels:
    """Show half as much again as there is."""
    changed = pixels.astype(int)
    changed[..., 0] = np.clip(changed[..., 2] + (changed[..., 0] - changed[..., 2]) * 1.5, 0, 255)
    return changed.astype(np.uint8)


def tinted(pixels: Pixels) -> Pixels:
    """Show something green where nothing is probable, which leaves red and blue as they are."""
    changed = pixels.copy()
    changed[-20:-10, -20:-10, 1] = 200
    return changed


FAULTS: dict[str, tuple[Callable[[Pixels], Pixels], str]] = {
    "colours mirrored": (mirrored, "not the prediction's|does not show"),
    "no colours": (cold, "does not show the probability"),
    "hotter": (hotter, "not the prediction's"),
    "another colour": (tinted, "not the prediction's"),
    "everything mirrored": (lambda pixels: pixels[:, ::-1], "wrong way round|not the prediction's|does not show"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_page_with_other_colours_is_refused(name: str) -> None:
    """The unchanged one passes."""
    request, pages = spoiled(lambda pixels: pixels)
    check_sc.verify(request, pages)
    change, reason = FAULTS[name]
    request, pages = spoiled(change)
    with pytest.raises(Refused, match=reason):
        check_sc.verify(request, pages)


def test_a_page_of_another_label_is_refused() -> None:
    """It names a label that has no probability."""
    request, pages = spoiled(lambda pixels: pixels)
    page = next(entry for entry in pages if HEATED.search(entry.get("DerivationDescription", "")))
    page.DerivationDescription = page.DerivationDescription.replace(" p3", " p1")
    with pytest.raises(Refused, match="probability of label 1"):
        check_sc.verify(request, pages)


def test_pictures_of_a_probability_do_not_stand_for_those_of_outlines() -> None:
    """A finding that has only a heated picture is not shown."""
    request, pages = spoiled(lambda pixels: pixels)
    summary_only = replace(request, profile=request.profile.model_copy(update={"sc_pages": ("summary",)}))
    (heated,) = [page for page in pages if HEATED.search(page.get("DerivationDescription", ""))]
    heated.InstanceNumber = 1
    with pytest.raises(Refused, match="show none of the images"):
        check_sc.verify(summary_only, [heated])


@pytest.mark.parametrize(
    "change", [lambda values: values[1:], lambda values: values.astype(np.float32)], ids=["another size", "another type"]
)
def test_a_probability_of_another_grid_is_refused(change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    """It would be drawn at another place."""
    request, _ = peaked("axial")
    probabilities = {3: change(request.prediction.probabilities[3])}
    with pytest.raises(Refused, match="not on the images' grid"):
        compose(replace(request, prediction=replace(request.prediction, probabilities=probabilities)))


def test_key_images_have_outlines_only() -> None:
    """They are for reading; colours over the image stay on the summary."""
    assert keys(tuple(read("axial")))
    assert not any(HEATED.search(page.get("DerivationDescription", "")) for page in keys(tuple(read("axial"))))
