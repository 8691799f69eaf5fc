"""The probability of the tuned nodule network, fitted on what it was not trained on: generated blocks, and the site's own where enough."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from models.chest.patchnet import PatchNet
from models.starter.chest_ct import calibrate
from models.starter.chest_ct.generator import Scan

BLOCKS = 8
FIRST_BLOCK = 400
"""Numbers of calibrate.block that the starter's own calibration does not use."""
LEAST_RIGHT = 5


def fitted(network: PatchNet, site: Iterable[Scan], blocks: int) -> tuple[tuple[float, float] | None, int, int]:
    """Give (a, b) of probability = sigmoid(a * logit + b), the marks it was fitted on, and how many of them were right.

    None where fewer than LEAST_RIGHT marks were right, or a larger logit would mean less: then the base's is kept.
    """
    network = network.cpu().eval()
    marks: list[tuple[float, int]] = []
    for number in range(blocks):
        marks += calibrate.marks_of(network, calibrate.block(FIRST_BLOCK + number))
    for scan in site:
        marks += calibrate.marks_of(network, scan)
    scores = np.clip([score for score, _ in marks], 1e-6, 1 - 1e-6)
    right = np.array([float(hit > 0) for _, hit in marks])
    if right.sum() < LEAST_RIGHT or right.all():
        return None, len(marks), int(right.sum())
    a, b = calibrate.fit(np.log(scores) - np.log1p(-scores), right)
    return ((round(a, 3), round(b, 3)) if a > 0 else None), len(marks), int(right.sum())
