"""Key pictures of one analysis: which slice, which part of it, what is drawn on it. Pages are made of them.

Ref: docs/results.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from models.vocabulary import Finding
from workers import drawing
from workers.drawing import Colour, Mark, Mask, Sides, View, Window
from workers.measure import SegmentMeasures
from workers.results.request import ComposeRequest, Draft
from workers.results.segments import Segment, mask_on

LUNG, BRAIN = "39607008", "12738006"
HU_WINDOWS = {LUNG: Window(low=-1250, high=250), BRAIN: Window(low=0, high=80)}
SOFT_TISSUE = Window(low=-160, high=240)
ZOOM_MM, ZOOM = 40.0, 2.5
Rectangle = tuple[float, float, float, float]
"""(top row, left column, bottom row, right column), half open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """One picture to be placed: a slice, a part of it, a caption; what corners point at; whether it is enlarged.

    heat  the label whose probability is laid over the slice, in place of outlines
    """

    index: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    caption: str
    pointed: tuple[tuple[Segment, Rectangle], ...] = ()
    near: bool = False
    heat: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Studio:
    """What every picture of one analysis shares."""

    draft: Draft
    window: Window
    told: Sides

    @property
    def request(self) -> ComposeRequest:
        """Give the analysis."""
        return self.draft.request


def studio(draft: Draft) -> Studio:
    """Settle window and sides once, so that all pictures of an analysis look alike."""
    request = draft.request
    return Studio(draft=draft, window=_window(request), told=told_sides(request))


