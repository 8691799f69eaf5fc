"""The pages' check refuses nothing true, however ragged the marks and odd their colours are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from node.profiles import Profile
from tests.workers.results.scans import Scan
from tests.workers.results.test_capture import draft, textured
from workers.results import capture, check_sc


@pytest.mark.parametrize("cielab", [(0, 100, 90), (100, 0, 0), (7, 67, -105), (99, -74, 124), (50, 127, -128), (20, 0, 0)])
@pytest.mark.parametrize("side", [40, 700])
def test_ragged_marks_of_any_colour_pass_their_check(cielab: tuple[int, int, int], side: int) -> None:
    """Colours that no screen has and masks of noise, enlarged and shrunk: nothing true is refused."""
    scan = Scan(shape=(3, side, side), spacing_mm=(2.0, 0.8, 0.5), modality="MR")
    request = textured(scan, organs=False, nodules=0, finds=False)
    labels = (np.random.default_rng(side).random(scan.shape) < 0.4).astype(np.uint8)
    parts = tuple(part.model_copy(update={"cielab": cielab}) for part in request.card.card.output.labels)
    card = request.card.card.model_copy(update={"output": request.card.card.output.model_copy(update={"labels": parts})})
    request = replace(
        request,
        card=replace(request.card, card=card),
        prediction=replace(request.prediction, labels=labels),
        profile=Profile(name="pages", objects=("sc", "sr"), sc_pages=("summary",)),
    )
    check_sc.verify(request, capture.write(draft(request)))
