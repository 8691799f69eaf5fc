"""A 2-D mask as closed lines along pixel borders: one for each edge-connected part, its holes cut open to the outside.

The lines enclose the mask exactly: filled by the even-odd rule at the pixels' centres they give it back.
Ref: PS3.3 C.8.8.6.3 (an inner and an outer contour are one, joined by a channel of no width: the keyhole technique)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Corner = tuple[int, int]
"""(row, column) of a corner of pixels: pixel (r, c) spans the corners (r, c) to (r + 1, c + 1)."""
Path = list[Corner]
Lines = list[NDArray[np.int64]]
Mask = NDArray[np.bool_]


def lines(plane: Mask) -> Lines:
    """Give each part's line as (n, 2) of (column, row), clockwise on the screen, corners only, not closed.

    Example: the ring of 3 x 3 pixels without its middle is one line: around the outside, through a cut to the hole, around it and back.
    """
    loops = [_from_first(loop) for loop in _loops(plane)]
    outer = [loop for loop in loops if _turns_clockwise(loop)]
    at: dict[Corner, int] = {corner: number for number, path in enumerate(outer) for corner in path}
    for hole in sorted((loop for loop in loops if not _turns_clockwise(loop)), key=lambda loop: loop[0]):
        row, column = hole[0]
        # Left of a hole's first corner lies the mask; the first corner on a line that comes there is on the same part's.
        while (row, column) == hole[0] or (row, column) not in at:
            column -= 1
        number = at[row, column]
        place = outer[number].index((row, column))
        outer[number] = [*outer[number][: place + 1], *hole, hole[0], *outer[number][place:]]
        at |= dict.fromkeys(hole, number)
    return [_corners(path) for path in outer]


def _loops(plane: Mask) -> list[Path]:
    """Follow the borders, with the mask on the right hand; where two parts touch at a corner, stay with the own one."""
    follows = _steps(plane)
    loops = []
    while follows:
        start = min(follows)
        path: Path = []
        place, came = start, (0, 0)
        while place != start or not path:
            path.append(place)
            ways = follows[place]
            # On the screen a right turn of (dr, dc) is (dc, -dr).
            following = next((way for way in ways if (way[0] - place[0], way[1] - place[1]) == (came[1], -came[0])), ways[0])
            ways.remove(following)
            if not ways:
                del follows[place]
            came, place = (following[0] - place[0], following[1] - place[1]), following
        loops.append(path)
    return loops


def _steps(plane: Mask) -> dict[Corner, list[Corner]]:
    """Give, by corner, the corners to which a border leads, clockwise around each pixel."""
    padded = np.pad(plane, 1)
    inside = padded[1:-1, 1:-1]
    steps: dict[Corner, list[Corner]] = {}
    sides = (
        (padded[:-2, 1:-1], (0, 0), (0, 1)),  # above: left to right
        (padded[1:-1, 2:], (0, 1), (1, 1)),  # right: downwards
        (padded[2:, 1:-1], (1, 1), (1, 0)),  # below: right to left
        (padded[1:-1, :-2], (1, 0), (0, 0)),  # left: upwards
    )
    for neighbour, first, last in sides:
        for row, column in np.argwhere(inside & ~neighbour).tolist():
            steps.setdefault((row + first[0], column + first[1]), []).append((row + last[0], column + last[1]))
    return steps


def _from_first(path: Path) -> Path:
    """Begin a loop at its topmost, there leftmost corner."""
    place = path.index(min(path))
    return path[place:] + path[:place]


def _turns_clockwise(path: Path) -> bool:
    """Tell an outside from a hole by the sign of the area, rows counting downwards."""
    rows, columns = np.array(path).T
    return bool(columns @ np.roll(rows, -1) - rows @ np.roll(columns, -1) > 0)


def _corners(path: Path) -> NDArray[np.int64]:
    """Leave out what lies on a straight line."""
    points = np.array(path)[:, ::-1]
    step_in, step_out = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    along = np.sign(step_in) != np.sign(step_out)
    return np.asarray(points[along.any(axis=1)])
