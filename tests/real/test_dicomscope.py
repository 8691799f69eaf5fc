"""The reference viewer of presentation states draws ours where the marks are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

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


@pytest.mark.parametrize("name", PICTURES)
def test_dicomscope_draws_each_box_round_its_opacity(tmp_path: Path, name: str) -> None:
    """Bright lines lie at the four sides of each box, in the window as in the truth, and nowhere else; names stand above."""
    shown = PICTURES[name]
    request = replace(pictures.request(tmp_path, shown), profile=BUILT_IN["ohif"].model_copy(update={"objects": ("gsps", "sr")}))
    (state,) = [entry for entry in compose(request).objects if entry.kind == "gsps"]
    (tmp_path / "gsps.dcm").write_bytes(state.dataset_bytes)
    window = opened(tmp_path / "scope", [tmp_path / "1.dcm", tmp_path / "gsps.dcm"])
    Image.fromarray(window).save(tmp_path / "window.png")
    viewport = window[68:950, 8:1010].astype(int)
    opacities, lines = (viewport == OPACITY).all(axis=-1), (viewport > 250).all(axis=-1)
    to_window = _scaled(opacities, shown)
    left = lines.copy()
    for finding in request.prediction.findings:
        (_, top, first), (_, bottom, last) = finding.box.low, finding.box.high
        x0, y0 = to_window(first, top)
        x1, y1 = to_window(last, bottom)
        assert x1 - x0 > 60 and y1 - y0 > 60  # noqa: PT018 -- one fact: a box is much larger than the slack
        for side in (
            lines[y0 - SLACK : y0 + SLACK + 1, x0:x1].any(axis=0),
            lines[y1 - SLACK : y1 + SLACK + 1, x0:x1].any(axis=0),
            lines[y0:y1, x0 - SLACK : x0 + SLACK + 1].any(axis=1),
            lines[y0:y1, x1 - SLACK : x1 + SLACK + 1].any(axis=1),
        ):
            assert side.mean() > 0.95
        assert not lines[y0 + 2 * SLACK : y1 - 2 * SLACK, x0 + 2 * SLACK : x1 - 2 * SLACK].any()
        assert lines[y0 - 30 : y0 - SLACK - 1, x0 - 10 : x1].sum() > 40  # the name
        left[y0 - 30 : y1 + SLACK + 1, x0 - 10 : x1 + 40] = False
    assert left.sum() < 20


def _scaled(opacities: NDArray[np.bool_], shown: Radiograph):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Give where a pixel of the image is in the window, by the opacities that both show."""
    truth, seen = np.argwhere(np.any(shown.masks(), axis=0)), np.argwhere(opacities)
    scale = (seen.max(axis=0) + 1 - seen.min(axis=0)) / (truth.max(axis=0) + 1 - truth.min(axis=0))

    def place(column: int, row: int) -> tuple[int, int]:
        y, x = seen.min(axis=0) + (np.array([row, column]) - truth.min(axis=0)) * scale
        return round(float(x)), round(float(y))

    return place
