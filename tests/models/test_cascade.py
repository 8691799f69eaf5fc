"""Two networks: the first proposes places on a coarse grid, the second draws inside them on a fine one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import registry
from models.card import BadCard
from models.vocabulary import Grid, Prediction, Unfit, Volume
from tests.models import programs
from tests.models.grids import ball, grid, middle_mm
from tests.models.shelf import labels, shelve
from tests.models.test_outputs import Lines, at, dice, volume

OF = grid("sagittal", (40, 60, 56), (1.5, 1.0, 1.1))
BIG, SMALL = at(OF, 6.0, -9.0, 10.0), at(OF, -8.0, 12.0, -9.0)
DETECTOR = """
margin_mm = 8.0
[runtime.options.first]
weights = "finder"
spacing_mm = [3.0, 3.0, 3.0]
window = [16, 16, 16]
findings = { channel = 0, label = 1, threshold = 0.6, extent = 0.3 }
[runtime.options.second]
weights = "drawer"
spacing_mm = [1.0, 1.0, 1.0]
window = [16, 16, 16]
findings = { channel = 0, label = 1, threshold = 0.5 }
"""
OUTPUT = "labels\n" + labels("finding", threshold=0.6)
FINDER, DRAWER = Lines((20.0, -8.0)), Lines((20.0, -10.0))


def scene(of: Grid = OF) -> tuple[Volume, np.ndarray, np.ndarray]:
    """Draw two balls."""
    big, small = ball(of, BIG, 8.0), ball(of, SMALL, 6.0)
    return volume(of, 1.0 * big + 0.9 * small), big, small


def predict(folder: Path, shown: Volume, options: str = DETECTOR, output: str = OUTPUT, drawer: nn.Module = DRAWER) -> Prediction:
    """Run both networks."""
    content = {name: programs.scripted(network, torch.zeros(1))["weights"][1] for name, network in (("finder", FINDER), ("drawer", drawer))}
    files = {name: (f"{name}.ts", each) for name, each in content.items()}
    return registry.load(shelve(folder, "torchscript", files, options, output), "cpu").predict({"ct": shown}, lambda _: None)


def test_what_the_first_finds_the_second_draws(tmp_path: Path) -> None:
    """Each proposal is drawn on the fine grid at its place in the patient, with the score of its proposal."""
    shown, big, small = scene()
    prediction = predict(tmp_path, shown)
    assert prediction.instances is not None
    assert [finding.label for finding in prediction.findings] == [1, 1]
    for truth in (big, small):
        number = int(np.bincount(prediction.instances[truth]).argmax())
        assert number > 0
        assert dice(prediction.instances == number, truth) > 0.95
        assert dice((prediction.instances == number)[::-1, ::-1, ::-1], truth) < 0.5
    assert all(0.99 < finding.score <= 1 for finding in prediction.findings)
    assert (prediction.variant["proposals"], prediction.variant["unconfirmed"]) == ("2", "0")


def test_a_finer_second_network_draws_better_than_the_first_alone(tmp_path: Path) -> None:
    """The reason for two networks: at 3 mm alone the small ball is drawn worse."""
    shown, _, small = scene()
    coarse = DETECTOR.split("[runtime.options.second]", maxsplit=1)[0].split("[runtime.options.first]")[1].replace('"finder"', '"weights"')
    files = {"weights": ("w.ts", programs.scripted(DRAWER, torch.zeros(1))["weights"][1])}
    alone = registry.load(shelve(tmp_path / "alone", "torchscript", files, coarse.replace(", extent = 0.3", ""), OUTPUT), "cpu")
    worse = alone.predict({"ct": shown}, lambda _: None).instances
    better = predict(tmp_path / "both", shown).instances
    drawn = [dice((each > 0) & ball(OF, SMALL, 12.0), small) for each in (worse, better)]
    assert drawn[0] < drawn[1]


@pytest.mark.parametrize("unconfirmed", ["keep", "drop"])
def test_a_proposal_of_which_nothing_is_drawn_is_kept_or_dropped_as_the_card_says(tmp_path: Path, unconfirmed: str) -> None:
    """The detector's mark is not lost unless the card says that the second network judges: then its number is told."""
    shown, big, small = scene()
    prediction = predict(tmp_path, shown, f'unconfirmed = "{unconfirmed}"\n' + DETECTOR, drawer=Lines((40.0, -38.0)))
    assert prediction.instances is not None
    assert prediction.variant["unconfirmed"] == "1"
    assert len(prediction.findings) == (2 if unconfirmed == "keep" else 1)
    marked = (prediction.instances[small] > 0).mean()
    assert marked > 0.9 if unconfirmed == "keep" else marked == 0
    assert (prediction.instances[big] > 0).mean() > 0.5


def test_two_proposals_of_one_lesion_are_one_finding(tmp_path: Path) -> None:
    """A coarse detector splits what the second network draws whole: it is told once, with the better score, and counted."""
    one, two = ball(OF, at(OF, 0, -9, 0), 5.0), ball(OF, at(OF, 0, 9, 0), 5.0)
    bridge = ball(OF, middle_mm(OF), 6.0) & ~one & ~two
    shown = volume(OF, 1.0 * one + 0.9 * two + 0.3 * bridge)
    prediction = predict(
        tmp_path,
        shown,
        DETECTOR.replace("extent = 0.3", "extent = 0.5").replace("margin_mm = 8.0", "margin_mm = 25.0"),
        drawer=Lines((40.0, -6.0)),
    )
    assert (prediction.variant["proposals"], prediction.variant["merged"]) == ("2", "1")
    assert len(prediction.findings) == 1
    assert prediction.instances is not None
    assert (prediction.instances[one | two] == 1).mean() > 0.95


