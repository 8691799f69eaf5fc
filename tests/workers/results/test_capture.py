"""The pages: what they show lies where the truth has it, they say everything, and a page that lies never leaves."""

from __future__ import annotations

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
from PIL import Image
from pydicom.dataset import Dataset
from scipy import ndimage

from models.vocabulary import Box, Finding, Volume
from node.errors import Refused
from node.profiles import Profile
from tests.real.validators import LATERALITY
from tests.servers import require
from tests.workers.results import scans
from tests.workers.results.scans import Scan
from workers.measure import measure
from workers.results import ComposeRequest, capture, check_sc, compose, header, pages, tables, wording
from workers.results.request import Draft
from workers.results.segments import plan

PICTURED = Profile(name="pictured", objects=("seg", "sc", "sr"), sc_pages=("summary", "key-images"))
STRIP = 50  # rows of words below a key image
Pixels = NDArray[np.uint8]


def textured(scan: Scan | None = None, **arguments: Any) -> ComposeRequest:
    """Give an analysis on images that look different turned over: brighter to the patient's left, back and head."""
    given = scans.request(scan, **arguments)
    scan = scan or Scan()
    away = scan.places_mm() - np.array(scan.corner_mm)
    slope = (away @ np.array([3.0, 5.0, 2.0])).astype(np.int16)
    return replace(given, volume=replace(given.volume, array=(slope - 900).astype(np.int16)), profile=PICTURED)


def draft(request: ComposeRequest) -> Draft:
    """Give what the writers get."""
    by_key = {entry.key: entry for entry in measure(request.prediction, request.volume, request.card.card)}
    return Draft(request=request, measured=tuple((segment, by_key[segment.key]) for segment in plan(request)))


@cache
def written(form: str) -> tuple[ComposeRequest, tuple[Dataset, ...]]:
    """Compose one of the forms once; give the pages as read back."""
    request = {
        "findings": textured,
        "sagittal": lambda: textured(Scan(plane="sagittal", shape=(10, 24, 32))),
        "oblique": lambda: textured(Scan(plane="oblique")),
        "none": lambda: textured(nodules=0),
        "nothing": lambda: textured(nodules=0, organs=False),
        "organs": lambda: textured(Scan(modality="MR"), finds=False),
    }[form]()
    objects = [entry for entry in compose(request).objects if entry.kind == "sc"]
    return request, tuple(pydicom.dcmread(BytesIO(entry.dataset_bytes)) for entry in objects)


def keys(datasets: tuple[Dataset, ...]) -> list[Dataset]:
    """Give the key images."""
    return [dataset for dataset in datasets if dataset.SeriesDescription.startswith("Key images")]


