"""Read the pages back: each picture shows the slice that it says, the right way round, and its outlines lie where the masks do.

Ref: PS3.3 A.8.1, C.8.6; docs/results.md
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from node.errors import Refused
from workers.results.request import ComposeRequest

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
CLEAR_ROWS = 60
PICTURE = re.compile(r"(\d+),(\d+) (\d+)x(\d+) s(\d+) r(\d+)-(\d+) c(\d+)-(\d+) ([LRAPHF-]+) ([LRAPHF-]+)(?: p(\d+))?")
NAMES = (("L", "R"), ("P", "A"), ("H", "F"))
D50 = (0.9642, 1.0, 0.8249)
GREY, ROUNDED = 40, 6
COVERED = 0.8
MOST_HEAT, HEAT_ROUNDED, GREEN_ROUNDED, NOTICED = 0.6, 4.0, 1.0, 0.1
PICTURED_FINDINGS = 27
Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """One picture as its page describes it; half-open ranges, counted from 0; `sides` are those at the left and at the top.

    heat  the label whose probability it shows, None where it shows outlines
    """

    pixels: Pixels
    top: int
    index: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    sides: tuple[str, str]
    heat: int | None

    def sample(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Take a slice's value under the middle of each of the picture's pixels."""
        height, width = self.pixels.shape[:2]
        down = self.rows[0] + ((np.arange(height) + 0.5) * (self.rows[1] - self.rows[0]) / height).astype(int)
        across = self.columns[0] + ((np.arange(width) + 0.5) * (self.columns[1] - self.columns[0]) / width).astype(int)
        return np.asarray(plane[down[:, None], across[None, :]])

    @property
    def lightest(self) -> Pixels:
        """Give each pixel's largest part of red, green and blue."""
        return np.maximum(np.maximum(self.pixels[..., 0], self.pixels[..., 1]), self.pixels[..., 2])

    @property
    def darkest(self) -> Pixels:
        """Give each pixel's smallest part of the three."""
        return np.minimum(np.minimum(self.pixels[..., 0], self.pixels[..., 1]), self.pixels[..., 2])

    @property
    def warmth(self) -> NDArray[np.float64]:
        """Give each pixel's red less its blue: what is laid over the grey has no blue."""
        return self.pixels[..., 0].astype(float) - self.pixels[..., 2]

    @property
    def grey(self) -> NDArray[np.float64]:
        """Give the grey under outlines or colours."""
        return self.darkest.astype(float) if self.heat is None else self.pixels[..., 2] / np.maximum(1 - self.warmth / 255, 0.1)

    @property
    def shrunk(self) -> bool:
        """Tell whether the page has fewer pixels than the slice, so that which of these are seen is a matter of rounding."""
        height, width = self.pixels.shape[:2]
        return bool(height < self.rows[1] - self.rows[0] or width < self.columns[1] - self.columns[0])

    @property
    def reach(self) -> int:
        """Give how many pixels of the page a line may lie from the border it follows: half a pixel of the slice, and its own width."""
        return ceil(max(self.scales) / 2) + 2

    @property
    def scales(self) -> tuple[float, float]:
        """Give how many pixels of the page one of the slice has, down and across."""
        height, width = self.pixels.shape[:2]
        return height / (self.rows[1] - self.rows[0]), width / (self.columns[1] - self.columns[0])


def verify(request: ComposeRequest, pages: Sequence[Dataset]) -> None:
    """Raise Refused unless the pages show the images and the prediction, and are there where the profile asks for them."""
    numbers: dict[str, list[int]] = {}
    shown: set[int] = set()
    for page in pages:
        numbers.setdefault(page.SeriesInstanceUID, []).append(int(page.InstanceNumber))
        shown |= _check_page(request, page)
    if any(series != list(range(1, len(series) + 1)) for series in numbers.values()):
        raise Refused("the pages are not numbered from 1")
    wanted = request.profile.sc_pages if request.profile.wants("sc") else ()
    if len(numbers) != ("summary" in wanted) + ("key-images" in wanted and _is_marked(request)):
        raise Refused("the result has not the pages that the profile asks for")
    if pages and not shown:
        raise Refused("the pages show none of the images")
    if pages and len(request.prediction.findings) <= PICTURED_FINDINGS:
        _check_all_shown(request, shown)