def test_nothing_proposed_is_an_answer(tmp_path: Path) -> None:
    """No place is found: no finding, an empty map, and the second network has not run."""
    prediction = predict(tmp_path, volume(OF, np.zeros(OF.shape)))
    assert prediction.findings == ()
    assert prediction.instances is not None
    assert not prediction.instances.any()


REGION = """
margin_mm = 4.0
[runtime.options.first]
weights = "finder"
spacing_mm = [4.0, 4.0, 4.0]
window = [16, 16, 16]
organ_channels = [0, 1]
[runtime.options.second]
weights = "drawer"
spacing_mm = [1.0, 1.0, 1.0]
window = [16, 16, 16]
organ_channels = [0, 1, 2]
"""


def test_a_region_is_looked_at_closely(tmp_path: Path) -> None:
    """Coarse classes give one box; inside of it the second network's own labels are drawn, and nothing outside."""
    big, small = ball(OF, BIG, 8.0), ball(OF, SMALL, 6.0)
    shown = volume(OF, 0.6 * big + 1.0 * small)
    files = {
        name: (f"{name}.ts", programs.scripted(network, torch.zeros(1))["weights"][1])
        for name, network in (("finder", Lines((0.0, 0.0), (20.0, -6.0))), ("drawer", Lines((0.0, 0.0), (20.0, -6.0), (60.0, -38.0))))
    }
    model = registry.load(shelve(tmp_path, "torchscript", files, REGION, "labels\n" + labels("organ", "organ")), "cpu")
    prediction = model.predict({"ct": shown}, lambda _: None)
    assert dice(prediction.labels == 1, big) > 0.9
    assert dice(prediction.labels == 2, small) > 0.85
    assert prediction.instances is None
    with pytest.raises(Unfit, match="was not found in the series"):
        model.predict({"ct": volume(OF, np.zeros(OF.shape))}, lambda _: None)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('weights = "drawer"', 'weights = "finder"', "two weights are one file"),
        ("margin_mm = 8.0", "margin_mm = -1.0", "margin_mm"),
        ("margin_mm = 8.0", "margin_mm = 8.0\nwindow = [4, 4, 4]", "window"),
        ("label = 1, threshold = 0.5", "label = 2, threshold = 0.5", "finding labels"),
        ("threshold = 0.6, extent", "threshold = 0.7, extent", "those of the output label"),
        ("channel = 0, label = 1, threshold = 0.5", "channel = 1, label = 1, threshold = 0.5", "not all of a network's channels"),
    ],
)
def test_a_card_whose_networks_do_not_fit_together_is_bad(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """Each network has to fit the card by itself, and both together."""
    assert old in DETECTOR
    with pytest.raises(BadCard, match=reason):
        predict(tmp_path, scene()[0], DETECTOR.replace(old, new))
    assert middle_mm(OF) != BIG


def test_two_labels_at_one_place_are_both_told(tmp_path: Path) -> None:
    """A proposal of another label is another statement: it keeps what the better one leaves, and is not taken for it."""
    big, small = ball(OF, BIG, 9.0), ball(OF, BIG, 5.0)
    options = DETECTOR.replace("findings = { channel = 0, label = 1, threshold = 0.6, extent = 0.3 }", TWO.format("0.6, extent = 0.3"))
    options = options.replace("findings = { channel = 0, label = 1, threshold = 0.5 }", TWO.format("0.5"))
    lines = Lines((20.0, -8.0), (40.0, -32.0))  # the first label from 0.4 on, the second, inside of it, from 0.8 on
    files = {name: (f"{name}.ts", programs.scripted(lines, torch.zeros(1))["weights"][1]) for name in ("finder", "drawer")}
    card = shelve(tmp_path, "torchscript", files, options, "labels\n" + labels("finding", "finding", threshold=0.6))
    prediction = registry.load(card, "cpu").predict({"ct": volume(OF, 0.6 * big + 0.4 * small)}, lambda _: None)
    assert sorted(finding.label for finding in prediction.findings) == [1, 2]


TWO = "findings = [{{ channel = 0, label = 1, threshold = {0} }}, {{ channel = 1, label = 2, threshold = {0} }}]"


def test_the_second_network_tells_how_far_it_is(tmp_path: Path) -> None:
    """A region of many windows shows progress between them: a watchdog must not take it for one that hangs."""
    content = {name: programs.scripted(network, torch.zeros(1))["weights"][1] for name, network in (("finder", FINDER), ("drawer", DRAWER))}
    files = {name: (f"{name}.ts", each) for name, each in content.items()}
    told: list[float] = []
    shown, _, _ = scene()
    registry.load(shelve(tmp_path, "torchscript", files, DETECTOR, OUTPUT), "cpu").predict({"ct": shown}, told.append)
    assert len({part for part in told if 0.4 < part < 0.9}) > 4
    assert told == sorted(told)
