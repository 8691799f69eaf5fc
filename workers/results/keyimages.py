"""Key images: the slices that matter, each with its outlines, at the images' own resolution where that is not too large to send."""

from __future__ import annotations

from math import ceil

from PIL import Image, ImageDraw

from workers import drawing
from workers.drawing import View
from workers.results import pages, pictures, tables, wording
from workers.results.pages import AMBER, GROUND, QUIET, Page
from workers.results.pictures import Studio
from workers.results.request import Draft

MOST = 64
LEAST_SIDE, MOST_SIDE, STRIP = 512, 2048, 50


def indices(draft: Draft) -> tuple[list[int], int]:
    """Give the slices on which something is largest, ascending, and how many there are; of too many the largest findings'."""
    ranked = sorted(draft.measured, key=lambda pair: (pair[0].finding is None, -pages.area(draft, pair)))
    every = list(dict.fromkeys(measures.key_slice for _, measures in ranked))
    return sorted(every[:MOST]), len(every)


def keys(draft: Draft) -> list[Page]:
    """Draw the key images; none where nothing is marked."""
    studio = pictures.studio(draft)
    shown, every = indices(draft)
    of = f"{len(shown)}" if len(shown) == every else f"{len(shown)} (of {every} key slices)"
    return [_key(studio, index, f"Key image {number} of {of}") for number, index in enumerate(shown, start=1)]


def size(shape: tuple[int, int], spacing_mm: tuple[float, float]) -> tuple[int, int]:
    """Give rows and columns of the picture of a whole slice: square pixels, none lost, small slices some times as large.

    Example: 250 x 200 at 0.5 between rows and 1 mm between columns: 250 x 400 with pixels of 0.5 mm, three times that.
    """
    fine = min(spacing_mm)
    rows, columns = (max(1, round(count * step / fine)) for count, step in zip(shape, spacing_mm, strict=True))
    scale = float(ceil(LEAST_SIDE / max(rows, columns))) if max(rows, columns) < LEAST_SIDE else min(1.0, MOST_SIDE / max(rows, columns))
    return max(1, round(rows * scale)), max(1, round(columns * scale))


def _key(studio: Studio, index: int, number: str) -> Page:
    request = studio.request
    _, rows, columns = request.volume.array.shape
    height, width = size((rows, columns), request.volume.grid.spacing_mm[1:])
    view = View(index=index, rows=(0, rows), columns=(0, columns), left=0, top=0, width=width, height=height)
    page = Image.new("RGB", (max(width, LEAST_SIDE), max(height, pages.CLEAR) + STRIP), GROUND)
    drawn = pictures.marks(studio.draft, index)
    picture = page.crop((0, 0, width, height))
    drawing.show(picture, view, pictures.grey_of(studio, index))
    for segment, mark in drawn:
        if segment.finding is not None:
            drawing.corners(picture, view, pictures.bounds(mark.mask), pictures.number(segment))
    drawing.tell_sides(picture, view, studio.told, clear=pages.CLEAR)
    if request.volume.grid.calibrated:
        drawing.scale_bar(picture, view, request.volume.grid.spacing_mm[2])
    drawing.outline(picture, view, [mark for _, mark in drawn])
    page.paste(picture, (0, 0))
    names = [segment.name for segment, measures in studio.draft.measured if measures.key_slice == index]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    pen, top = ImageDraw.Draw(page), page.height - STRIP
    pen.text((8, top + 6), tables.BANNER, font=drawing.font(15), fill=AMBER)
    words = f"{number}: {', '.join(names[:3])}{more}; {pictures.place(request, index)}. {wording.model_words(request)}"
    pen.text((8, top + 27), pages.cut(words, 13, page.width - 16), font=drawing.font(13), fill=QUIET)
    return Page(image=page, views=(view,))
