"""The summary: pages of 1024 x 1024 with key pictures, tables and what the reader must know; nothing is cut, it goes on overleaf.

The top 60 rows stay empty, because viewers write their own words there. Nobody's name or number is burned in: the
object's header carries them.
Ref: docs/results.md
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from PIL import Image, ImageDraw

from workers import drawing
from workers.drawing import Colour, View
from workers.measure import SegmentMeasures
from workers.results import pictures, tables, wording
from workers.results.pictures import Picture, Studio
from workers.results.request import Draft
from workers.results.segments import Segment
from workers.results.tables import Row, Table

SIDE, CLEAR, MARGIN, FOOT = 1024, 60, 24, 996
GROUND, QUIET, LINE, AMBER, DARK = (10, 12, 16), (160, 166, 176), (58, 62, 70), (255, 178, 36), (20, 14, 0)
FIRST, REST = 3, 24  # findings with pictures on the first page, and on those at the end
GAP, CAPTION = 10, 20
LEAST_AREA, MOST_AREA = 440, 570
HEAT = "Where the model looked: its probability at every pixel. None is clear; the higher it is, the redder."
Pair = tuple[Segment, SegmentMeasures]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A finished page and where its pictures lie."""

    image: Image.Image
    views: tuple[View, ...]


@dataclass(slots=True, kw_only=True)
class _Book:
    """Pages being written from top to bottom; `y` is where the last one goes on."""

    title: str
    headline: str
    images: list[Image.Image] = field(default_factory=list)
    views: list[list[View]] = field(default_factory=list)
    y: int = 0

    def turn(self) -> None:
        """Begin a page: empty top, banner, title."""
        page = Image.new("RGB", (SIDE, SIDE), GROUND)
        pen = ImageDraw.Draw(page)
        pen.rectangle((MARGIN, CLEAR + 2, SIDE - MARGIN - 1, CLEAR + 37), fill=AMBER)
        pen.text((SIDE / 2, CLEAR + 20), tables.BANNER, font=drawing.font(22), fill=DARK, anchor="mm", stroke_width=0.6, stroke_fill=DARK)
        pen.text((MARGIN, CLEAR + 48), self.title, font=drawing.font(16), fill=QUIET)
        self.images.append(page)
        self.views.append([])
        self.y = CLEAR + 72
        first = len(self.images) == 1
        for line in _wrapped(self.headline, 30 if first else 18, SIDE - 2 * MARGIN):
            self.text(line, 30 if first else 18, drawing.INK)
        self.y += 4

    def room(self, height: int) -> None:
        """Go on overleaf where the page has not that much left."""
        if self.y + height > FOOT:
            self.turn()

    def text(self, line: str, size: int, colour: Colour, left: int = MARGIN) -> None:
        """Write one line."""
        ImageDraw.Draw(self.images[-1]).text((left, self.y), line, font=drawing.font(size), fill=colour)
        self.y += round(size * 1.32)

    def paragraph(self, words: str, size: int, colour: Colour) -> None:
        """Write words in as many lines as they need."""
        for line in _wrapped(words, size, SIDE - 2 * MARGIN):
            self.room(round(size * 1.32))
            self.text(line, size, colour)

    def finish(self) -> list[Page]:
        """Write each page's number and give them all."""
        for number, page in enumerate(self.images, start=1):
            label = f"Page {number} of {len(self.images)}"
            ImageDraw.Draw(page).text((SIDE - MARGIN, CLEAR + 48), label, font=drawing.font(16), fill=QUIET, anchor="ra")
        return [Page(image=image, views=tuple(views)) for image, views in zip(self.images, self.views, strict=True)]


def summary(draft: Draft) -> list[Page]:
    """Lay out the whole summary of one analysis."""
    studio = pictures.studio(draft)
    first, rest = _chosen(draft)
    book = _Book(title=f"Overread - series {_series(draft)}", headline=tables.headline(draft))
    book.turn()
    for line in tables.facts(draft):
        book.paragraph(line, 16, drawing.INK)
    if line := tables.shown_line([segment for segment, _ in (*first, *rest)], draft):
        book.paragraph(line, 16, QUIET)
    book.y += 6
    told = tables.tables(draft)
    _mount(book, _leading(studio, first), studio, _area_left(book, told, tables.notes(draft)))
    for table in told:
        _tabulate(book, table)
    book.y += 6
    for note in tables.notes(draft):
        book.paragraph(note, 12, QUIET)
    if rest:
        book.turn()
        _gallery(book, studio, _pairs(studio, rest, proportion=1.0))
    if heated := _heated(studio, first):
        book.turn()
        book.paragraph(HEAT, 16, QUIET)
        book.y += 6
        _gallery(book, studio, heated)
    return book.finish()


