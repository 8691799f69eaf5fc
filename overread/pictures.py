"""Key images with the archive's own outlines on them, as PNG files to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from overread.readback import Segment

SIDE_PIXELS = 768
LUNG_LEVEL_HU, LUNG_WIDTH_HU = -500.0, 1500.0


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
    grey, spacing = _grey(source)
    height_mm, width_mm = grey.shape[0] * spacing[0], grey.shape[1] * spacing[1]
    scale = SIDE_PIXELS / max(height_mm, width_mm)
    size = (max(round(width_mm * scale), 1), max(round(height_mm * scale), 1))
    picture = Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    canvas = np.array(picture)
    for segment, mask in marks:
        if mask is not None:
            large = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)) > 0
            canvas[_outline(large)] = segment.colour
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    for line, segment in enumerate(subjects):
        pen.text((8, 8 + 14 * line), segment.label, fill=segment.colour)
    pen.text((8, size[1] - 20), "AI, not verified by a physician", fill=(200, 200, 200))
    return picture


def _grey(source: Path) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """Give 8-bit greys and the spacing (between rows, between columns): CT in the lung window, others from their own range."""
    dataset = pydicom.dcmread(source)
    values = dataset.pixel_array.astype(float) * float(dataset.get("RescaleSlope", 1)) + float(dataset.get("RescaleIntercept", 0))
    if dataset.Modality == "CT":
        low, width = LUNG_LEVEL_HU - LUNG_WIDTH_HU / 2, LUNG_WIDTH_HU
    else:
        low, high = (float(value) for value in np.percentile(values, (0.5, 99.5)))
        width = max(high - low, 1.0)
    grey = (np.clip((values - low) / width, 0, 1) * 255).astype(np.uint8)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        grey = 255 - grey
    return grey, (float(dataset.PixelSpacing[0]), float(dataset.PixelSpacing[1]))


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Give the inside edge of a mask, two pixels wide."""
    inner = mask.copy()
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _slug(label: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in label.lower()).strip("-")
