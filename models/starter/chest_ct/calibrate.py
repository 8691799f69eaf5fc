"""Fit the probability of the nodule network on generated blocks with few nodules, of seeds that are neither trained nor evaluated on.

    python -m models.starter.chest_ct.calibrate --blocks 60

Training sees nodules far more often than a scan shows them, so its probabilities are too high. Prints (a, b) for the card:
probability = sigmoid(a * logit + b), and for some thresholds how many nodules of 6 mm stand and how many false marks a litre of lung.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from models.chest import candidates, nodules
from models.chest.patchnet import PatchNet
from models.starter.chest_ct import lessons
from models.starter.chest_ct.body import View
from models.starter.chest_ct.generator import Scan, draw_view

FIRST_SEED = 800_000
RULE = nodules.Rule(label=3, threshold=0.5, calibration=(1.0, 0.0), doubt=0.05, batch=32, min_volume_ml=0.0)
APART_MM = 6.0
COUNTED_MM = 6.0
Floats = NDArray[np.float64]


def block(number: int) -> Scan:
    """Draw a block with no, one or two nodules, about what a scan shows."""
    size = (lessons.SPACING_MM,) * 3
    return draw_view(FIRST_SEED + number, View(spacing_mm=(size[0], size[1], size[2]), box_mm=lessons.BLOCK_MM), (0, 2))


def marks_of(network: PatchNet, scan: Scan) -> list[tuple[float, int]]:
    """Give each mark's probability and the nodule it lies in: its number, 0 for none; marks that are neither are left out."""
    hu = scan.volume.array.astype(np.float32)
    inside = candidates.hull((scan.organs > 0) & (hu < -400), lessons.SPACING_MM)
    found = candidates.find(hu, inside, lessons.SPACING_MM, 120)
    with torch.inference_mode():
        judged = nodules.judge(network, torch.from_numpy(hu), found.voxels, RULE, lambda _share: None)
    kept: list[nodules.Judged] = []
    for entry in judged:
        if all(np.linalg.norm(np.subtract(entry.voxel, other.voxel)) * lessons.SPACING_MM > APART_MM for other in kept):
            kept.append(entry)
    answers = lessons.judge(scan, np.array([entry.voxel for entry in kept], dtype=np.int64).reshape(-1, 3))
    marks = []
    for entry, answer in zip(kept, answers, strict=True):
        if answer != lessons.SKIP:
            near = scan.instances[tuple(slice(max(0, at - 2), at + 3) for at in entry.voxel)]
            marks.append((entry.probability, int(near.max()) if answer == lessons.RIGHT else 0))
    return marks


def fit(logits: Floats, right: Floats) -> tuple[float, float]:
    """Fit sigmoid(a * logit + b) to answers by Newton's steps on the log-likelihood, with a weak pull towards (1, 0)."""
    weights = np.array([1.0, 0.0])
    design = np.column_stack([logits, np.ones_like(logits)])
    for _ in range(30):
        shares = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (right - shares) - 0.1 * (weights - (1.0, 0.0))
        curvature = (design * (shares * (1 - shares))[:, None]).T @ design + 0.1 * np.eye(2)
        weights = weights + np.linalg.solve(curvature, gradient)
    return float(weights[0]), float(weights[1])


def main() -> None:
    """Read the command line, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=60)
    parser.add_argument("--weights", type=Path, default=Path(__file__).with_name("nodules.safetensors"))
    given = parser.parse_args()
    network = PatchNet().eval()
    network.load_state_dict(load_file(given.weights))
    scores, right, wanted, best, litres = [], [], 0, [], 0.0
    for number in range(given.blocks):
        scan = block(number)
        marks = marks_of(network, scan)
        scores += [score for score, _ in marks]
        right += [float(hit > 0) for _, hit in marks]
        litres += float((scan.organs > 0).sum()) * scan.volume.grid.voxel_mm3 / 1e6
        counted = [nodule.number for nodule in scan.nodules if nodule.diameter_mm >= COUNTED_MM]
        best += [max((score for score, hit in marks if hit == number), default=0.0) for number in counted]
        wanted += len(counted)
    logits = np.log(np.array(scores)) - np.log1p(-np.clip(scores, 0, 1 - 1e-6))
    a, b = fit(logits, np.array(right))
    print(f"calibration = [{a:.3f}, {b:.3f}]  ({len(scores)} marks, {int(sum(right))} of them right, {litres:.1f} litres of lung)")
    for threshold in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
        cut = 1 / (1 + np.exp(-(np.log(threshold / (1 - threshold)) - b) / a))
        false = sum(score >= cut for score, hit in zip(scores, right, strict=True) if not hit) / litres
        print(f"threshold {threshold:.1f}: {np.mean(np.array(best) >= cut):.3f} of {wanted} nodules, {false:.2f} false marks a litre")


if __name__ == "__main__":
    main()