def _is_marked(request: ComposeRequest) -> bool:
    prediction = request.prediction
    return bool(prediction.findings or prediction.labels.any() or any(mask.any() for mask in prediction.masks.values()))


def _check_all_shown(request: ComposeRequest, shown: set[int]) -> None:
    """Look for a picture of every finding; of very many the largest alone have one."""
    instances = request.prediction.instances
    for finding in request.prediction.findings:
        if instances is None:
            there = shown & set(range(finding.box.low[0], finding.box.high[0]))
        else:
            there = {index for index in shown if (instances[index] == finding.number).any()}
        if not there:
            raise Refused(f"finding {finding.number} of the prediction is on none of the pages' pictures")


def _check_page(request: ComposeRequest, page: Dataset) -> set[int]:
    """Check one page; give the slices that it shows."""
    form = tuple(page.get(keyword) for keyword in ("SOPClassUID", "PhotometricInterpretation", "SamplesPerPixel", "BitsAllocated"))
    size = page.Rows * page.Columns * 3
    if form != (SECONDARY_CAPTURE, "RGB", 3, 8) or page.get("PlanarConfiguration") != 0 or len(page.PixelData) != size + size % 2:
        raise Refused("a page is not an 8-bit colour image of its size")
    if (page.get("BurnedInAnnotation"), page.get("ConversionType")) != ("YES", "WSD"):
        raise Refused("a page does not say that words are burned in, or how it was made")
    pixels = np.frombuffer(page.PixelData, np.uint8, count=size).reshape(page.Rows, page.Columns, 3)
    if pixels.min() == pixels.max():
        raise Refused("a page is blank")
    pictures = _pictures(request, page, pixels)
    if all(picture.top >= CLEAR_ROWS for picture in pictures) and (pixels[:CLEAR_ROWS] != pixels[0, 0]).any():
        raise Refused("a page has something in its topmost rows, where viewers write")
    _check_references(request, page, {picture.index for picture in pictures})
    for picture in pictures:
        _check_sides(request, picture)
        _check_grey(request, picture)
        if picture.heat is None:
            _check_outlines(request, picture)
        else:
            _check_heat(request, picture, picture.heat)
    return {picture.index for picture in pictures if picture.heat is None}


def _pictures(request: ComposeRequest, page: Dataset, pixels: Pixels) -> list[_Picture]:
    """Find the pictures by the page's own words; raises Refused where these make no sense."""
    words = str(page.get("DerivationDescription", ""))
    found = []
    for told in PICTURE.finditer(words):
        left, top, width, height, number, row, rows, column, columns = (int(part) for part in told.groups()[:9])
        inside = left + width <= page.Columns and top + height <= page.Rows and min(width, height) > 0
        most, most_rows, most_columns = request.volume.array.shape
        real = 0 < row <= rows <= most_rows and 0 < column <= columns <= most_columns and 0 < number <= most
        if not inside or not real:
            raise Refused("a page describes a picture that it cannot hold")
        found.append(
            _Picture(
                pixels=pixels[top : top + height, left : left + width],
                top=top,
                index=number - 1,
                rows=(row - 1, rows),
                columns=(column - 1, columns),
                sides=(told.group(10), told.group(11)),
                heat=None if told.group(12) is None else int(told.group(12)),
            )
        )
    if len(found) != words.count(";") + bool(words):
        raise Refused("a page does not describe its pictures")
    return found


def _check_references(request: ComposeRequest, page: Dataset, shown: set[int]) -> None:
    """Look that the page refers to the slices it shows, and to nothing that is not of the analysed series."""
    known = {(source.SOPClassUID, source.SOPInstanceUID, request.frame(index)): index for index, source in enumerate(request.sources)}
    named = set()
    for item in page.get("SourceImageSequence", ()):
        index = known.get((item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID, item.get("ReferencedFrameNumber")))
        if index is None:
            raise Refused("a page refers to an image that was not analysed")
        named.add(index)
    if not shown <= named:
        raise Refused("a page shows a slice that it does not refer to")
    wanted = {(request.sources[0].SeriesInstanceUID, request.sources[index].SOPInstanceUID) for index in named}
    listed = [(entry.SeriesInstanceUID, item.ReferencedSOPInstanceUID)
              for entry in page.get("ReferencedSeriesSequence", ()) for item in entry.ReferencedInstanceSequence]  # fmt: skip
    if set(listed) != wanted or len(listed) != len(wanted):
        raise Refused("a page does not refer to the images' series")