def _window(request: ComposeRequest) -> Window:
    """Take the window of the organ in question on CT, else the images' own; of other images one between their values.

    A radiograph comes as it is displayed, from 0 to 1.
    """
    if request.volume.grid.is_projection:
        return Window(low=0, high=1)
    if request.volume.modality == "CT":
        codes = [code.value for part in request.card.card.output.labels for code in (part.region, part.type) if code]
        own = _own_window(request.sources[len(request.sources) // 2])
        return next((HU_WINDOWS[value] for value in codes if value in HU_WINDOWS), own or SOFT_TISSUE)
    return drawing.spread(request.volume.array, 1.0, 99.7)


def _own_window(source: Dataset) -> Window | None:
    """Give the first window of a header, None where it has none to show something with. Ref: PS3.3 C.11.2.1.2."""
    values = []
    for keyword in ("WindowCenter", "WindowWidth"):
        value = source.get(keyword)
        first = value[0] if isinstance(value, MultiValue | list | tuple) and value else value
        try:
            values.append(float(first))
        except (TypeError, ValueError):
            return None
    centre, width = values
    return Window(low=centre - width / 2, high=centre + width / 2) if np.isfinite(values).all() and width >= 1 else None


def told_sides(request: ComposeRequest) -> Sides:
    """Give the sides from the grid where the images lie in the patient, else from what their header says, else none."""
    source = request.sources[0]
    if not request.volume.grid.is_projection:
        axes = request.volume.grid.axes
        return drawing.sides(drawing.letters(axes[2]), drawing.letters(axes[1]))
    named = [str(value).strip() for value in source.get("PatientOrientation") or ()]
    if len(named) != 2 or not all(value and set(value) <= set(drawing.OPPOSITE) for value in named):
        return Sides()
    return drawing.sides(*named)


def marks(draft: Draft, index: int) -> list[tuple[Segment, Mark]]:
    """Give what is marked on a slice, findings last, so that they lie on top."""
    there = [segment for segment in draft.segments if index in extent(segment)]
    there.sort(key=lambda segment: (segment.finding is not None, segment.seg, segment.number))
    request = draft.request
    return [
        (segment, Mark(mask=plane(request, segment, index), colour=colour(segment), outside=segment.finding is not None))
        for segment in there
    ]


def extent(segment: Segment) -> Sequence[int]:
    """Give the slices on which a segment is."""
    if segment.boxed and segment.finding is not None:
        return range(segment.finding.box.low[0], segment.finding.box.high[0])
    return segment.slices


def colour(segment: Segment) -> Colour:
    """Give the card's colour as it is drawn."""
    return drawing.visible(drawing.rgb(segment.part.cielab))


def plane(request: ComposeRequest, segment: Segment, index: int) -> Mask:
    """Give one segment on one slice; of a finding without voxels its box."""
    if segment.boxed and segment.finding is not None:
        return _box_plane(request.prediction.grid.shape, segment.finding, index)
    return mask_on(request, segment, index)


def _box_plane(shape: tuple[int, int, int], finding: Finding, index: int) -> Mask:
    (z0, y0, x0), (z1, y1, x1) = finding.box.low, finding.box.high
    mask = np.zeros(shape[1:], dtype=bool)
    mask[y0:y1, x0:x1] = z0 <= index < z1
    return mask


def bounds(mask: Mask) -> Rectangle:
    """Give the bounding box of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(rows[0]), float(columns[0]), float(rows[-1] + 1), float(columns[-1] + 1)


def overview(studio: Studio, index: int, caption: str) -> Picture:
    """Give the slice, cut to what is marked on it and some room around; the whole slice where no organ is."""
    request = studio.request
    shape = request.volume.array.shape[1:]
    drawn = marks(studio.draft, index)
    rectangle: Rectangle = (0, 0, *shape)
    if any(segment.finding is None for segment, _ in drawn):
        rectangle = bounds(np.logical_or.reduce([mark.mask for _, mark in drawn]))
        dy, dx = request.volume.grid.spacing_mm[1:]
        room_mm = 10 + 0.12 * max((rectangle[2] - rectangle[0]) * dy, (rectangle[3] - rectangle[1]) * dx)
        rectangle = _grown(rectangle, room_mm / dy, room_mm / dx)
    places = tuple((segment, bounds(mark.mask)) for segment, mark in drawn if segment.finding is not None)
    return _cut(shape, rectangle, Picture(index=index, rows=(0, 0), columns=(0, 0), caption=caption, pointed=places))


def zoom(studio: Studio, segment: Segment, measures: SegmentMeasures, proportion: float) -> Picture:
    """Give a finding from near, in a field of that width to height."""
    request, index = studio.request, measures.key_slice
    rectangle = bounds(plane(request, segment, index))
    dy, dx = request.volume.grid.spacing_mm[1:]
    side_mm = max(ZOOM_MM, ZOOM * max((rectangle[2] - rectangle[0]) * dy, (rectangle[3] - rectangle[1]) * dx))
    row, column = (rectangle[0] + rectangle[2]) / 2, (rectangle[1] + rectangle[3]) / 2
    half_rows, half_columns = side_mm / dy / 2, side_mm * proportion / dx / 2
    field = (row - half_rows, column - half_columns, row + half_rows, column + half_columns)
    picture = Picture(index=index, rows=(0, 0), columns=(0, 0), caption=f"{segment.name}, enlarged", near=True)
    return _cut(request.volume.array.shape[1:], field, picture)


def _grown(rectangle: Rectangle, rows: float, columns: float) -> Rectangle:
    top, left, bottom, right = rectangle
    return top - rows, left - columns, bottom + rows, right + columns


def _cut(shape: tuple[int, ...], rectangle: Rectangle, picture: Picture) -> Picture:
    """Put a rectangle's whole pixels into the slice: moved inside where it hangs over, cut where it is too large."""
    ranges = []
    for size, low, high in zip(shape, rectangle[:2], rectangle[2:], strict=True):
        length = min(size, max(1, round(high - low)))
        start = min(max(0, round(low)), size - length)
        ranges.append((start, start + length))
    return replace(picture, rows=ranges[0], columns=ranges[1])


def paint(studio: Studio, picture: Picture, page: Image.Image, box: tuple[int, int, int, int]) -> View:
    """Draw a picture into a box (left, top, width, height) of a page; give where it came to lie."""
    grid = studio.request.volume.grid
    left, top, width, height = box
    wanted = View(index=picture.index, rows=picture.rows, columns=picture.columns, left=left, top=top, width=width, height=height)
    view = replace(drawing.fit(wanted, grid.spacing_mm[1:]), heat=picture.heat)
    own = replace(view, left=0, top=0)
    canvas = Image.new("RGB", (view.width, view.height))
    drawing.show(canvas, own, grey_of(studio, picture.index))
    if picture.heat is not None:
        drawing.warm(canvas, own, studio.request.probabilities(picture.heat)[picture.index])
    for segment, rectangle in picture.pointed:
        drawing.corners(canvas, own, rectangle, number(segment))
    drawing.tell_sides(canvas, own, studio.told)
    if grid.calibrated:
        drawing.scale_bar(canvas, own, grid.spacing_mm[2])
    if picture.heat is None:
        _outline(studio, canvas, own)
    page.paste(canvas, (view.left, view.top))
    return view


def _outline(studio: Studio, canvas: Image.Image, view: View) -> None:
    thick = 2 if studio.request.prediction.instances is None or view.height >= 3 * (view.rows[1] - view.rows[0]) else 1
    drawing.outline(canvas, view, [mark for _, mark in marks(studio.draft, view.index)], thick)


def number(segment: Segment) -> str:
    """Give the number that a finding has on pictures: "2" of "Nodule 2"."""
    return segment.name.rsplit(" ", 1)[-1]


def grey_of(studio: Studio, index: int) -> NDArray[np.uint8]:
    """Give a slice in the analysis' window."""
    array: NDArray[Any] = studio.request.volume.array
    return drawing.greys(array[index], studio.window)


def place(request: ComposeRequest, index: int) -> str:
    """Name a slice as a viewer does: "slice 23 of 60, image 24, H 103.5 mm"."""
    source, frame = request.sources[index], request.frame(index)
    words = [] if len(request.sources) == 1 else [f"slice {index + 1} of {len(request.sources)}"]
    if frame is not None:
        words.append(f"frame {frame}")
    elif (number := _integer(source.get("InstanceNumber"))) is not None:
        words.append(f"image {number}")
    grid = request.volume.grid
    if not grid.is_projection:
        normal = np.cross(grid.axes[2], grid.axes[1])
        axis = int(np.argmax(np.abs(normal)))
        middle = grid.to_world_mm(np.array([[index, 0.0, 0.0]]))[0]
        words.append(f"{('LR', 'PA', 'HF')[axis][0 if middle[axis] >= 0 else 1]} {abs(middle[axis]):.1f} mm")
    return ", ".join(words)


def _integer(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