def _series(draft: Draft) -> str:
    source = draft.request.sources[0]
    return f"{source.get('SeriesNumber') or '-'}, {source.get('Modality') or ''}".strip(", ")


def _chosen(draft: Draft) -> tuple[list[Pair], list[Pair]]:
    """Give the findings shown first and those at the end: the largest, each part in the order of their numbers."""
    findings = {pair[0].finding.number: pair for pair in draft.measured if pair[0].finding is not None}
    largest = sorted(findings, key=lambda number: (-area(draft, findings[number]), number))
    first, rest = sorted(largest[:FIRST]), sorted(largest[FIRST : FIRST + REST])
    return [findings[number] for number in first], [findings[number] for number in rest]


def area(draft: Draft, pair: Pair) -> int:
    """Give how many pixels of its key slice a segment has."""
    segment, measures = pair
    return int(pictures.plane(draft.request, segment, measures.key_slice).sum())


def _leading(studio: Studio, first: Sequence[Pair]) -> list[Picture]:
    """Give the first page's pictures: findings in their slice and from near, else organs, else slices through the whole."""
    if first:
        return _pairs(studio, first, proportion=1.35)
    request = studio.request
    marked = sorted({index for segment in studio.draft.segments for index in pictures.extent(segment)})
    keys = [] if wording.detects(request.card.card) else sorted({measures.key_slice for _, measures in studio.draft.measured})
    chosen = _spaced(keys or marked or range(len(request.sources)), 6)
    if 0 < len(keys) < 3 <= len(marked):  # one organ is seen better on more slices than its largest
        chosen = [*chosen, *(index for index in _spaced(marked, 3)[::2] if index not in chosen)]
    return [pictures.overview(studio, index, _names(studio.draft, index)) for index in chosen]


def _pairs(studio: Studio, pairs: Sequence[Pair], proportion: float) -> list[Picture]:
    """Give each finding's slice, once for all findings that share it, followed by the finding from near."""
    shown: list[Picture] = []
    seen: set[int] = set()
    for segment, measures in pairs:
        if measures.key_slice not in seen:
            seen.add(measures.key_slice)
            there = [other.name for other, measured in pairs if measured.key_slice == measures.key_slice]
            shown.append(pictures.overview(studio, measures.key_slice, ", ".join(there)))
        shown.append(pictures.zoom(studio, segment, measures, proportion))
    return shown


def _names(draft: Draft, index: int) -> str:
    """Name the organs whose key slice it is, the first two of them; empty where it is none's."""
    names = [segment.name for segment, measures in draft.measured if measures.key_slice == index]
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def _spaced(indices: Sequence[int], most: int) -> list[int]:
    """Give at most so many of the indices, evenly spaced and away from the ends.

    Example: 0..11 and 3 give 2, 6, 10.
    """
    if len(indices) <= most:
        return list(indices)
    return [indices[int((number + 0.5) * len(indices) / most)] for number in range(most)]


def _area_left(book: _Book, told: Sequence[Table], notes: Sequence[str]) -> int:
    """Give the pictures the room that tables and notes leave on the first page, within bounds."""
    lines = sum(len(_wrapped(note, 12, SIDE - 2 * MARGIN)) for note in notes)
    needed = sum(51 + 21 * len(table.rows) for table in told) + 16 * lines + 6
    left = FOOT - book.y - needed
    return min(left, MOST_AREA) if left >= LEAST_AREA else MOST_AREA


def _mount(book: _Book, shown: Sequence[Picture], studio: Studio, area: int) -> None:
    """Put up to six pictures on the page; two of a finding stand in one column."""
    boxes = _boxes(len(shown), book.y, area, by_column=any(picture.near for picture in shown))
    for picture, box in zip(shown, boxes, strict=True):
        _hang(book, studio, picture, box)
    book.y = max(top + height for _, top, _, height in boxes) + CAPTION + GAP