def _check_sides(request: ComposeRequest, picture: _Picture) -> None:
    """Work out from the images' header which side of the patient is at the left and at the top. Ref: PS3.3 C.7.6.1.1.1, C.7.6.2.1.1."""
    source = request.sources[picture.index]
    directions = source.get("ImageOrientationPatient")
    if directions:
        vectors = np.array(directions, dtype=float).reshape(2, 3)
        wanted = [NAMES[axis][1 if vector[axis] > 0 else 0] for vector in vectors for axis in [int(np.abs(vector).argmax())]]
    else:
        named = [str(value)[:1] for value in source.get("PatientOrientation") or ()]
        opposite = {name: pair[1 - place] for pair in NAMES for place, name in enumerate(pair)}
        wanted = [opposite.get(name, "-") for name in named]
        wanted = wanted if len(wanted) == 2 and "-" not in wanted else ["-", "-"]
    if [side[:1] for side in picture.sides] != wanted:
        raise Refused("a page names the wrong side of the patient")


def _check_grey(request: ComposeRequest, picture: _Picture) -> None:
    """Compare the picture with its slice and with the slice turned over: it must look like the former."""
    plane = np.nan_to_num(request.volume.array[picture.index].astype(float), posinf=0, neginf=0)
    values, seen = _clipped(picture.sample(plane)), _clipped(picture.grey)
    if values.std() == 0 or seen.std() == 0:
        return
    values, seen = values - values.mean(), seen - seen.mean()
    most = float(np.linalg.norm(values) * np.linalg.norm(seen))
    alike = [abs(float(np.vdot(turned, seen))) / most for turned in _turned(values)]
    if max(alike[1:]) > max(0.5, alike[0] + 0.05):
        raise Refused("a page shows a slice the wrong way round")


def _clipped(plane: NDArray[Any]) -> NDArray[Any]:
    """Leave out the extremes: letters and bars are as bright as nothing else."""
    low, high = np.percentile(plane, (3, 97))
    return np.asarray(np.clip(plane, low, high))


def _turned(plane: NDArray[Any]) -> list[NDArray[Any]]:
    return [plane, plane[:, ::-1], plane[::-1], plane[::-1, ::-1]]


def _check_outlines(request: ComposeRequest, picture: _Picture) -> None:
    """Look that every coloured pixel lies on the border of a mask of that colour, and that every border is drawn."""
    coloured = picture.lightest - picture.darkest > 8
    reached = _grown(coloured, picture.reach)
    borders: dict[tuple[int, int, int], Mask] = {}
    for cielab, mask in _masks(request, picture.index):
        if not mask[slice(*picture.rows), slice(*picture.columns)].any():
            continue
        border = _border(picture.sample(mask))
        allowed = border | picture.sample(_grown(_border(mask), 1)) if picture.shrunk else border
        borders[cielab] = borders.get(cielab, False) | allowed
        if border.any() and reached[border].mean() < COVERED:
            raise Refused("a page does not show the outline of what is marked")
    near = {cielab: _grown(border, picture.reach) for cielab, border in borders.items()}
    places = np.nonzero(coloured)
    colours, which = np.unique(picture.pixels[places].astype(np.int32) @ (65536, 256, 1), return_inverse=True)
    for number, colour in enumerate(colours.tolist()):
        fitting = [band for cielab, band in near.items() if _is_drawn_as((colour >> 16, colour >> 8 & 255, colour & 255), cielab)]
        there = places[0][which == number], places[1][which == number]
        if not fitting or not np.logical_or.reduce(fitting)[there].all():
            raise Refused("a page shows an outline where nothing of that colour is marked")


