"""Read presentation states back: every outline encloses its mark pixel by pixel, on an image of this analysis.

It shares no code with the writer: outlines are filled here and compared with the prediction.
Ref: PS3.3 C.10.5 (PIXEL: the first pixel's corner is (0, 0)), C.11.11 (relationship)
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy import ndimage

from node.errors import Refused
from workers.results.marks import Mark
from workers.results.request import ComposeRequest

Mask = NDArray[np.bool_]
Image = tuple[str, int | None]
STORAGE = "1.2.840.10008.5.1.4.1.1.11.1"
WINDOW = ("WindowCenter", "WindowWidth", "VOILUTFunction")


def verify(request: ComposeRequest, states: Sequence[Dataset], found: Mapping[str, Mark]) -> None:
    """Raise Refused unless the states outline what the prediction marks, each mark once, and show the images as they are.

    Of a detector these are its findings, else the organs.
    """
    places = {(str(source.SOPInstanceUID), request.frame(index)): index for index, source in enumerate(request.sources)}
    wanted = {uid: mark for uid, mark in found.items() if mark.finding is not None or not request.card.card.finds}
    drawn: set[str] = set()
    for state in states:
        if state.SOPClassUID != STORAGE:
            raise Refused("the presentation state is of another storage class")
        listed = _listed(request, state, places)
        _check_display(request, state)
        for index in listed:
            _check_grey(request.sources[index], state, (str(request.sources[index].SOPInstanceUID), request.frame(index)))
        layers = {item.GraphicLayer for item in state.GraphicLayerSequence}
        for item in state.GraphicAnnotationSequence:
            image = _image(item.ReferencedImageSequence[0])
            if len(item.ReferencedImageSequence) != 1 or places.get(image) not in listed or item.GraphicLayer not in layers:
                raise Refused("a mark of the presentation state lies on no image or in no layer of it")
            seen = _check_marks(request, item, wanted, places[image])
            if seen & drawn:
                raise Refused("the presentation state outlines one mark twice")
            drawn |= seen
    if drawn != set(wanted):
        raise Refused("the presentation state does not outline everything that the prediction marks")


def _listed(request: ComposeRequest, state: Dataset, places: Mapping[Image, int]) -> set[int]:
    """Give the slices that a state refers to; raises Refused where one is not of this analysis."""
    series = state.ReferencedSeriesSequence
    if len(series) != 1 or series[0].SeriesInstanceUID != request.sources[0].SeriesInstanceUID:
        raise Refused("the presentation state does not refer to the images' series")
    listed = set()
    for item in series[0].ReferencedImageSequence:
        frames = item.get("ReferencedFrameNumber")
        for frame in [None] if frames is None else [int(number) for number in np.atleast_1d(frames)]:
            index = places.get((str(item.ReferencedSOPInstanceUID), frame))
            if index is None or item.ReferencedSOPClassUID != request.sources[index].SOPClassUID:
                raise Refused("the presentation state refers to an image that was not analysed")
            listed.add(index)
    return listed


def _image(item: Dataset) -> Image:
    frame = item.get("ReferencedFrameNumber")
    return str(item.ReferencedSOPInstanceUID), None if frame is None else int(frame)


def _check_display(request: ComposeRequest, state: Dataset) -> None:
    """Look that the whole image is shown, and millimetres claimed only where there are any. Ref: PS3.3 C.10.4."""
    grid = request.prediction.grid
    (area,) = state.DisplayedAreaSelectionSequence
    corners = [*area.DisplayedAreaTopLeftHandCorner, *area.DisplayedAreaBottomRightHandCorner]
    if corners != [1, 1, grid.shape[2], grid.shape[1]] or "ReferencedImageSequence" in area:
        raise Refused("the presentation state does not show the whole image")
    spacing = area.get("PresentationPixelSpacing")
    if (spacing is not None) != grid.calibrated or (spacing is not None and not np.allclose(spacing, grid.spacing_mm[1:], rtol=1e-6)):
        raise Refused("the presentation state claims another pixel spacing than the images have")
    if spacing is None:
        high, wide = (float(value) for value in area.PresentationPixelAspectRatio)
        if abs(high / wide * grid.spacing_mm[2] / grid.spacing_mm[1] - 1) > 1e-2:
            raise Refused("the presentation state changes the pixels' proportions")


def _check_grey(source: Dataset, state: Dataset, image: Image) -> None:
    """Look that one image is shown as it shows itself: its rescale, its window, its polarity."""
    shape = "INVERSE" if source.get("PhotometricInterpretation") == "MONOCHROME1" else "IDENTITY"
    if state.get("PresentationLUTShape") != shape:
        raise Refused("the presentation state turns black and white round")
    for keyword in ("RescaleSlope", "RescaleIntercept"):
        if keyword in state and float(state[keyword].value) != float(source.get(keyword, np.nan)):
            raise Refused("the presentation state's rescale is not that of the images")
    items = state.get("SoftcopyVOILUTSequence", ())
    mine = [item for item in items if image in {_image(named) for named in item.get("ReferencedImageSequence", ())} or len(items) == 1]
    if len(mine) > 1:
        raise Refused("the presentation state has two windows for one image")
    for keyword in WINDOW if mine else ():
        if keyword in mine[0] and str(mine[0][keyword].value) != str(source.get(keyword)):
            raise Refused("the presentation state's window is not that of the images")


def _check_marks(request: ComposeRequest, item: Dataset, wanted: Mapping[str, Mark], index: int) -> set[str]:
    """Compare each outline of one image with its mark, and find its name; give the tracking UIDs."""
    names = {text.UnformattedTextValue for text in item.TextObjectSequence}
    shape = request.prediction.grid.shape[1:]
    seen: set[str] = set()
    for graphic in item.GraphicObjectSequence:
        uid = str(graphic.TrackingUID)
        if uid not in wanted or uid in seen:
            raise Refused("the presentation state outlines what the prediction does not mark")
        name = wanted[uid].name
        if graphic.TrackingID != name or name not in names:
            raise Refused(f"the presentation state does not call {name} by its name")
        if (graphic.GraphicType, graphic.GraphicAnnotationUnits, graphic.GraphicDimensions) != ("POLYLINE", "PIXEL", 2):
            raise Refused("an outline of the presentation state is no line in pixels")
        if not _encloses(np.array(graphic.GraphicData, dtype=float).reshape(-1, 2), wanted[uid].plane(index)):
            raise Refused(f"the presentation state does not outline {name} where the prediction marks it")
        seen.add(uid)
    for text in item.TextObjectSequence:
        box = np.array([text.BoundingBoxTopLeftHandCorner, text.BoundingBoxBottomRightHandCorner], dtype=float)
        if (box[0] >= box[1]).any() or (box < 0).any() or (box > (shape[1], shape[0])).any():
            raise Refused("a name in the presentation state lies outside of the image")
    return seen


def _encloses(points: NDArray[np.float64], mask: Mask) -> bool:
    """Tell whether a closed line runs along pixel borders around the largest part of a mask, its holes included."""
    filled = _filled(points, mask.shape)
    if filled is None or not filled.any() or not mask.any():
        return False
    there = _around(filled | mask)
    filled, mask = filled[there], mask[there]
    parts, _ = ndimage.label(mask)
    sizes = np.bincount(parts.ravel())[1:]
    inside = np.unique(parts[filled & mask])  # islands in its holes too
    if not len(inside) or sizes[inside - 1].max() != sizes.max():
        return False
    largest = inside[sizes[inside - 1].argmax()]
    return bool(np.array_equal(filled, ndimage.binary_fill_holes(parts == largest)))


def _around(mask: Mask) -> tuple[slice, slice]:
    """Give the rows and columns on which a mask is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _filled(points: NDArray[np.float64], shape: tuple[int, ...]) -> Mask | None:
    """Fill a closed line of steps along pixel borders; None where it is no such line.

    Example: (5, 2) (6, 2) (6, 3) (5, 3) (5, 2) fills row 2, column 5.
    """
    ends = np.array([shape[1], shape[0]])
    if len(points) < 5 or not np.array_equal(points[0], points[-1]) or not ((points >= 0) & (points <= ends)).all():
        return None
    turns = np.zeros((shape[0], shape[1] + 1), dtype=np.int32)
    for (x, y), (next_x, next_y) in itertools.pairwise(points.tolist()):
        along, border = (x == next_x, x) if x == next_x else (y == next_y, y)
        if not along or border % 1:
            return None
        if x == next_x:
            low, high = sorted((y, next_y))
            turns[ceil(low - 0.5) : ceil(high - 0.5), int(x)] += 1  # rows whose middles lie between
    return np.asarray(np.cumsum(turns, axis=1)[:, :-1] % 2 == 1)
