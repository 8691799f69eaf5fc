"""Boxes: thinned out as MONAI does, in the patient's millimetres, whatever the order they came in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data.box_utils import non_max_suppression
from pydantic import ValidationError

from models.answers.boxes import MOST, Candidate, Centres, Rows, Suppression, suppress, to_source
from models.grids import transforms
from models.vocabulary import Broken, Unfit
from tests.models.grids import AXES, grid

SEEN = (80, 90, 100)


def candidate(low: tuple[float, float, float], size: tuple[float, float, float], score: float, label: int = 1) -> Candidate:
    """Give a box by its low corner and its size."""
    high = (low[0] + size[0], low[1] + size[1], low[2] + size[2])
    return Candidate(label=label, score=score, low=low, high=high)


@pytest.mark.parametrize("overlap", [0.1, 0.4])
def test_what_is_kept_is_what_monai_keeps(overlap: float) -> None:
    """On random boxes of distinct scores, the same ones in the same order as MONAI's own suppression."""
    random = np.random.default_rng(1)
    lows, sizes = random.uniform(0, 30, (80, 3)), random.uniform(4, 14, (80, 3))
    scores = random.permutation(80) / 100 + 0.1
    boxes = torch.from_numpy(np.hstack([lows, lows + sizes]))
    wanted = non_max_suppression(boxes, torch.from_numpy(scores), overlap)
    rule = Suppression(overlap=overlap)
    rows = zip(lows.tolist(), sizes.tolist(), scores.tolist(), strict=True)
    given = [candidate(tuple(low), tuple(size), score) for low, size, score in rows]
    kept = suppress(given, (1.0, 1.0, 1.0), rule)
    assert [round(entry.score, 6) for entry in kept] == [round(float(scores[index]), 6) for index in wanted]
    assert suppress(given[::-1], (1.0, 1.0, 1.0), rule) == kept


def test_distance_is_in_millimetres() -> None:
    """Two slices of 5 mm are 10 mm, ten pixels of 1 mm are too: within 10 mm the better one is kept, within 9 both are."""
    first = candidate((10, 10, 10), (2, 8, 8), 0.9)
    for other in (candidate((12, 10, 10), (2, 8, 8), 0.8), candidate((10, 20, 10), (2, 8, 8), 0.8)):
        assert suppress([other, first], (5.0, 1.0, 1.0), Suppression(distance_mm=10)) == (first,)
        assert suppress([other, first], (5.0, 1.0, 1.0), Suppression(distance_mm=9)) == (first, other)


def test_equal_scores_go_by_position_and_labels_do_not_compete() -> None:
    """The order in which a network gave its boxes decides nothing, and a box of another label takes nothing away."""
    one, two = candidate((4, 4, 4), (4, 4, 4), 0.5), candidate((5, 4, 4), (4, 4, 4), 0.5)
    three = candidate((4, 4, 4), (4, 4, 4), 0.5, label=2)
    for order in ([one, two, three], [three, two, one], [two, three, one]):
        assert suppress(order, (1.0, 1.0, 1.0), Suppression(overlap=0.3)) == (one, three)


def test_a_network_that_marks_everything_is_unfit() -> None:
    """Tens of thousands of boxes are no result, and they are not thinned out until one seems to be."""
    many = [candidate((0, 0, float(number)), (1, 1, 1), 0.9) for number in range(MOST + 1)]
    with pytest.raises(Unfit, match="marks 10001 places"):
        suppress(many, (1.0, 1.0, 1.0), Suppression(overlap=0.3))


@pytest.mark.parametrize("name", AXES)
def test_a_box_comes_back_to_the_voxels_it_covers(name: str) -> None:
    """Whatever was turned and resampled: a box drawn in the patient covers the voxels whose centres lie in it."""
    source = grid(name, (24, 30, 28), (2.0, 0.8, 1.1))
    plan = transforms.resampling(source, "RAS", (1.5, 1.6, 1.1))
    low, high = np.array([5.3, 4.1, 6.2]), np.array([12.8, 10.4, 15.9])
    box = to_source(candidate(tuple(low.tolist()), tuple((high - low).tolist()), 0.9), plan)
    assert box is not None
    centres = plan.model.to_index(source.to_world_mm(np.argwhere(np.ones(source.shape)).astype(float))) + 0.5
    inside = np.argwhere(((centres > low) & (centres < high)).all(axis=1).reshape(source.shape))
    assert box.low == tuple(inside.min(axis=0))
    assert box.high == tuple(inside.max(axis=0) + 1)


def test_a_box_beside_the_images_is_none_and_a_thin_one_has_a_voxel() -> None:
    """What lies outside of everything marks nothing; what is thinner than a voxel marks the one it lies in."""
    plan = transforms.resampling(grid("axial", (12, 20, 16), (2.0, 1.0, 1.0)), "SPL", (1.0, 1.0, 1.0))
    assert to_source(candidate((-9, 2, 2), (5, 3, 3), 0.9), plan) is None
    box = to_source(candidate((3.1, 5.2, 7.1), (0.2, 0.1, 0.3), 0.9), plan)
    assert box is not None
    assert (box.low, box.high) == ((2, 5, 7), (3, 6, 8))


