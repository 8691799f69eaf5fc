"""The detector: parts of a probability map become numbered findings, or are dropped for a reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.answers import detector
from models.grids import transforms
from models.vocabulary import Grid
from tests.models.grids import AXES, grid, places_mm

SHAPE, SPACING_MM = (30, 50, 44), (1.5, 0.8, 0.8)
RULE = detector.Rule(label=3, threshold=0.5, extent=0.5, min_volume_ml=0.05)


def bumps(of: Grid, places: list[tuple[tuple[float, float, float], float, float]]) -> tuple[torch.Tensor, transforms.Resampling]:
    """Draw on the model's grid bumps of (source index of the centre, peak probability, radius in mm at half of the peak)."""
    plan = transforms.resampling(of, "SPL", (1.0, 1.0, 1.0))
    points = places_mm(plan.model)
    field = np.zeros(plan.model.shape)
    for index, peak, radius_mm in places:
        centre = of.to_world_mm(np.array([index], dtype=float))[0]
        distance = np.linalg.norm(points - centre, axis=-1)
        field = np.maximum(field, peak * np.exp(-np.log(2) * (distance / radius_mm) ** 2))
    return torch.from_numpy(field).float(), plan


@pytest.mark.parametrize("name", AXES)
def test_findings_are_numbered_by_position(name: str) -> None:
    """Three bumps become findings 1, 2, 3 in the order of their slices, each at its place and with its own peak as score."""
    of = grid(name, SHAPE, SPACING_MM)
    wanted = [((22.0, 10.0, 30.0), 0.9, 5.0), ((6.0, 38.0, 12.0), 0.8, 5.0), ((14.0, 25.0, 22.0), 0.7, 6.0)]
    probability, plan = bumps(of, wanted)
    instances, findings = detector.find(probability, plan, np.zeros(SHAPE, dtype=np.uint8), RULE)
    assert [finding.number for finding in findings] == [1, 2, 3]
    for finding, (index, peak, _) in zip(findings, [wanted[1], wanted[2], wanted[0]], strict=True):
        voxels = np.argwhere(instances == finding.number)
        assert np.allclose(voxels.mean(axis=0), index, atol=0.25)
        assert finding.score == pytest.approx(peak, abs=0.03)
        assert finding.label == 3
        assert finding.box.low == tuple(voxels.min(axis=0))
        assert finding.box.high == tuple(voxels.max(axis=0) + 1)


def test_the_border_is_where_the_probability_crosses_the_threshold() -> None:
    """A bump of peak 1 whose half lies at 6 mm is a ball of 6 mm on the source grid."""
    of = grid("axial", SHAPE, SPACING_MM)
    probability, plan = bumps(of, [((15.0, 25.0, 22.0), 1.0, 6.0)])
    instances, _ = detector.find(probability, plan, np.zeros(SHAPE, dtype=np.uint8), RULE)
    assert np.count_nonzero(instances) * of.voxel_mm3 == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.03)


def test_small_parts_are_dropped() -> None:
    """A part below the least volume is no finding and leaves no number behind."""
    of = grid("axial", SHAPE, SPACING_MM)
    probability, plan = bumps(of, [((5.0, 10.0, 10.0), 0.9, 1.5), ((20.0, 30.0, 30.0), 0.9, 5.0)])
    instances, findings = detector.find(probability, plan, np.zeros(SHAPE, dtype=np.uint8), RULE)
    assert [finding.number for finding in findings] == [1]
    assert findings[0].box.low[0] > 10
    assert set(np.unique(instances)) == {0, 1}


def test_findings_take_their_voxels_from_the_organ() -> None:
    """A voxel of a finding is no longer a voxel of the organ around it; nothing else of the organ changes."""
    of = grid("axial", SHAPE, SPACING_MM)
    probability, plan = bumps(of, [((15.0, 25.0, 22.0), 0.9, 5.0)])
    labels = np.full(SHAPE, 2, dtype=np.uint8)
    instances, _ = detector.find(probability, plan, labels, RULE)
    assert np.array_equal(labels == 0, instances == 1)


@pytest.mark.parametrize(("edge", "count"), [(12, 0), (19, 1), (44, 1)])
def test_a_finding_lies_in_or_beside_its_organ(edge: int, count: int) -> None:
    """A part centred at column 22 counts where the lung ends 2.4 mm beside it, not where it ends 8 mm away."""
    of = grid("axial", SHAPE, SPACING_MM)
    probability, plan = bumps(of, [((15.0, 25.0, 22.0), 0.95, 3.0)])
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[:, :, :edge] = 1
    rule = detector.Rule(label=3, threshold=0.5, extent=0.5, min_volume_ml=0.05, within_labels=(1,), within_mm=4.0)
    _, findings = detector.find(probability, plan, labels, rule)
    assert len(findings) == count


def test_another_organ_is_no_excuse() -> None:
    """Only the organs the rule names count as beside."""
    of = grid("axial", SHAPE, SPACING_MM)
    probability, plan = bumps(of, [((15.0, 25.0, 22.0), 0.95, 3.0)])
    rule = detector.Rule(label=3, threshold=0.5, extent=0.5, min_volume_ml=0.05, within_labels=(1,), within_mm=4.0)
    assert detector.find(probability, plan, np.full(SHAPE, 2, dtype=np.uint8), rule)[1] == ()


def test_an_empty_map_has_no_findings() -> None:
    """A map below its threshold everywhere gives an empty instance map and no findings."""
    of = grid("axial", SHAPE, SPACING_MM)
    probability, plan = bumps(of, [((15.0, 25.0, 22.0), 0.45, 9.0)])
    instances, findings = detector.find(probability, plan, np.zeros(SHAPE, dtype=np.uint8), RULE)
    assert findings == ()
    assert instances.shape == SHAPE
    assert not instances.any()


def test_what_must_be_sure_is_still_measured_to_its_edge() -> None:
    """Only the part that reaches the threshold is marked, and its ball of 6 mm is not cut down to its core."""
    of = grid("axial", SHAPE, SPACING_MM)
    probability, plan = bumps(of, [((15.0, 30.0, 30.0), 1.0, 6.0), ((15.0, 8.0, 8.0), 0.8, 5.0)])
    rule = detector.Rule(label=3, threshold=0.95, extent=0.5, min_volume_ml=0.05)
    instances, (finding,) = detector.find(probability, plan, np.zeros(SHAPE, dtype=np.uint8), rule)
    assert finding.score == pytest.approx(1.0, abs=0.03)
    assert np.count_nonzero(instances) * of.voxel_mm3 == pytest.approx(4 / 3 * np.pi * 6**3, rel=0.03)
