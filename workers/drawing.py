"""Pictures of slices: greys, outlines, which side is where. No clock, no chance: the same input is the same picture.

Text and marks of our own are grey on the picture, outlines alone have colour, so that a reader of the picture can tell them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import floor, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Mask = NDArray[np.bool_]
Colour = tuple[int, int, int]
INK: Colour = (232, 232, 232)
SHADOW: Colour = (0, 0, 0)
# sRGB of CIELab under D50, which is DICOM's white. Ref: PS3.3 C.10.7.1.1
D50 = (0.9642, 1.0, 0.8249)
TO_SRGB = ((3.1339, -1.6169, -0.4906), (-0.9788, 1.9161, 0.0335), (0.0719, -0.2290, 1.4052))
OPPOSITE = {"L": "R", "R": "L", "A": "P", "P": "A", "H": "F", "F": "H"}
WARM, HOT = (255, 190, 0), (255, 0, 0)  # a low and a high probability
OPAQUE = 0.6  # where it is 1
OBLIQUE = 0.3  # of a unit vector: what leans less towards an axis does not get its letter


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Values that are shown black and white."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One mask on a slice and its colour; `outside` draws the line around it, so that it hides nothing of a small lesion."""

    mask: Mask
    colour: Colour
    outside: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Which part of which slice stands where: half-open pixel ranges of the slice, and the picture's place on its page.

    heat  the label whose probability lies over the slice, None where nothing does
    """

    index: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    left: int
    top: int
    width: int
    height: int
    heat: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """The patient's sides at the picture's edges, empty where nobody knows."""

    left: str = ""
    right: str = ""
    top: str = ""
    bottom: str = ""


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Give Pillow's own font, the same on every machine."""
    return ImageFont.load_default(size)


def rgb(cielab: Sequence[int]) -> Colour:
    """Take L 0..100, a and b -128..127 to sRGB.

    Example: (100, 0, 0) is white, (255, 255, 255); (53, 80, 67) is about pure red.
    """
    y = (cielab[0] + 16) / 116
    cubes = np.array([y + cielab[1] / 500, y, y - cielab[2] / 200])
    xyz = np.where(cubes > 6 / 29, cubes**3, 3 * (6 / 29) ** 2 * (cubes - 4 / 29)) * D50
    linear = np.clip(np.array(TO_SRGB) @ xyz, 0, 1)
    values = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    red, green, blue = (round(float(value) * 255) for value in values)
    return red, green, blue


def visible(colour: Colour) -> Colour:
    """Give a colour that can be told from the image: a grey one becomes yellow, a dark one brighter in its own hue.

    Example: (200, 200, 200) gives (255, 221, 64), (0, 0, 75) gives (0, 0, 150).
    """
    if max(colour) - min(colour) < 40:
        return 255, 221, 64
    factor = max(1.0, 150 / max(colour))
    red, green, blue = (min(255, round(part * factor)) for part in colour)
    return red, green, blue


def letters(direction: Iterable[float]) -> str:
    """Name a direction in the patient, the strongest part first.

    Example: (1, 0, 0) is "L"; (0.71, 0, -0.71) is "LF". Ref: PS3.3 C.7.6.1.1.1
    """
    parts = sorted(zip(direction, ("LR", "PA", "HF"), strict=True), key=lambda part: -abs(part[0]))
    return "".join(names[0] if value > 0 else names[1] for value, names in parts if abs(value) > OBLIQUE)


def sides(right: str, bottom: str) -> Sides:
    """Give all four sides from those at the right and at the bottom.

    Example: "L" and "P" (an axial slice): R at the left, A at the top.
    """
    left, top = ("".join(OPPOSITE[letter] for letter in name) for name in (right, bottom))
    return Sides(left=left, right=right, top=top, bottom=bottom)