def _check_heat(request: ComposeRequest, picture: _Picture, label: int) -> None:
    """Look that the colours are the label's probability: red less blue is MOST_HEAT of 255 where it is 1, and green lies between them.

    The page smooths between the slice's pixels, so that those around bound what is right; letters are grey and hide a little.
    """
    values = request.prediction.probabilities.get(label)
    if values is None or values.shape != request.prediction.grid.shape:
        raise Refused(f"a page shows a probability of label {label}, of which the prediction has none")
    plane, size = values[picture.index].astype(float), 2 * ceil(max(1.0, 1 / min(picture.scales))) + 1
    low, high = (picture.sample(bound(plane, size)) for bound in (ndimage.minimum_filter, ndimage.maximum_filter))
    warmth = picture.warmth / MOST_HEAT
    red, green, blue = (picture.pixels[..., part].astype(float) for part in range(3))
    if (warmth > high + HEAT_ROUNDED).any() or (np.maximum(blue - green, green - red) > GREEN_ROUNDED).any():
        raise Refused("a page shows a probability that is not the prediction's")
    hot = low > 255 * NOTICED
    if hot.any() and (warmth >= low - HEAT_ROUNDED)[hot].mean() < COVERED:
        raise Refused("a page does not show the probability that it names")


def _masks(request: ComposeRequest, index: int) -> Iterator[tuple[tuple[int, int, int], Mask]]:
    """Give each marked thing's colour and mask on a slice, straight from the prediction."""
    prediction, card = request.prediction, request.card.card
    organs = set(np.unique(prediction.labels[index]).tolist())
    lesions = set() if prediction.instances is None else set(np.unique(prediction.instances[index]).tolist())
    for part in card.output.labels:
        if part.index in prediction.masks:
            yield part.cielab, np.asarray(prediction.masks[part.index][index], dtype=bool)
        elif part.index in organs:
            yield part.cielab, np.asarray(prediction.labels[index] == part.index)
    for finding in prediction.findings:
        cielab = card.label(finding.label).cielab
        if prediction.instances is not None and finding.number in lesions:
            yield cielab, np.asarray(prediction.instances[index] == finding.number)
        elif prediction.instances is None and finding.box.low[0] <= index < finding.box.high[0]:
            box = np.zeros(prediction.grid.shape[1:], dtype=bool)
            box[finding.box.low[1] : finding.box.high[1], finding.box.low[2] : finding.box.high[2]] = True
            yield cielab, box


def _border(mask: Mask) -> Mask:
    """Give the pixels of a mask next to a pixel outside of it; beyond the picture nothing is outside."""
    padded = np.pad(mask, 1, mode="edge")
    return np.asarray(mask & ~(padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]))


def _grown(mask: Mask, reach: int) -> Mask:
    """Give the pixels at most so many rows and columns away from one of a mask."""
    grown = mask.copy()
    for along in (grown, grown.T):
        once = along.copy(order="K")  # which lies as its original does, or each step below takes long
        for step in range(1, reach + 1):
            along[step:] |= once[:-step]
            along[:-step] |= once[step:]
    return grown


def _is_drawn_as(colour: tuple[int, int, int], cielab: tuple[int, int, int]) -> bool:
    """Tell whether an sRGB colour is the one of a label: yellow for a grey one, and never darker than 150.

    Ref: PS3.3 C.10.7.1.1 (CIELab under D50)
    """
    height = (cielab[0] + 16.0) / 116.0
    roots = (height + cielab[1] / 500.0, height, height - cielab[2] / 200.0)
    x, y, z = (white * (root**3 if root > 6 / 29 else (root - 16 / 116) * 108 / 841) for white, root in zip(D50, roots, strict=True))
    red = 3.1338561 * x - 1.6168667 * y - 0.4906146 * z
    green = -0.9787684 * x + 1.9161415 * y + 0.0334540 * z
    blue = 0.0719453 * x - 0.2289914 * y + 1.4052427 * z
    parts = [255 * _gamma(min(1.0, max(0.0, part))) for part in (red, green, blue)]
    options = [(255.0, 221.0, 64.0)] if max(parts) - min(parts) < GREY + 2 else []
    if max(parts) - min(parts) > GREY - 2:
        factor = max(1.0, 150 / max(parts))
        options.append((parts[0] * factor, parts[1] * factor, parts[2] * factor))
    return any(all(abs(part - seen) <= ROUNDED for part, seen in zip(option, colour, strict=True)) for option in options)


def _gamma(linear: float) -> float:
    return 12.92 * linear if linear <= 0.0031308 else float(1.055 * linear ** (1 / 2.4) - 0.055)