def _boxes(count: int, y: int, area: int, *, by_column: bool) -> list[tuple[int, int, int, int]]:
    """Share the width out to one to six pictures; of three the first is large, and the others stand beside it."""
    width = SIDE - 2 * MARGIN
    if count == 3:
        wide, high = 606, area // 2
        rest = [(MARGIN + wide + GAP, y + row * high, width - wide - GAP, high - CAPTION - GAP) for row in range(2)]
        return [(MARGIN, y, wide, 2 * high - CAPTION - GAP), *rest]
    columns, rows = {1: (1, 1), 2: (2, 1), 4: (2, 2)}.get(count, (3, 2))
    width = (width - (columns - 1) * GAP) // columns
    height = min(width, area // rows - GAP - CAPTION)
    places = (divmod(number, rows) if by_column else divmod(number, columns)[::-1] for number in range(count))
    return [(MARGIN + column * (width + GAP), y + row * (height + CAPTION + GAP), width, height) for column, row in places]


def _heated(studio: Studio, pairs: Sequence[Pair]) -> list[Picture]:
    """Give the pictures of findings again, with the probability of each one's label at every pixel, where the model tells it."""
    shown: list[Picture] = []
    for label in dict.fromkeys(segment.part.index for segment, _ in pairs):
        if label in studio.request.prediction.probabilities:
            own = [pair for pair in pairs if pair[0].part.index == label]
            shown += [replace(picture, heat=label, pointed=()) for picture in _pairs(studio, own, proportion=1.0)]
    return shown


def _gallery(book: _Book, studio: Studio, shown: Sequence[Picture]) -> None:
    """Put pictures up, four in a row."""
    width = (SIDE - 2 * MARGIN - 3 * GAP) // 4
    for number, picture in enumerate(shown):
        if number % 4 == 0:
            book.room(width + CAPTION)
        _hang(book, studio, picture, (MARGIN + number % 4 * (width + GAP), book.y, width, width))
        if number % 4 == 3:
            book.y += width + CAPTION + GAP


def _hang(book: _Book, studio: Studio, picture: Picture, box: tuple[int, int, int, int]) -> None:
    """Draw one picture with its caption."""
    left, top, width, height = box
    page = book.images[-1]
    pen = ImageDraw.Draw(page)
    pen.rectangle((left, top, left + width - 1, top + height - 1), fill=drawing.SHADOW)
    book.views[-1].append(pictures.paint(studio, picture, page, box))
    words = ": ".join(filter(None, (picture.caption, "" if picture.near else pictures.place(studio.request, picture.index))))
    while _width(words, 13) > width and "," in words:
        words = words.rpartition(",")[0]
    pen.text((left, top + height + 3), cut(words, 13, width), font=drawing.font(13), fill=QUIET)


def _tabulate(book: _Book, table: Table) -> None:
    """Write a table, its heading again on every page that it reaches."""
    widths = _widths(table)
    book.room(66)
    book.text(table.title, 17, drawing.INK)
    _line(book, Row(cells=table.columns), widths, QUIET)
    for row in table.rows:
        if book.y + 21 > FOOT:
            book.turn()
            book.text(f"{table.title} (continued)", 17, drawing.INK)
            _line(book, Row(cells=table.columns), widths, QUIET)
        _line(book, row, widths, drawing.INK)
    book.y += 8


def _line(book: _Book, row: Row, widths: Sequence[int], ink: Colour) -> None:
    """Write one row and a thin line under it."""
    pen = ImageDraw.Draw(book.images[-1])
    if row.colour is not None:
        pen.rectangle((MARGIN, book.y + 4, MARGIN + 9, book.y + 13), fill=row.colour)
    left = MARGIN + 16
    for cell, width in zip(row.cells, widths, strict=True):
        pen.text((left, book.y), cut(cell, 15, width - 8), font=drawing.font(15), fill=ink)
        left += width
    book.y += 21
    pen.line((MARGIN, book.y - 2, SIDE - MARGIN - 1, book.y - 2), fill=LINE)


def _widths(table: Table) -> list[int]:
    """Share the page's width out by the widest cell of each column; nobody's words are cut where there is room."""
    needed = [
        max(_width(text, 15) for text in (table.columns[number], *(row.cells[number] for row in table.rows))) + 22
        for number in range(len(table.columns))
    ]
    room = SIDE - 2 * MARGIN - 16
    scale = min(1.0, room / sum(needed))
    return [int(width * scale) for width in needed]


def _width(text: str, size: int) -> int:
    return round(drawing.font(size).getlength(text))


def cut(text: str, size: int, width: int) -> str:
    """Shorten a text that does not fit; three dots say so."""
    if _width(text, size) <= width:
        return text
    kept = len(text)
    while kept and _width(f"{text[:kept]}...", size) > width:
        kept -= 1
    return f"{text[:kept].rstrip()}..."


def _wrapped(words: str, size: int, width: int) -> list[str]:
    """Break a text into lines; a word longer than a line is broken too."""
    lines = [""]
    for word in words.split():
        rest = word
        if lines[-1] and _width(f"{lines[-1]} {rest}", size) > width:
            lines.append("")
        while _width(rest, size) > width:
            kept = next(count for count in range(len(rest) - 1, 0, -1) if _width(rest[:count], size) <= width)
            lines += [rest[:kept], ""] if not lines[-1] else ["", rest[:kept], ""]
            rest = rest[kept:]
        lines[-1] = f"{lines[-1]} {rest}".strip()
    return [line for line in lines if line]