def spread(array: NDArray[Any], low: float, high: float) -> Window:
    """Give the window between two percentiles of an array, of some hundred thousand of its values.

    Values that are no numbers do not count; a constant array gets a window of width 1.
    """
    steps = [max(1, size // most) for size, most in zip(array.shape, (24, 128, 128), strict=True)]
    some = array[tuple(slice(step // 2, None, step) for step in steps)].astype(float)
    some = some[np.isfinite(some)]
    if not some.size:
        return Window(low=0.0, high=1.0)
    darkest, brightest = (float(value) for value in np.percentile(some, (low, high)))
    return Window(low=darkest, high=brightest if brightest > darkest else darkest + 1)


def greys(plane: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """Give 8-bit greys; what is no number is black."""
    values = np.nan_to_num(plane.astype(np.float64), nan=window.low, posinf=window.high, neginf=window.low)
    return (np.clip((values - window.low) / max(window.high - window.low, 1e-9), 0, 1) * 255 + 0.5).astype(np.uint8)


def fit(view: View, spacing_mm: tuple[float, float]) -> View:
    """Shrink a view's place to the proportions of what it shows, in the middle of the place it had.

    Example: 100 rows at 2 mm and 100 columns at 1 mm in 300 x 300 pixels: 150 wide, 300 high, 75 further right.
    """
    high_mm = (view.rows[1] - view.rows[0]) * spacing_mm[0]
    wide_mm = (view.columns[1] - view.columns[0]) * spacing_mm[1]
    scale = min(view.width / wide_mm, view.height / high_mm)
    width, height = max(1, round(wide_mm * scale)), max(1, round(high_mm * scale))
    left, top = view.left + (view.width - width) // 2, view.top + (view.height - height) // 2
    return replace(view, left=left, top=top, width=width, height=height)


def show(page: Image.Image, view: View, grey: NDArray[np.uint8]) -> None:
    """Put the view's part of a slice on the page."""
    part = np.ascontiguousarray(grey[slice(*view.rows), slice(*view.columns)])
    picture = Image.fromarray(part).resize((view.width, view.height), Image.Resampling.BICUBIC)
    page.paste(picture.convert("RGB"), (view.left, view.top))


def warm(page: Image.Image, view: View, shares: NDArray[np.uint8]) -> None:
    """Lay probabilities (0..255 for 0 to 1) of the view's slice over it: none is clear, and the higher, the redder and less clear.

    Neither colour has blue, so that red less blue is the probability times OPAQUE, whatever the grey beneath.
    """
    part = np.ascontiguousarray(shares[slice(*view.rows), slice(*view.columns)])
    picture = Image.fromarray(part).resize((view.width, view.height), Image.Resampling.BILINEAR)
    share = np.asarray(picture, dtype=float)[..., None] / 255
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    colours = np.array(WARM) + (np.array(HOT) - np.array(WARM)) * share
    mixed = np.asarray(page.crop(box), dtype=float) * (1 - OPAQUE * share) + colours * OPAQUE * share
    page.paste(Image.fromarray((mixed + 0.5).astype(np.uint8)), box[:2])


def outline(page: Image.Image, view: View, marks: Sequence[Mark], thick: int = 1) -> None:
    """Draw the borders of the marks; where one leaves the view there is no line along the view's edge."""
    box = (view.left, view.top, view.left + view.width, view.top + view.height)
    canvas = np.array(page.crop(box))
    for mark in marks:
        part = mark.mask[slice(*view.rows), slice(*view.columns)]
        if part.any():
            canvas[_line(_scaled(part, view), thick, outside=mark.outside)] = mark.colour
    page.paste(Image.fromarray(canvas), box[:2])


def _scaled(part: Mask, view: View) -> Mask:
    """Scale a mask to the picture: its border runs between pixels where they become large, by nearest pixels where small."""
    large = view.height >= part.shape[0] and view.width >= part.shape[1]
    way = Image.Resampling.BILINEAR if large else Image.Resampling.NEAREST
    picture = Image.fromarray(part.astype(np.uint8) * 255).resize((view.width, view.height), way)
    return np.asarray(picture) >= 128


def _line(mask: Mask, thick: int, *, outside: bool) -> Mask:
    """Give the pixels along a mask's border, inside or outside of it."""
    side = ~mask if outside else mask
    inner = side.copy()
    for _ in range(thick):
        padded = np.pad(inner, 1, mode="edge")
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return side & ~inner


def write(page: Image.Image, at: tuple[float, float], text: str, size: int, anchor: str = "la") -> None:
    """Write grey text with a dark rim, readable on any picture."""
    ImageDraw.Draw(page).text(at, text, font=font(size), fill=INK, anchor=anchor, stroke_width=2, stroke_fill=SHADOW)


def tell_sides(page: Image.Image, view: View, told: Sides, clear: int = 0) -> None:
    """Write the patient's sides at the middles of the picture's edges, nothing into the topmost `clear` rows of the page."""
    size = 15
    right, bottom = view.left + view.width, view.top + view.height
    middle_x, middle_y = view.left + view.width / 2, view.top + view.height / 2
    write(page, (view.left + 5, middle_y), told.left, size, "lm")
    write(page, (right - 5, middle_y), told.right, size, "rm")
    write(page, (middle_x, max(view.top, clear) + 4), told.top, size, "ma")
    write(page, (middle_x, bottom - 4), told.bottom, size, "md")


def bar_mm(reach_mm: float) -> float:
    """Give the longest of 1, 2, 5, 10, 20, 50 ... mm that is not longer than a distance.

    Example: 73 mm gives 50, 4.5 mm gives 2.
    """
    power = 10.0 ** floor(log10(max(reach_mm, 1e-6)))
    return next(step * power for step in (5.0, 2.0, 1.0) if step * power <= reach_mm * (1 + 1e-9) or step == 1.0)


def scale_bar(page: Image.Image, view: View, column_mm: float) -> None:
    """Draw a bar of a round length at the bottom right; none on a picture too small for it."""
    per_mm = view.width / ((view.columns[1] - view.columns[0]) * column_mm)
    length_mm = bar_mm(view.width / 3 / per_mm)
    length = round(length_mm * per_mm)
    if view.width < 120 or view.height < 60 or length < 8:
        return
    right, y = view.left + view.width - 10, view.top + view.height - 10
    pen = ImageDraw.Draw(page)
    pen.rectangle((right - length - 1, y - 2, right + 1, y + 2), fill=SHADOW)
    pen.rectangle((right - length, y - 1, right, y + 1), fill=INK)
    write(page, (right - length / 2, y - 5), f"{length_mm:g} mm", 12, "md")


def corners(page: Image.Image, view: View, box: tuple[float, float, float, float], name: str) -> None:
    """Point at a place with four grey corners and its name; `box` is (top row, left column, bottom row, right column) of the slice."""
    down, across = view.height / (view.rows[1] - view.rows[0]), view.width / (view.columns[1] - view.columns[0])
    top, bottom = (view.top + (row - view.rows[0]) * down for row in (box[0], box[2]))
    left, right = (view.left + (column - view.columns[0]) * across for column in (box[1], box[3]))
    reach = max(0.0, (22 - min(bottom - top, right - left)) / 2) + 6
    top, left, bottom, right = top - reach, left - reach, bottom + reach, right + reach
    arm = max(4.0, min(bottom - top, right - left) / 4)
    pen = ImageDraw.Draw(page)
    for x, dx in ((left, arm), (right, -arm)):
        for y, dy in ((top, arm), (bottom, -arm)):
            pen.line((x + dx, y, x, y, x, y + dy), fill=SHADOW, width=3)
            pen.line((x + dx, y, x, y, x, y + dy), fill=INK, width=1)
    inside = right + 30 < view.left + view.width
    write(page, (right + 4, top), name, 14) if inside else write(page, (left - 4, top), name, 14, "ra")
