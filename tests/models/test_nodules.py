"""Judged candidates to findings: where they lie on the source grid, which of two that overlap stands, how they are numbered."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from models.chest import cubes, nodules, patchnet
from models.grids import transforms
from tests.models.grids import AXES, ball, grid

RULE = nodules.Rule(label=3, threshold=0.5, calibration=(1.0, 0.0), doubt=0.05, batch=4, min_volume_ml=0.0)
SHAPE, SPACING_MM = (40, 84, 64), (2.0, 0.9, 1.2)


def entry(voxel: tuple[int, int, int], probability: float, radius_voxels: float = 4.0) -> nodules.Judged:
    """Give a candidate whose voxels are a ball about its middle, 0.5 at its surface."""
    places = np.stack(np.meshgrid(*(np.arange(patchnet.SIDE),) * 3, indexing="ij"), axis=-1) - patchnet.SIDE // 2
    voxels = np.clip(0.5 + (radius_voxels - np.linalg.norm(places, axis=-1)) / 2, 0, 1)
    return nodules.Judged(voxel=voxel, probability=probability, voxels=voxels.astype(np.float32))


@pytest.mark.parametrize("name", AXES)
def test_a_finding_lies_where_its_candidate_was(name: str) -> None:
    """In every orientation a ball of 5 mm radius on the fine grid is that ball in the patient."""
    source = grid(name, SHAPE, SPACING_MM)
    plan = transforms.resampling(source, "SPL", (1.25, 1.25, 1.25))
    voxel = (plan.model.shape[0] // 2, plan.model.shape[1] // 2 - 3, plan.model.shape[2] // 2 + 4)
    labels = np.ones(source.shape, np.uint8)
    instances, findings = nodules.place([entry(voxel, 0.9)], plan, labels, RULE)
    truth = ball(source, tuple(plan.model.to_world_mm(np.array([voxel], dtype=float))[0]), 5.0)
    found = instances == 1
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.93
    assert not labels[found].any()
    assert labels[~found].all()
    (finding,) = findings
    assert finding.score == pytest.approx(0.9)
    assert finding.box.low == tuple(np.argwhere(found).min(axis=0))
    assert finding.box.high == tuple(np.argwhere(found).max(axis=0) + 1)


def test_of_two_on_one_place_the_likelier_stands_and_numbers_follow_position() -> None:
    """Three candidates, two of them on one ball: two findings, numbered along z, each with its own score."""
    source = grid("axial", (60, 60, 60), (1.25, 1.25, 1.25))
    plan = transforms.resampling(source, "SPL", (1.25, 1.25, 1.25))
    judged = [entry((40, 30, 30), 0.95), entry((41, 31, 30), 0.9), entry((20, 30, 30), 0.7), entry((30, 10, 10), 0.4)]
    instances, findings = nodules.place(judged, plan, np.zeros(source.shape, np.uint8), RULE)
    assert [(f.number, f.score) for f in findings] == [(1, pytest.approx(0.7)), (2, pytest.approx(0.95))]
    assert instances.max() == 2
    assert np.argwhere(instances == 1)[:, 0].mean() < np.argwhere(instances == 2)[:, 0].mean()


def test_too_small_a_finding_is_dropped() -> None:
    """A least volume leaves the larger of two."""
    source = grid("axial", (60, 60, 60), (1.25, 1.25, 1.25))
    plan = transforms.resampling(source, "SPL", (1.25, 1.25, 1.25))
    rule = nodules.Rule(label=3, threshold=0.5, calibration=(1.0, 0.0), doubt=0.05, batch=4, min_volume_ml=0.2)
    judged = [entry((40, 30, 30), 0.9, 5.0), entry((20, 30, 30), 0.9, 2.0)]
    _, findings = nodules.place(judged, plan, np.zeros(source.shape, np.uint8), rule)
    assert len(findings) == 1


def test_folding_loses_nothing() -> None:
    """Unfolding is the inverse of folding."""
    cube = torch.rand((2, 1, 8, 8, 8))
    assert torch.equal(patchnet.unfold(patchnet.fold(cube)), cube)


def test_cubes_have_their_place_in_the_middle_at_both_resolutions() -> None:
    """The near cube's middle voxel is the place; the wide cube's is the place at half the resolution; ends go on."""
    volume = torch.arange(40 * 40 * 40, dtype=torch.float32).reshape(40, 40, 40)
    half = cubes.halved(volume)
    places = np.array([[20, 10, 30], [0, 39, 5]])
    near, wide = cubes.both(volume, half, places)
    for index, (z, y, x) in enumerate(places):
        assert near[index, 16, 16, 16] == volume[z, y, x]
        assert wide[index, 16, 16, 16] == half[z // 2, y // 2, x // 2]
    assert near[1, 0, 16, 16] == volume[0, 39, 5]


def test_the_same_place_is_judged_alike_whatever_stands_beside_it_in_the_batch() -> None:
    """A candidate's probability does not depend on the batch it went through in."""
    torch.manual_seed(1)
    network = patchnet.PatchNet().eval()
    hu = torch.from_numpy(np.random.default_rng(2).normal(-600, 300, (48, 48, 48)).astype(np.float32))
    places = np.array([[24, 24, 24], [20, 30, 28], [30, 20, 22]])
    rule = nodules.Rule(label=3, threshold=0.5, calibration=(1.0, 0.0), doubt=1e-9, batch=3, min_volume_ml=0.0)
    with torch.inference_mode():
        together = {j.voxel: j.probability for j in nodules.judge(network, hu, places, rule, lambda _: None)}
        alone = {j.voxel: j.probability for p in places for j in nodules.judge(network, hu, p[None], rule, lambda _: None)}
    assert together == pytest.approx(alone, abs=1e-5)


