"""Movement and metal in generated scans: they are drawn where they belong, and the truth stays where it was."""

from __future__ import annotations

import numpy as np
import pytest

from models.starter.chest_ct import artefacts
from models.starter.chest_ct.body import Body, View, begin
from models.starter.chest_ct.generator import Scan, draw, draw_view
from models.starter.chest_ct.scanner import Seen

SPACING = (4.0, 3.0, 3.0)


def _with(monkeypatch: pytest.MonkeyPatch, seed: int, moving: float, metal: float) -> Scan:
    monkeypatch.setattr(artefacts, "MOVING", moving)
    monkeypatch.setattr(artefacts, "WITH_METAL", metal)
    return draw(seed, SPACING, nodules=(3, 6))


@pytest.mark.parametrize("seed", [61, 63, 66])
@pytest.mark.parametrize(("moving", "metal"), [(1.0, 0.0), (0.0, 1.0)])
def test_a_disturbed_scan_has_the_truth_of_the_quiet_one(seed: int, moving: float, metal: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only HU change, and each scan's do."""
    quiet, disturbed = _with(monkeypatch, seed, 0.0, 0.0), _with(monkeypatch, seed, moving, metal)
    assert np.array_equal(quiet.organs, disturbed.organs)
    assert np.array_equal(quiet.instances, disturbed.instances)
    assert quiet.nodules == disturbed.nodules
    change = np.abs(disturbed.volume.array.astype(int) - quiet.volume.array)
    assert change.max() > 50
    assert np.median(change) < 20


def test_a_box_of_a_disturbed_scan_is_disturbed_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metal outside a box casts its streaks into it: what the box shows is what the whole scan shows there."""
    changes = []
    for box in (None, (100.0, 90.0, 90.0)):
        scans = []
        for metal in (0.0, 1.0):
            monkeypatch.setattr(artefacts, "MOVING", 0.0)
            monkeypatch.setattr(artefacts, "WITH_METAL", metal)
            monkeypatch.setattr("models.starter.chest_ct.generator.acquire", _as_it_is)
            scans.append(draw_view(63, View(spacing_mm=SPACING, box_mm=box), (0, 0)))
        changes.append((scans[1].volume.array.astype(float) - scans[0].volume.array, scans[0].volume.grid))
    (whole, grid), (part, of) = changes
    low = np.rint(grid.to_index(np.array([of.origin_mm]))[0]).astype(int)
    there = tuple(slice(start, start + size) for start, size in zip(low, part.shape, strict=True))
    assert np.abs(part).max() > 20
    assert np.allclose(whole[there], part, atol=1)


def _as_it_is(_rng: np.random.Generator, hu: np.ndarray, _spacing: tuple[float, float, float]) -> Seen:
    return Seen(hu=np.rint(hu).astype(np.int32), shown=np.ones(hu.shape[1:], bool))


def _body() -> Body:
    body = begin(np.random.default_rng(3), View(spacing_mm=SPACING), np.random.default_rng(0))
    body.hilum += [np.array([35.0, 0.0, 0.0]), np.array([-35.0, 0.0, 0.0])]
    return body


@pytest.mark.parametrize("kind", artefacts.IMPLANTS)
def test_every_implant_lies_in_the_trunk(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wires behind the chest's front, screws at the spine, clips about a hilum, a device before the lungs with its wire to the heart."""
    monkeypatch.setattr(artefacts, "IMPLANTS", (kind,))
    body = _body()
    tall, deep, wide = body.half
    tubes = artefacts.implant(np.random.default_rng(1), body)
    points = np.array([[tube.start, tube.end] for tube in tubes]).reshape(-1, 3)
    assert (np.abs(points) <= np.array([wide, deep + 5, 1.1 * tall])).all()
    if kind == "screws":
        assert points[:, 1].min() > body.spine_y - 10
    if kind in {"wires", "pacemaker", "port"}:
        assert points[:, 1].min() < -0.6 * deep
    if kind == "clips":
        assert np.abs(points[:, 0]).min() > 5


def test_what_moves_is_doubled_more_faintly_and_the_top_of_the_chest_stands_still() -> None:
    """An edge at the base has a ghost beside it with less than half its contrast; far above nothing changes."""
    body = _body()
    hu = np.full(body.frame.shape, -800.0, np.float32)
    hu[body.frame.z_mm < body.frame.span[0][0] + 60] = 40
    breathed = 0
    for seed in range(12):
        change = artefacts.moved(np.random.default_rng(seed), body, hu) - hu
        assert np.abs(change).max() < 0.46 * 840
        assert np.abs(change[-5:]).max() < 1
        breathed += np.abs(change).max() > 50
    assert breathed >= 4
