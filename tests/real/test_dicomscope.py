"""The reference viewer of presentation states draws ours where the marks are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from node.profiles import BUILT_IN
from tests.radiographs import Radiograph
from tests.real.dicomscope import opened
from tests.workers.results import pictures
from workers.results import compose

pytestmark = [pytest.mark.real, pytest.mark.verify]
OPACITY = 229  # 0.9 of 255
# DICOMscope 3.6.0 draws graphics two pixels of the image left of and above their place, whoever wrote the state: here 1.5 of the
# window, besides a line's own width.
SLACK = 4
PICTURES = {
    "digital": Radiograph(shape=(1100, 1300), spacing_mm=(0.1, 0.1)),
    "film reader, inverted, turned": Radiograph(
        kind="CR", orientation=("R", "F"), shape=(1100, 1300), spacing_mm=(0.1, 0.1), inverted=True, calibrated=False
    ),
}


Corners = tuple[int, int, int, int]
"""First column, first row, last column, last row of a box, half-open."""


@pytest.mark.parametrize("name", PICTURES)
def test_dicomscope_draws_each_box_round_its_opacity(tmp_path: Path, name: str) -> None:
    """Bright lines lie at the four sides of each box, in the window as in the truth, and nowhere else; names stand above."""
    shown = PICTURES[name]
    request = replace(pictures.request(tmp_path, shown), profile=BUILT_IN["ohif"].model_copy(update={"objects": ("gsps", "sr")}))
    (state,) = [entry for entry in compose(request).objects if entry.kind == "gsps"]
    (tmp_path / "gsps.dcm").write_bytes(state.dataset_bytes)
    window = opened(tmp_path / "scope", [tmp_path / "1.dcm", tmp_path / "gsps.dcm"])
    Image.fromarray(window).save(tmp_path / "window.png")
    boxes = [_corners(mask) for mask in shown.masks()]
    assert faults(window, shown, boxes) == []
    assert faults(window, shown, boxes[:1])
    columns = shown.shape[1]
    for moved in (
        [(columns - right, top, columns - left, bottom) for left, top, right, bottom in boxes],
        [(left + 10, top, right + 10, bottom) for left, top, right, bottom in boxes],
        [(left, top - 10, right, bottom) for left, top, right, bottom in boxes],
    ):
        assert faults(window, shown, moved), "the comparison sees a mirrored, a shifted and a larger box"


def faults(window: NDArray[np.uint8], shown: Radiograph, boxes: Sequence[Corners]) -> list[str]:
    """Say what of the boxes is not drawn, and whether something else is."""
    viewport = window[68:950, 8:1010].astype(int)
    # Opened, so that the grey edges of letters do not count.
    opacities = ndimage.binary_opening((viewport == OPACITY).all(axis=-1), np.ones((5, 5)))
    lines = (viewport > 250).all(axis=-1)
    to_window = _scaled(opacities, shown)
    said, left = [], lines.copy()
    for first, top, last, bottom in boxes:
        (x0, y0), (x1, y1) = to_window(first, top), to_window(last, bottom)
        sides = (
            lines[y0 - SLACK : y0 + SLACK + 1, x0:x1].any(axis=0),
            lines[y1 - SLACK : y1 + SLACK + 1, x0:x1].any(axis=0),
            lines[y0:y1, x0 - SLACK : x0 + SLACK + 1].any(axis=1),
            lines[y0:y1, x1 - SLACK : x1 + SLACK + 1].any(axis=1),
        )
        said += [f"side {number} is not drawn" for number, side in enumerate(sides) if side.mean() < 0.95]
        if lines[y0 + 2 * SLACK : y1 - 2 * SLACK, x0 + 2 * SLACK : x1 - 2 * SLACK].any():
            said.append("something is drawn inside")
        if lines[y0 - 30 : y0 - SLACK - 1, x0 - 10 : x1].sum() < 40:
            said.append("no name stands above")
        left[y0 - 30 : y1 + SLACK + 1, x0 - 10 : x1 + 40] = False
    return said + (["something else is drawn"] if left.sum() > 20 else [])


def _corners(mask: NDArray[np.bool_]) -> Corners:
    rows, columns = np.nonzero(mask)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _scaled(opacities: NDArray[np.bool_], shown: Radiograph) -> Callable[[int, int], tuple[int, int]]:
    """Give where a pixel of the image is in the window, by the opacities that both show."""
    truth, seen = np.argwhere(np.any(shown.masks(), axis=0)), np.argwhere(opacities)
    scale = (seen.max(axis=0) + 1 - seen.min(axis=0)) / (truth.max(axis=0) + 1 - truth.min(axis=0))

    def place(column: int, row: int) -> tuple[int, int]:
        y, x = seen.min(axis=0) + (np.array([row, column]) - truth.min(axis=0)) * scale
        return round(float(x)), round(float(y))

    return place