def test_opinions_that_agree_deviate_by_nothing_and_the_mean_alone_decides() -> None:
    """Of 0.6, 0.8, 0.6 and 0.8 the deviation is 0.1; it reaches the finding, whose score stays the probability."""
    source = grid("axial", (60, 60, 60), (1.25, 1.25, 1.25))
    plan = transforms.resampling(source, "SPL", (1.25, 1.25, 1.25))
    judged = [replace(entry((40, 30, 30), 0.72), opinions=(0.6, 0.8, 0.6, 0.8)), replace(entry((20, 30, 30), 0.7), opinions=(0.7,) * 6)]
    _, findings = nodules.place(judged, plan, np.zeros(source.shape, np.uint8), RULE)
    assert [(f.score, f.deviation) for f in findings] == [(0.7, pytest.approx(0)), (0.72, pytest.approx(0.1))]


def test_a_finding_is_looked_at_larger_and_smaller_and_its_probability_stays() -> None:
    """What may be a finding has six opinions, what may not four; the deviation is that of the opinions, found here by hand."""
    torch.manual_seed(1)
    network = patchnet.PatchNet().eval()
    hu = torch.from_numpy(np.random.default_rng(2).normal(-600, 300, (48, 48, 48)).astype(np.float32))
    volume = cubes.scaled(hu)
    half = cubes.halved(volume)
    places = np.array([[24, 24, 24], [20, 30, 28]])
    rules = [replace(RULE, threshold=least, doubt=1e-9) for least in (1e-9, 1 - 1e-9)]
    with torch.inference_mode():
        wide, narrow = (nodules.judge(network, hu, places, rule, lambda _: None) for rule in rules)
        for seen, other in zip(wide, narrow, strict=True):
            assert (seen.voxel, seen.probability) == (other.voxel, other.probability)
            assert (len(seen.opinions), len(other.opinions)) == (6, 4)
            near, far = cubes.both_scaled(volume, half, np.array([seen.voxel]), 1.1)
            by_hand = float(torch.sigmoid(network(near[:, None], far[:, None])[0]))
            assert seen.opinions[-1] == pytest.approx(by_hand, abs=1e-5)
            mean = sum(seen.opinions) / 6
            assert seen.deviation == pytest.approx((sum((each - mean) ** 2 for each in seen.opinions) / 6) ** 0.5)


def test_a_scaled_cube_shows_what_lies_that_much_further_off() -> None:
    """On a ramp a voxel k from the middle has the value k * scale further; scale 1 is the plain cube, ends go on."""
    z, y, x = np.meshgrid(*(np.arange(60.0),) * 3, indexing="ij")
    volume = torch.from_numpy((z + 100 * y + 10000 * x).astype(np.float32))
    middle = np.array([[30.0, 29.0, 31.0]])
    (seen,) = cubes.cut_scaled(volume, middle, 0.9)
    assert float(seen[26, 16, 6]) == pytest.approx((30 + 9) + 100 * 29 + 10000 * (31 - 9), rel=1e-5)
    places = np.array([[30, 29, 31], [0, 59, 3]])
    assert torch.equal(cubes.cut_scaled(volume, places.astype(float), 1.0), cubes.cut(volume, places))


@pytest.mark.parametrize("name", AXES)
def test_the_map_is_highest_where_the_likeliest_candidate_was(name: str) -> None:
    """In every orientation the map's peak lies in the patient at the likelier candidate's place, with its probability; not mirrored."""
    source = grid(name, SHAPE, SPACING_MM)
    plan = transforms.resampling(source, "SPL", (1.25, 1.25, 1.25))
    likely, doubted = ((plan.model.shape[0] // 2, plan.model.shape[1] // 2 - d, plan.model.shape[2] // 2 + d) for d in (9, -9))
    levels = nodules.heat([entry(likely, 0.8), entry(doubted, 0.2)], plan)
    assert (levels.shape, levels.dtype) == (source.shape, np.uint8)
    place = plan.model.to_world_mm(np.array([likely], dtype=float))[0]
    assert levels.max() == pytest.approx(255 * 0.8, abs=2)
    peak = source.to_world_mm(np.argwhere(levels >= 0.99 * levels.max()).mean(axis=0, keepdims=True))[0]
    assert np.linalg.norm(peak - place) < 1.5
    other = plan.model.to_world_mm(np.array([doubted], dtype=float))
    assert levels[tuple(np.rint(source.to_index(other)[0]).astype(int))] == pytest.approx(255 * 0.2, abs=2)
    for axis in range(3):
        mirrored = np.argwhere(np.flip(levels, axis) >= 0.99 * levels.max()).mean(axis=0, keepdims=True)
        if abs(source.to_index(place[None])[0][axis] - (source.shape[axis] - 1) / 2) * source.spacing_mm[axis] > 2:
            assert np.linalg.norm(source.to_world_mm(mirrored)[0] - place) > 3
