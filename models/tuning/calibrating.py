"""The probability of the tuned nodule network, fitted on what it was not trained on: generated blocks, and the site's own where enough."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from models.chest import candidates, nodules
from models.chest.patchnet import PatchNet
from models.starter.chest_ct import calibrate, lessons
from models.starter.chest_ct.body import View
from models.starter.chest_ct.generator import Scan, draw_view

BLOCKS = 8
FIRST_SEED = 800_400
"""Generated blocks have seeds that neither the starter's training nor its calibration nor its evaluation uses."""
RULE = nodules.Rule(label=3, threshold=0.5, calibration=(1.0, 0.0), doubt=0.05, batch=32, min_volume_ml=0.0)
LIMIT = 120
APART_MM = 6.0
LEAST_RIGHT = 5


def fitted(network: PatchNet, site: Iterable[Scan], blocks: int) -> tuple[tuple[float, float] | None, int, int]:
    """Give (a, b) of probability = sigmoid(a * logit + b), the marks it was fitted on, and how many of them were right.

    None where fewer than LEAST_RIGHT marks were right, or a larger logit would mean less: then the base's is kept.
    """
    network = network.cpu().eval()
    marks: list[tuple[float, bool]] = []
    for number in range(blocks):
        marks += marks_of(network, block(number))
    for scan in site:
        marks += marks_of(network, scan)
    scores = np.clip([score for score, _ in marks], 1e-6, 1 - 1e-6)
    right = np.array([float(hit) for _, hit in marks])
    if right.sum() < LEAST_RIGHT or right.all():
        return None, len(marks), int(right.sum())
    a, b = calibrate.fit(calibrate.logits(scores), right)
    return ((round(a, 3), round(b, 3)) if a > 0 else None), len(marks), int(right.sum())


def block(number: int) -> Scan:
    """Draw a block with no, one or two nodules, about what a scan shows."""
    size = (lessons.SPACING_MM,) * 3
    return draw_view(FIRST_SEED + number, View(spacing_mm=(size[0], size[1], size[2]), box_mm=lessons.BLOCK_MM), (0, 2))


def marks_of(network: PatchNet, scan: Scan) -> list[tuple[float, bool]]:
    """Give each mark's probability and whether it lies in a nodule; at the rim of one, or in a tiny one, it is neither and left out."""
    hu = scan.volume.array.astype(np.float32)
    inside = candidates.hull((scan.organs > 0) & (hu < -400), lessons.SPACING_MM)
    found = candidates.find(hu, inside, lessons.SPACING_MM, LIMIT)
    with torch.inference_mode():
        judged = nodules.judge(network, torch.from_numpy(hu), found.voxels, RULE, lambda _share: None)
    kept: list[nodules.Judged] = []
    for entry in judged:
        if all(np.linalg.norm(np.subtract(entry.voxel, other.voxel)) * lessons.SPACING_MM > APART_MM for other in kept):
            kept.append(entry)
    answers = lessons.judge(scan, np.array([entry.voxel for entry in kept], dtype=np.int64).reshape(-1, 3))
    return [(entry.probability, answer == lessons.RIGHT) for entry, answer in zip(kept, answers, strict=True) if answer != lessons.SKIP]