@pytest.mark.parametrize("form", ["findings", "sagittal", "oblique"])
def test_on_a_key_image_the_outlines_lie_on_the_truths_border(form: str) -> None:
    """Each coloured pixel of each key image is taken to the patient, and is within one pixel of the border of a true block."""
    request, datasets = written(form)
    for dataset in keys(datasets):
        index = next(
            i for i, s in enumerate(request.sources) if s.SOPInstanceUID == dataset.SourceImageSequence[0].ReferencedSOPInstanceUID
        )
        truth = np.stack([request.prediction.labels[index] == value for value in (1, 2)])
        assert request.prediction.instances is not None
        truth = np.concatenate([truth, np.stack([request.prediction.instances[index] == value for value in (1, 2)])])
        borders = np.logical_or.reduce([ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask) for mask in truth if mask.any()])
        slice_rows, slice_columns = request.prediction.grid.shape[1:]
        pixels = dataset.pixel_array[:-STRIP]
        assert abs(pixels.shape[0] / pixels.shape[1] - slice_rows * 0.7 / (slice_columns * 0.9)) < 0.01, "square pixels"
        rows, columns = np.nonzero(pixels.max(axis=2).astype(int) - pixels.min(axis=2) > 8)
        assert len(rows) > 100
        places = (rows * slice_rows // pixels.shape[0], columns * slice_columns // pixels.shape[1])
        assert ndimage.binary_dilation(borders, np.ones((3, 3)))[places].all()


def test_the_slice_is_shown_as_it_lies() -> None:
    """The bright side of the image is the bright side of the picture."""
    _, datasets = written("findings")
    picture = keys(datasets)[0].pixel_array[100:200, :, 0].astype(float)
    assert picture[:, 430:510].mean() > picture[:, 20:100].mean() + 5


@pytest.mark.parametrize(("form", "letters"), [("findings", ["L", "P"]), ("sagittal", ["P", "F"])])
def test_a_key_image_says_which_side_is_which(form: str, letters: list[str]) -> None:
    """Patient Orientation is that of the slice; a page of several pictures has none."""
    _, datasets = written(form)
    assert all(list(dataset.PatientOrientation) == letters for dataset in keys(datasets))
    assert not datasets[0].PatientOrientation


@pytest.mark.parametrize("form", ["findings", "none", "nothing", "organs", "oblique"])
def test_the_top_of_a_summary_page_is_empty(form: str) -> None:
    """Viewers write the patient's name and more there; and nothing is blank below."""
    _, datasets = written(form)
    first = datasets[0].pixel_array
    assert (first[:60] == first[0, 0]).all()
    assert first[60:].std() > 10
    assert datasets[0].BurnedInAnnotation == "YES"


def test_only_what_is_marked_has_key_images() -> None:
    """Without a mark there is the summary alone, which shows slices through the whole."""
    _, datasets = written("nothing")
    assert len(datasets) == 1
    assert len(datasets[0].SourceImageSequence) == 6
    assert datasets[0].SeriesDescription.startswith("No nodule marked")


def test_the_summary_says_what_was_found_and_by_what() -> None:
    """Headline, facts, rows and notes hold number, site with side, size, axes, attenuation, certainty, model and use."""
    told = draft(textured())
    findings, organs = tables.tables(told)
    assert tables.headline(told) == "Nodule: 2 marked"
    assert tables.facts(told) == ["Lung nodules 1.2.0: 10 of 10 images analysed."]
    first = dict(zip(findings.columns, findings.rows[0].cells, strict=True))
    assert first["Finding"] == "Nodule 1"
    assert first["Site"] == "Lung, left"
    assert first["Volume"] == "38 mm3"
    assert first["Certainty"] == "88 % (SD 4)"
    assert first["Key image"].startswith("slice 3 of 10, image 3, F 198.1 mm")
    assert [row.cells[0] for row in organs.rows] == ["Left lung", "Right lung"]
    assert any(note.startswith("Intended use: t") for note in tables.notes(told))
    assert all(text.isascii() for text in [*tables.notes(told), *tables.facts(told)])


def test_a_side_is_said_only_where_it_is_plain() -> None:
    """Without the lung around it, or between two organs, a nodule lies in "Lung"; never on a guessed side."""
    alone = draft(textured(organs=False))
    assert {row.cells[1] for row in tables.tables(alone)[0].rows} == {"Lung"}
    request = textured()
    labels = request.prediction.labels.copy()
    labels[:, :, 6:][labels[:, :, 6:] == 1] = 2
    between = draft(replace(request, prediction=replace(request.prediction, labels=labels)))
    assert tables.tables(between)[0].rows[0].cells[1] == "Lung"


def test_a_second_revision_says_what_it_replaces() -> None:
    """Two results of one study must not be mistaken for each other."""
    assert tables.facts(draft(scans.revised()))[1] == "Revision 2 of this study's images: this result replaces that of revision 1."


def spoil(change: Callable[[Pixels], Pixels], which: int = 0) -> tuple[ComposeRequest, list[Dataset]]:
    """Change one page's pixels."""
    request, datasets = written("findings")
    copies = [pydicom.dcmread(BytesIO(header.encode(dataset, "sc").dataset_bytes)) for dataset in datasets]
    pixels = change(copies[which].pixel_array.copy())
    copies[which].PixelData = np.ascontiguousarray(pixels).tobytes()
    return request, copies


def overlay_mirrored(pixels: Pixels) -> Pixels:
    """Mirror the outlines of a key image, not the image."""
    height, width = pixels.shape[0] - STRIP, pixels.shape[1]
    part = pixels[:height]
    coloured = part.max(axis=2).astype(int) - part.min(axis=2) > 8
    lines = np.where(coloured[..., None], part, 0)
    clean = np.where(coloured[..., None], 90, part)
    mirrored = lines[:, ::-1]
    pixels[:height] = np.where(mirrored.any(axis=2)[..., None], mirrored, clean)
    assert width == pixels.shape[1]
    return pixels


def whole_mirrored(pixels: Pixels) -> Pixels:
    """Mirror a key image with everything on it."""
    pixels[:-STRIP] = pixels[:-50, ::-1]
    return pixels


def grey_mirrored(pixels: Pixels) -> Pixels:
    """Mirror the image under the outlines."""
    part = pixels[:-STRIP]
    coloured = part.max(axis=2).astype(int) - part.min(axis=2) > 8
    pixels[:-STRIP] = np.where(coloured[..., None], part, part[:, ::-1].min(axis=2)[..., None])
    return pixels


def colours_swapped(pixels: Pixels) -> Pixels:
    """Draw the left lung in the right one's colour and the other way round."""
    flat = pixels.reshape(-1, 3)
    lungs = [tuple(colour) for colour in tables_colours()]
    first, second = ((flat == colour).all(axis=1) for colour in lungs)
    flat[first], flat[second] = lungs[1], lungs[0]
    return flat.reshape(pixels.shape)


def tables_colours() -> list[tuple[int, int, int]]:
    """Give the colours of the two lungs on the page."""
    rows = tables.tables(draft(written("findings")[0]))[1].rows
    return [row.colour for row in rows if row.colour]


def no_outline(pixels: Pixels) -> Pixels:
    """Take all colour away."""
    return np.repeat(pixels.min(axis=2)[..., None], 3, axis=2)


def moved(pixels: Pixels) -> Pixels:
    """Move a key image's lines down by two pixels of the slice."""
    part = pixels[:-STRIP]
    coloured = part.max(axis=2).astype(int) - part.min(axis=2) > 8
    lines = np.roll(np.where(coloured[..., None], part, 0), 32, axis=0)
    pixels[:-STRIP] = np.where(lines.any(axis=2)[..., None], lines, np.where(coloured[..., None], 90, part))
    return pixels


FAULTS: dict[str, tuple[int, Callable[[Pixels], Pixels], str]] = {
    "outlines mirrored": (-1, overlay_mirrored, "outline"),
    "outlines two pixels off": (-1, moved, "outline"),
    "everything mirrored": (-1, whole_mirrored, "wrong way round|outline"),
    "the image mirrored under its outlines": (-1, grey_mirrored, "wrong way round"),
    "colours of two organs swapped": (0, colours_swapped, "of that colour"),
    "no outlines": (-1, no_outline, "does not show the outline"),
    "no outlines on the summary": (0, no_outline, "does not show the outline"),
    "words at the top": (0, lambda p: np.concatenate([p[:10], 255 - p[10:30], p[30:]]), "topmost rows"),
    "blank": (0, np.zeros_like, "blank"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_page_that_shows_something_else_is_refused(name: str) -> None:
    """An overlay in the wrong place is the worst that a picture can do."""
    which, change, reason = FAULTS[name]
    request, datasets = spoil(change, which)
    with pytest.raises(Refused, match=reason):
        check_sc.verify(request, datasets)


WORDS: dict[str, tuple[Callable[[Dataset], Any], str]] = {
    "sides swapped": (lambda d: setattr(d, "DerivationDescription", d.DerivationDescription.replace(" R A", " L A")), "wrong side"),
    "another slice": (
        lambda d: setattr(d, "DerivationDescription", d.DerivationDescription.replace(" s3 ", " s4 ")),
        "refer|outline|round",
    ),
    "a picture outside": (lambda d: setattr(d, "DerivationDescription", d.DerivationDescription.replace(" 4", " 94")), "cannot hold"),
    "no description": (lambda d: setattr(d, "DerivationDescription", "Pictures"), "does not describe"),
    "another image": (lambda d: setattr(d.SourceImageSequence[0], "ReferencedSOPInstanceUID", "1.2.3"), "not analysed"),
    "another series": (lambda d: setattr(d.ReferencedSeriesSequence[0], "SeriesInstanceUID", "1.2.3"), "images' series"),
    "burned in: no": (lambda d: setattr(d, "BurnedInAnnotation", "NO"), "burned in"),
    "grey": (lambda d: setattr(d, "PhotometricInterpretation", "MONOCHROME2"), "colour image"),
    "a number left out": (lambda d: setattr(d, "InstanceNumber", 2), "numbered"),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_page_that_says_something_else_is_refused(name: str) -> None:
    """Its words must fit its pictures and the images."""
    change, reason = WORDS[name]
    request, datasets = spoil(lambda pixels: pixels)
    change(datasets[0])
    with pytest.raises(Refused, match=reason):
        check_sc.verify(request, datasets)


def test_pages_that_were_written_pass_and_missing_ones_do_not() -> None:
    """The gate knows which pages the profile asks for, and that every finding has its picture."""
    request, datasets = spoil(lambda pixels: pixels)
    check_sc.verify(request, datasets)
    for left in ((), datasets[:1], keys(tuple(datasets))):
        with pytest.raises(Refused, match="not the pages"):
            check_sc.verify(request, left)
    summary_only = replace(request, profile=request.profile.model_copy(update={"sc_pages": ("summary",)}))
    check_sc.verify(summary_only, datasets[:1])
    elsewhere = tuple(replace(finding, number=finding.number + 1) for finding in request.prediction.findings)
    moved_on = replace(summary_only, prediction=replace(request.prediction, findings=elsewhere))
    with pytest.raises(Refused, match=r"outline|none of the pages"):
        check_sc.verify(moved_on, datasets[:1])


def test_the_same_analysis_gives_the_same_pages() -> None:
    """Byte for byte; and another generation has other UIDs."""
    first, second = (compose(textured()).objects for _ in range(2))
    assert first == second
    again = textured()
    other = compose(replace(again, job=replace(again.job, generation=2))).objects
    assert not {entry.sop_instance_uid for entry in first} & {entry.sop_instance_uid for entry in other}


def crowd(count: int) -> ComposeRequest:
    """Give an analysis with so many findings of a voxel or two."""
    scan = Scan(shape=(12, 64, 64), spacing_mm=(2.0, 1.0, 1.0))
    base = textured(scan, nodules=0, organs=False)
    places = [(z, y, x) for z in range(1, 11) for y in range(2, 62, 8) for x in range(2, 62, 8)][:count]
    instances = np.zeros(scan.shape, np.uint16)
    findings = []
    for number, (z, y, x) in enumerate(places, start=1):
        instances[z, y : y + 2, x : x + 2] = number
        findings.append(Finding(number=number, label=3, score=0.5, box=Box(low=(z, y, x), high=(z + 1, y + 2, x + 2))))
    return replace(base, prediction=replace(base.prediction, instances=instances, findings=tuple(findings)))


def test_five_hundred_findings_are_all_in_the_table() -> None:
    """Pages go on until every row is written; that not all have pictures is said."""
    told = draft(crowd(500))
    assert len(tables.tables(told)[0].rows) == 500
    book = pages.summary(told)
    assert 12 < len(book) < 30
    assert "27 largest of 500" in tables.shown_line([segment for segment, _ in told.measured][:27], told)
    datasets = [pydicom.dcmread(BytesIO(header.encode(dataset, "sc").dataset_bytes)) for dataset in capture.write(told)]
    assert len(datasets) == len(book) + len({measures.key_slice for _, measures in told.measured})
    check_sc.verify(told.request, datasets)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("no numbers", lambda v: replace(v, array=np.full(v.array.shape, np.nan, np.float32))),
        ("one value", lambda v: replace(v, array=np.zeros_like(v.array))),
        ("infinities", lambda v: replace(v, array=np.where(np.indices(v.array.shape)[2] % 2, np.inf, 5).astype(np.float32))),
    ],
)
def test_images_of_odd_values_have_pages(name: str, change: Callable[[Volume], Volume]) -> None:
    """Whatever the pixels are, the page is drawn and passes its check."""
    request = textured(Scan(modality="MR"), finds=False)
    request = replace(request, volume=change(request.volume), profile=replace_pages(request.profile))
    assert [entry.kind for entry in compose(request).objects][1] == "sc", name


def replace_pages(profile: Profile) -> Profile:
    """Keep both kinds of pages."""
    return profile.model_copy(update={"sc_pages": ("summary", "key-images")})


@pytest.mark.parametrize("shape", [(3, 1, 1000), (3, 1000, 1), (3, 2, 3)])
def test_images_of_odd_shapes_have_pages(shape: tuple[int, int, int]) -> None:
    """A row of a thousand pixels, a column, and next to nothing."""
    scan = Scan(shape=shape, modality="MR")
    request = textured(scan, organs=False, nodules=0)
    assert len(pages.summary(draft(request))) == 1
    compose(request)


@pytest.mark.parametrize("window", [(40, 0), (float("nan"), 400), (None, None), ("", "")])
def test_a_window_that_shows_nothing_is_not_taken(window: tuple[Any, Any]) -> None:
    """A width of 0 would be black and white only."""
    request = textured(WindowCenter=window[0], WindowWidth=window[1])
    card = request.card.card.model_copy(update={"output": _without_lung(request)})
    told = draft(replace(request, card=replace(request.card, card=card)))
    assert np.asarray(pages.summary(told)[0].image).std() > 10


def _without_lung(request: ComposeRequest) -> Any:
    output = request.card.card.output
    other = output.labels[0].type.model_copy(update={"value": "1234"})
    labels = tuple(part.model_copy(update={"type": other, "region": None}) for part in output.labels)
    return output.model_copy(update={"labels": labels})


def test_long_words_are_wrapped_and_cut_with_dots_only_in_cells() -> None:
    """A label of 48 W and an intended use of thousands of characters stay on the pages, none of it lost."""
    request = textured()
    labels = tuple(part.model_copy(update={"label": "W" * 48}) for part in request.card.card.output.labels)
    model = request.card.card.model.model_copy(update={"intended_use": "word " * 3000 + "X" * 500, "title": "T" * 32})
    card = request.card.card.model_copy(update={"output": request.card.card.output.model_copy(update={"labels": labels}), "model": model})
    book = pages.summary(draft(replace(request, card=replace(request.card, card=card))))
    assert len(book) > 2


@pytest.mark.real
@pytest.mark.parametrize("form", ["findings", "nothing"])
def test_other_readers_find_no_fault_and_the_same_picture(form: str, tmp_path: Path) -> None:
    """Dciodvfy says nothing but one line about Laterality, and DCMTK renders the pixels that were written."""
    for number, dataset in enumerate(written(form)[1]):
        path, picture = tmp_path / f"{number}.dcm", tmp_path / f"{number}.ppm"
        path.write_bytes(header.encode(dataset, "sc").dataset_bytes)
        done = subprocess.run([require("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
        assert {line for line in (done.stdout + done.stderr).splitlines() if line} <= {"SCImage", LATERALITY}
        subprocess.run([require("dcm2pnm"), "+op", str(path), str(picture)], capture_output=True, check=True)
        assert np.array_equal(np.asarray(Image.open(picture)), dataset.pixel_array)


def test_what_the_model_remarks_stands_on_the_page_and_in_the_summary() -> None:
    """A lung that is cut off is said beside what was found, before the words that nobody has verified it."""
    request = textured()
    remark = "The left lung is cut off below; what lies beyond was not seen."
    told = draft(replace(request, prediction=replace(request.prediction, remarks=(remark,))))
    assert remark in tables.facts(told)
    assert wording.statement(told.request, told.segments).endswith(f"{remark} {wording.NOT_VERIFIED}")
