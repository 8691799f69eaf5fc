"""Pictures as PNG files to look at: key images with the archive's own outlines, and the pages that were sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from overread import readback
from overread.readback import Segment
from workers import drawing
from workers.drawing import Mark, View, Window

SIDE_PIXELS = 768
LUNG = Window(low=-1250.0, high=250.0)  # HU


def draw(segments: Sequence[Segment], sources: Mapping[str, Path], out: Path) -> list[Path]:
    """Write one picture for the largest slice of each segment, every segment's outline on it; give the files.

    Segments whose largest slice is the same image share one picture.
    """
    out.mkdir(parents=True, exist_ok=True)
    keys: dict[str, list[Segment]] = {}
    for segment in segments:
        largest = max(segment.planes, key=lambda plane: int(plane.mask.sum()))
        if largest.source_uid in sources:
            keys.setdefault(largest.source_uid, []).append(segment)
    written = []
    for number, (uid, subjects) in enumerate(keys.items(), start=1):
        path = out / f"{number:02d}-{_slug(subjects[0].label)}.png"
        _picture(sources[uid], [(segment, _mask_on(segment, uid)) for segment in segments], subjects).save(path)
        written.append(path)
    return written


def _mask_on(segment: Segment, uid: str) -> NDArray[np.bool_] | None:
    return next((plane.mask for plane in segment.planes if plane.source_uid == uid), None)


def _picture(source: Path, marks: Sequence[tuple[Segment, NDArray[np.bool_] | None]], subjects: Sequence[Segment]) -> Image.Image:
    grey, spacing_mm = _grey(source)
    rows, columns = grey.shape
    whole = View(index=0, rows=(0, rows), columns=(0, columns), left=0, top=0, width=SIDE_PIXELS, height=SIDE_PIXELS)
    view = replace(drawing.fit(whole, spacing_mm), left=0, top=0)
    picture = Image.new("RGB", (view.width, view.height))
    drawing.show(picture, view, grey)
    drawing.outline(picture, view, [Mark(mask=mask, colour=segment.colour) for segment, mask in marks if mask is not None], 2)
    pen = ImageDraw.Draw(picture)
    for line, segment in enumerate(subjects):
        pen.text((8, 8 + 18 * line), segment.label, fill=segment.colour, font=drawing.font(15))
    drawing.write(picture, (8, view.height - 8), "AI, not verified by a physician", 14, "ld")
    return picture


def pages(files: Iterable[Path], out: Path) -> list[Path]:
    """Write the pages among DICOM files as PNG files of the same names; give these."""
    written = []
    for path in files:
        if readback.kind(path) == "SC":
            out.mkdir(parents=True, exist_ok=True)
            written.append(out / f"{path.stem}.png")
            Image.fromarray(pydicom.dcmread(path).pixel_array).save(written[-1])
    return written


def _grey(source: Path) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Give 8-bit greys and the spacing (between rows, between columns): CT in the lung window, others from their own range."""
    dataset = pydicom.dcmread(source)
    values = dataset.pixel_array.astype(float) * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    window = LUNG if dataset.Modality == "CT" else drawing.spread(values[np.newaxis], 0.5, 99.5)
    grey = drawing.greys(values, window)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        grey = 255 - grey
    return grey, (float(dataset.PixelSpacing[0]), float(dataset.PixelSpacing[1]))


def _slug(label: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in label.lower()).strip("-")