def test_rows_are_read_as_their_library_writes_them() -> None:
    """MONAI's corners go along the array's axes, torchvision's from x to z; sizes round a centre say the same box."""
    wanted = candidate((1, 10, 20), (2, 30, 40), 0.75, label=7)
    scores, classes = torch.tensor([0.75, 0.2, 0.9]), torch.tensor([3, 3, 8])
    for form, axes, row in (
        ("corners", "zyx", [1, 10, 20, 3, 40, 60]),
        ("corners", "xyz", [20, 10, 1, 60, 40, 3]),
        ("centre-size", "zyx", [2, 25, 40, 2, 30, 40]),
        ("centre-size", "xyz", [40, 25, 2, 40, 30, 2]),
    ):
        rows = Rows(boxes=1, scores=0, classes=2, class_numbers=(5, 3), ignore=(8,), form=form, axes=axes)
        given = (scores[None], torch.tensor([row] * 3, dtype=torch.float32)[None], classes[None])
        assert rows.decode(given, [(6, 0.1), (7, 0.5)], SEEN) == [wanted]
    flat = Rows(axes="xyz").decode((torch.tensor([[20.0, 10, 60, 40], [5, 5, 5, 9]]), torch.tensor([0.5, 0.4])), [(7, 0.5)], SEEN)
    assert [(entry.low, entry.high) for entry in flat] == [((0, 10, 20), (1, 40, 60))]
    with pytest.raises(ValueError, match="do not fit"):
        Rows().decode((torch.zeros(2, 5), torch.zeros(2)), [(7, 0.5)], SEEN)
    assert Rows().decode((torch.zeros(0, 6), torch.zeros(0)), [(7, 0.5)], SEEN) == []


@pytest.mark.parametrize(
    ("row", "score", "number", "reason"),
    [
        ([1.0, 1, 1, float("nan"), 4, 4], 0.9, 1, "no finite numbers"),
        ([1.0, 1, 1, 4, 4, 4], float("inf"), 1, "no finite numbers"),
        ([1.0, 1, 1, 4, 4, 4], 3.2, 1, "no probabilities"),
        ([1.0, 1, 1, 4, 4, 4], 0.9, 6, "class 6"),
        ([9.0, 9, 9, 4, 4, 4], 0.9, 1, "ends before it begins"),
        ([5.0, 5, 5, 9, 9, 5], 0.9, 1, "without width"),
    ],
)
def test_rows_that_are_not_what_the_card_says_are_no_empty_result(row: list[float], score: float, number: int, reason: str) -> None:
    """Dropped, they would read as "nothing found"; so the run is broken, and says by what."""
    outputs = (torch.tensor([row]), torch.tensor([score]), torch.tensor([number]))
    with pytest.raises(Broken, match=reason):
        Rows(classes=2, class_numbers=(1,)).decode(outputs, [(7, 0.5)], SEEN)


def test_a_box_clipped_to_nothing_is_none() -> None:
    """Detectors clip boxes at the edge of what they see; one that is clipped to nothing, on either side, marks nothing."""
    for row in ([0.0, 5, 5, 0, 9, 9], [5.0, 5, 100, 9, 9, 100]):
        assert Rows().decode((torch.tensor([row]), torch.tensor([0.9])), [(7, 0.5)], SEEN) == []


def test_a_peak_without_a_size_is_a_point() -> None:
    """Without size channels, or with a size that is none, a peak marks one voxel; below the threshold none."""
    scores = torch.zeros(4, 5, 6, 7)
    scores[0, 2, 3, 4], scores[0, 4, 1, 1] = 0.8, 0.4
    scores[1:, 2, 3, 4] = torch.tensor([0.0, -3.0, 4.0])
    (point,) = Centres(channels=(0,)).decode(scores, (2.0, 1.0, 1.0), [(9, 0.5)])
    assert (point.low, point.high, round(point.score, 6)) == ((2, 3, 4), (3, 4, 5), 0.8)
    (sized,) = Centres(channels=(0,), size_channels=(1, 2, 3)).decode(scores, (2.0, 1.0, 1.0), [(9, 0.5)])
    assert (sized.low, sized.high) == ((2, 3, 2.5), (3, 4, 6.5))


def test_a_flat_top_is_one_peak() -> None:
    """Where a network is sure many voxels have 1.0 side by side: the one in the middle is told, once."""
    scores = torch.zeros(1, 9, 9, 9)
    scores[0, 2:5, 3:6, 1:6] = 1.0
    scores[0, 7, 7, 7] = 0.9
    found = Centres(channels=(0,)).decode(scores, (1.0, 1.0, 1.0), [(9, 0.5)])
    assert [(entry.low, round(entry.score, 6)) for entry in found] == [((3, 4, 3), 1.0), ((7, 7, 7), 0.9)]
    flat = Centres(channels=(0,)).decode(torch.ones(1, 1, 5, 5), (1.0, 1.0, 1.0), [(9, 0.5)])
    assert [entry.low for entry in flat] == [(0, 2, 2)]


@pytest.mark.parametrize("raw", [{}, {"overlap": 0.3, "distance_mm": 4}, {"overlap": 1.5}, {"distance_mm": 0}])
def test_a_rule_must_be_one(raw: dict[str, float]) -> None:
    """Neither, both, or a number that can never hold."""
    with pytest.raises(ValidationError):
        Suppression.model_validate(raw)
