"""What a network gives: overlapping masks, findings of several labels, boxes, points and scores, at their places in the patient."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from models import registry
from models.card import BadCard, read
from models.grids import transforms
from models.vocabulary import Broken, Finding, Grid, Prediction, Unfit, Volume
from tests.models import programs
from tests.models.grids import AXES, ball, grid, middle_mm, places_mm
from tests.models.runtimes.test_pictures import picture
from tests.models.shelf import labels, shelve
from tests.radiographs import Radiograph

SHAPE, SPACING_MM = (26, 44, 40), (2.0, 1.2, 1.3)
SEEN = "spacing_mm = [1.5, 1.5, 1.5]\nwindow = [24, 24, 24]\noverlap = 0.5\n"


class Lines(nn.Module):
    """Gives, in each channel, a straight line of the intensity."""

    def __init__(self, *lines: tuple[float, float]) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor([slope for slope, _ in lines]))
        self.register_buffer("starts", torch.tensor([start for _, start in lines]))

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Give (batch, lines, z, y, x)."""
        return seen[:, :1] * self.slopes[:, None, None, None] + self.starts[:, None, None, None]


def predict(folder: Path, network: nn.Module, options: str, output: str, volume: Volume) -> Prediction:
    """Run a network that was written as TorchScript."""
    model = registry.load(shelve(folder, "torchscript", programs.scripted(network, torch.zeros(1)), options, output), "cpu")
    return model.predict({"ct": volume}, lambda _: None)


def volume(of: Grid, array: np.ndarray) -> Volume:
    """Give an MR."""
    return Volume(array=array.astype(np.float32), grid=of, unit="1", modality="MR")


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Give twice the common voxels over the sum of both."""
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


def at(of: Grid, *shifts_mm: float) -> tuple[float, float, float]:
    """Give a place beside the middle of a grid, along L, P and S."""
    x, y, z = (middle + shift for middle, shift in zip(middle_mm(of), shifts_mm, strict=True))
    return x, y, z


@pytest.mark.parametrize("name", AXES)
def test_masks_may_overlap(tmp_path: Path, name: str) -> None:
    """A ball inside of a ball: both masks hold the inner one, each cut at its label's own threshold; the labels stay empty."""
    of = grid(name, SHAPE, SPACING_MM)
    outer, inner = ball(of, at(of, 2, -3, 1), 14.0), ball(of, at(of, 6, -3, 1), 6.0)
    array = 0.5 * outer + 0.5 * inner
    output = "masks\n" + labels("organ", "organ").replace("cielab = [1, 1, 1]\n\n", "cielab = [1, 1, 1]\nthreshold = 0.9\n", 1)
    prediction = predict(tmp_path, Lines((20.0, -5.0), (20.0, -15.0)), SEEN + "mask_channels = [0, 1]\n", output, volume(of, array))
    assert not prediction.labels.any()
    assert dice(prediction.masks[1], outer) > 0.85
    assert dice(prediction.masks[2], inner) > 0.85
    assert (prediction.masks[1] & prediction.masks[2]).sum() > 0.95 * prediction.masks[2].sum()
    mirrored = prediction.masks[2][::-1, ::-1, ::-1]
    assert dice(mirrored, inner) < 0.5


def test_a_mask_below_its_least_volume_goes(tmp_path: Path) -> None:
    """Crumbs are no organ where the card says so, and what the model needs must be there."""
    of = grid("axial", SHAPE, SPACING_MM)
    crumbs = volume(of, 1.0 * ball(of, middle_mm(of), 4.0))
    output = "masks\n" + labels("organ").replace("cielab", "min_volume_ml = 1.0\ncielab")
    assert predict(tmp_path / "a", Lines((20.0, -10.0)), SEEN + "mask_channels = [0]\n", output, crumbs).masks == {}
    with pytest.raises(Unfit, match="Label 1: only 0 ml was found where 2 ml"):
        predict(tmp_path / "b", Lines((20.0, -10.0)), SEEN + "mask_channels = [0]\nrequire_ml = { 1 = 2.0 }\n", output, crumbs)


def test_findings_of_several_labels_are_numbered_together(tmp_path: Path) -> None:
    """Each heat map finds its own label; a voxel that both claim is the smaller one's, and every finding has its voxels."""
    of = grid("sagittal", SHAPE, SPACING_MM)
    bright, dim = ball(of, at(of, 0, 8, 12), 6.0), ball(of, at(of, 0, -9, -10), 7.0)
    options = (
        SEEN
        + """
[[runtime.options.findings]]
channel = 0
label = 1
threshold = 0.5
[[runtime.options.findings]]
channel = 1
label = 2
threshold = 0.5
"""
    )
    lines = Lines((40.0, -30.0), (40.0, -10.0))  # above 0.75; above 0.25, so that it claims the bright ball too
    prediction = predict(tmp_path, lines, options, "labels\n" + labels("finding", "finding"), volume(of, 1.0 * bright + 0.5 * dim))
    assert prediction.instances is not None
    assert [finding.number for finding in prediction.findings] == list(range(1, len(prediction.findings) + 1))
    told = {finding.label: finding for finding in prediction.findings if (prediction.instances == finding.number).sum() > 100}
    assert set(told) == {1, 2}
    assert dice(prediction.instances == told[1].number, bright) > 0.8
    assert dice(prediction.instances == told[2].number, dim) > 0.85
    for finding in prediction.findings:
        voxels = np.argwhere(prediction.instances == finding.number)
        assert (finding.box.low, finding.box.high) == (tuple(voxels.min(axis=0)), tuple(voxels.max(axis=0) + 1))


def edges_mm(of: Grid, finding: Finding) -> np.ndarray:
    """Give the LPS range of a box's faces, (2, 3)."""
    corners = of.to_world_mm(np.array([finding.box.low, finding.box.high], dtype=float) - 0.5)
    return np.sort(corners, axis=0)


@pytest.mark.parametrize("name", ["axial", "feet up", "sagittal", "coronal"])
def test_boxes_from_peaks_have_the_sizes_the_network_says(tmp_path: Path, name: str) -> None:
    """Peaks with sizes of 20 x 10 x 30 mm along S, P and L come back as boxes of those sizes round the drawn places."""
    of = grid(name, (36, 44, 40), (1.5, 1.5, 1.5))
    spots = [at(of, 4.0, -6.0, 5.0), at(of, -6.0, 7.0, -4.0)]
    array = np.zeros(of.shape)
    for spot, value in zip(spots, (1.0, 0.9), strict=True):
        array[tuple(np.rint(of.to_index(np.array([spot]))[0]).astype(int))] = value
    options = SEEN + "centres = { channels = [0], size_channels = [1, 2, 3] }\nsuppress = { overlap = 0.3 }\n"
    network = Lines((40.0, -20.0), (0.0, 20.0), (0.0, 10.0), (0.0, 30.0))
    prediction = predict(tmp_path, network, options, "boxes\n" + labels("finding", threshold=0.6), volume(of, array))
    assert prediction.instances is None
    assert len(prediction.findings) == 2
    for finding in prediction.findings:
        found = edges_mm(of, finding)
        spot = min(spots, key=lambda place: float(np.abs(found.mean(axis=0) - place).sum()))
        assert np.abs(found[1] - found[0] - (30, 10, 20)).max() <= 1.6
        assert np.abs(found.mean(axis=0) - spot).max() <= 1.6
        assert 0.99 < finding.score <= 1


class Brightest(nn.Module):
    """Boxes the brightest voxel of what it sees, 3 x 5 x 7 voxels, as a detector of boxes would."""

    def forward(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Give one box, its class and its score."""
        place = int(seen[0, 0].reshape(-1).argmax())
        depth, height, width = seen.shape[2], seen.shape[3], seen.shape[4]
        assert depth > 0
        z, y, x = place // (height * width), place // width % height, place % width
        box = torch.tensor([[z - 1.0, y - 2.0, x - 3.0, z + 2.0, y + 3.0, x + 4.0]])
        return box, torch.tensor([5]), seen.reshape(-1).max().reshape(1)


@pytest.mark.parametrize("name", ["axial", "sagittal", "coronal"])
def test_boxes_a_network_gives_itself_lie_where_it_saw_them(tmp_path: Path, name: str) -> None:
    """Window by window, each with a corner of its own: a box that several windows gave is told once, at the drawn place."""
    of = grid(name, (36, 44, 40), (1.5, 1.5, 1.5))
    spots = [at(of, 12.0, -14.0, 13.0), at(of, -11.0, 13.0, -12.0)]
    array = np.zeros(of.shape)
    for spot, value in zip(spots, (0.95, 0.85), strict=True):
        array[tuple(np.rint(of.to_index(np.array([spot]))[0]).astype(int))] = value
    options = SEEN + "rows = { boxes = 0, classes = 1, scores = 2, class_numbers = [5] }\nsuppress = { distance_mm = 4.0 }\n"
    prediction = predict(tmp_path, Brightest(), options, "boxes\n" + labels("finding", threshold=0.5), volume(of, array))
    assert sorted(round(finding.score, 2) for finding in prediction.findings) == [0.85, 0.95]
    for finding in prediction.findings:
        found, spot = edges_mm(of, finding), spots[0 if finding.score > 0.9 else 1]
        assert np.abs(found[1] - found[0] - (7 * 1.5, 5 * 1.5, 3 * 1.5)).max() < 0.01
        assert np.abs(found.mean(axis=0) - spot).max() <= 0.8


class Mean(nn.Module):
    """Scores the whole: two lines of the mean."""

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Give (batch, 2)."""
        mean = seen.flatten(1).mean(dim=1)
        return torch.stack([8 * mean - 2, torch.zeros_like(mean)], dim=1)


@pytest.mark.parametrize(("activation", "wanted"), [("sigmoid", 8 * 0.4 - 2), ("softmax", 8 * 0.4 - 2)])
def test_scores_are_of_the_whole_volume(tmp_path: Path, activation: str, wanted: float) -> None:
    """Resized as a whole and seen at once: the probability is the network's, and nothing else is said."""
    of = grid("coronal", SHAPE, SPACING_MM)
    options = f'size = [16, 16, 16]\nfit = "stretch"\nscores = {{ activation = "{activation}", channels = [0] }}\n'
    prediction = predict(tmp_path, Mean(), options, "scores\n" + labels("finding", threshold=0.5), volume(of, np.full(of.shape, 0.4)))
    (score,) = prediction.scores
    assert score.score == pytest.approx(1 / (1 + np.exp(-wanted)), abs=1e-5)
    assert not prediction.labels.any()


def test_scores_are_of_a_radiograph(tmp_path: Path) -> None:
    """A picture with its proportions in a square, the rest 0; a stack of slices is no picture."""
    shown = Radiograph(shape=(40, 80), spacing_mm=(0.5, 0.5), opacities=())
    options = 'size = [32, 32]\nscores = { activation = "sigmoid", channels = [0, 1] }\n'
    output = "scores\n" + labels("finding", "finding")
    prediction = predict(tmp_path / "a", Mean(), options, output, picture(shown))
    mean = shown.density().mean() / 2  # half of the square is outside of the picture
    assert prediction.scores[0].score == pytest.approx(1 / (1 + np.exp(2 - 8 * mean)), abs=0.01)
    assert prediction.scores[1].score == 0.5
    of = grid("axial", SHAPE, SPACING_MM)
    with pytest.raises(Unfit, match="no single radiograph"):
        predict(tmp_path / "b", Mean(), options, output, volume(of, np.zeros(of.shape)))


def test_a_radiograph_is_no_volume(tmp_path: Path) -> None:
    """A 3-D network does not look at a picture."""
    with pytest.raises(Unfit, match="this model reads volumes"):
        predict(tmp_path, Lines((1.0, 0.0)), SEEN + "mask_channels = [0]\n", "masks\n" + labels("organ"), picture(Radiograph()))


def test_probabilities_are_kept_where_asked(tmp_path: Path) -> None:
    """A straight line through the patient comes back as steps of 1/255 of the sigmoid at the network's voxels between."""
    of = grid("sagittal", SHAPE, SPACING_MM)
    along = (places_mm(of) - np.array(middle_mm(of)))[..., 2] / 200
    options = SEEN + 'outputs = "probabilities"\nmask_channels = [0]\nprobabilities = [1]\n'
    prediction = predict(tmp_path, Lines((1.0, 0.5)), options, "masks\n" + labels("organ"), volume(of, along))
    core = (slice(3, -3),) * 3
    assert np.abs(prediction.probabilities[1] / 255 - (along + 0.5))[core].max() < 0.004


def test_a_finding_may_be_a_class_of_the_softmax(tmp_path: Path) -> None:
    """None, organ and tumor exclude each other: the tumor is a numbered finding, the organ is what is left of it."""
    of = grid("coronal", SHAPE, SPACING_MM)
    organ, tumor = ball(of, at(of, 2, -3, 1), 14.0), ball(of, at(of, 8, -3, 1), 5.0)
    options = SEEN + 'organ_channels = [0, 1]\nfindings = { channel = 2, label = 2, of = "softmax", threshold = 0.6, extent = 0.5 }\n'
    lines = Lines((0.0, 0.0), (20.0, -6.0), (60.0, -38.0))  # none below 0.3, the organ below 0.8, then the tumor
    prediction = predict(tmp_path, lines, options, "labels\n" + labels("organ", "finding"), volume(of, 0.6 * organ + 0.4 * tumor))
    (finding,) = prediction.findings
    assert prediction.instances is not None
    assert (finding.label, set(np.unique(prediction.labels).tolist())) == (2, {0, 1})
    assert dice(prediction.instances == 1, tumor) > 0.8
    assert dice(prediction.labels == 1, organ & ~tumor) > 0.9
    assert not ((prediction.labels > 0) & (prediction.instances > 0)).any()


def test_two_classes_of_a_softmax_may_be_none_and_a_finding(tmp_path: Path) -> None:
    """The commonest lesion network of all: what is not none is a finding."""
    of = grid("sagittal", SHAPE, SPACING_MM)
    lesion = ball(of, at(of, 8, -3, 1), 7.0)
    options = SEEN + 'organ_channels = [0]\nfindings = { channel = 1, label = 1, of = "softmax", threshold = 0.5 }\n'
    prediction = predict(tmp_path, Lines((0.0, 0.0), (20.0, -10.0)), options, "labels\n" + labels("finding"), volume(of, 1.0 * lesion))
    assert len(prediction.findings) == 1
    assert dice(prediction.instances == 1, lesion) > 0.9


def test_labels_may_return_by_the_nearest_voxel(tmp_path: Path) -> None:
    """Where the card says so, each voxel takes the class of the network's nearest one: a coarse grid comes back in steps."""
    of = grid("axial", SHAPE, SPACING_MM)
    options = "spacing_mm = [6.0, 6.0, 6.0]\nwindow = [12, 12, 12]\norgan_channels = [0, 1]\n"
    shown = volume(of, 1.0 * ball(of, middle_mm(of), 13.0))
    files = programs.scripted(Lines((0.0, 0.0), (20.0, -10.0)), torch.zeros(1))
    nearest = shelve(tmp_path, "torchscript", files, options, "labels\n" + labels("organ"))
    (tmp_path / "card.toml").write_text((tmp_path / "card.toml").read_text().replace("scores-linear", "labels-nearest"))
    found = registry.load(read(nearest.folder / "card.toml"), "cpu").predict({"ct": shown}, lambda _: None).labels
    plan = transforms.resampling(of, "SPL", (6.0, 6.0, 6.0))
    coarse = transforms.to_model(shown.array, plan, "cpu").numpy() > 0.5
    steps = [np.floor(plan.model_places(axis) + 0.5).astype(int) for axis in range(3)]
    assert np.array_equal(found == 1, coarse[np.ix_(*steps)])
    assert 0.6 < dice(found == 1, shown.array > 0) < 0.97


@pytest.mark.parametrize(
    ("network", "options", "output", "reason"),
    [
        (Lines((1.0, -4.0)), SEEN + 'outputs = "probabilities"\nmask_channels = [0]\n', "masks\n" + labels("organ"), "these are logits"),
        (
            nn.Sequential(Lines((1.0, 0.0), (9.0, -4.0)), nn.Softmax(dim=1)),
            SEEN + "organ_channels = [0, 1]\n",
            "labels\n" + labels("organ"),
            "gives probabilities already",
        ),
        (
            nn.Sequential(Mean(), nn.Softmax(dim=1)),
            'size = [16, 16, 16]\nscores = { activation = "softmax", channels = [0] }\n',
            "scores\n" + labels("finding"),
            "gives probabilities already",
        ),
    ],
    ids=["logits", "a softmax", "a softmax of the whole"],
)
def test_logits_and_probabilities_are_told_apart(tmp_path: Path, network: nn.Module, options: str, output: str, reason: str) -> None:
    """A card that says one and a network that gives the other would move every threshold; it is found when the model is loaded."""
    files = programs.scripted(network, torch.zeros(1))
    with pytest.raises(BadCard, match=reason):
        registry.load(shelve(tmp_path, "torchscript", files, options, output), "cpu")


WRONG = [
    ("organ_channels = [0, 1]", "labels", labels("organ", threshold=0.5), "threshold of an organ label says nothing"),
    ('findings = { channel = 0, label = 1, of = "softmax", threshold = 0.5 }', "labels", labels("finding"), "whose first is none"),
    ("mask_channels = [0]", "labels", labels("organ"), "go together"),
    ("organ_channels = [0, 1]", "masks", labels("organ"), "go together"),
    ("organ_channels = [0, 1]", "labels", labels("organ", "organ"), "organ_channels names 2"),
    ("mask_channels = [0, 1]", "masks", labels("organ"), "mask_channels names 2"),
    ("", "labels", labels("organ"), "need organ_channels"),
    ("centres = { channels = [0] }\nsuppress = { overlap = 0.3 }", "boxes", labels("finding"), "needs a threshold"),
    ("centres = { channels = [0] }", "boxes", labels("finding", threshold=0.5), "need suppress"),
    ("centres = { channels = [0] }\nsuppress = { overlap = 0.3 }", "labels", labels("finding", threshold=0.5), 'must be "boxes"'),
    (
        "centres = { channels = [0], size_channels = [1] }\nsuppress = { overlap = 0.3 }",
        "boxes",
        labels("finding"),
        "are three",
    ),
    ("rows = {}\nsuppress = { overlap = 0.3 }", "boxes", labels("finding", "finding", threshold=0.5), "one finding label only"),
    ('scores = { activation = "sigmoid", channels = [0] }', "scores", labels("finding"), "sees it at once"),
    ('scores = { activation = "sigmoid", channels = [0] }', "labels", labels("finding"), "go together"),
    ("mask_channels = [0]\nprobabilities = [2]", "masks", labels("organ"), "probabilities names label 2"),
    ("mask_channels = [1]", "masks", labels("organ"), "not all of a network's channels"),
    ("mask_channels = [0]\nweights = []", "masks", labels("organ"), "weights must name"),
]


@pytest.mark.parametrize(("options", "kind", "described", "reason"), WRONG)
def test_keys_that_contradict_the_labels_are_bad(tmp_path: Path, options: str, kind: str, described: str, reason: str) -> None:
    """What is promised and what the network's channels are said to be must be one; the sentence says what is not."""
    files = programs.scripted(Lines((1.0, 0.0)), torch.zeros(1))
    with pytest.raises(BadCard, match=reason):
        registry.load(shelve(tmp_path, "torchscript", files, SEEN + options, f"{kind}\n{described}"), "cpu")


class Shrinking(nn.Module):
    """Boxes the voxel (10, 10, 5) of a window with its value as the score, and scales its input in place, as some networks do."""

    def forward(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Give a box of one voxel and its score."""
        seen.mul_(0.8)
        return torch.tensor([[10.0, 10.0, 5.0, 11.0, 11.0, 6.0]]), seen[0, 0, 10, 10, 5][None]


def test_a_network_that_changes_its_input_does_not_change_the_next_window(tmp_path: Path) -> None:
    """A voxel that two windows share has its own value in both, also where only the second one marks it."""
    of = grid("axial", (20, 20, 30), (1.0, 1.0, 1.0))
    array = np.zeros(of.shape)
    array[10, 10, 15] = 0.9
    options = "window = [20, 20, 20]\noverlap = 0.5\nrows = {}\nsuppress = { distance_mm = 1.0 }\n"
    (finding,) = predict(tmp_path, Shrinking(), options, "boxes\n" + labels("finding", threshold=0.7), volume(of, array)).findings
    assert finding.score == pytest.approx(0.72, abs=1e-4)
    assert finding.box.low == (10, 10, 15)


def test_a_dense_network_whose_probabilities_are_none_breaks(tmp_path: Path) -> None:
    """Zeros of a network without bias give 0, which could be a probability; on a series logits are not taken for such."""
    of = grid("axial", SHAPE, SPACING_MM)
    shown = volume(of, 1.0 * ball(of, middle_mm(of), 8.0))
    options = SEEN + 'mask_channels = [0]\noutputs = "probabilities"\n'
    with pytest.raises(Broken, match="no probabilities"):
        predict(tmp_path, Lines((20.0, 0.0)), options, "masks\n" + labels("organ"), shown)


def test_a_picture_without_millimetres_is_unfit_where_the_network_wants_a_spacing(tmp_path: Path) -> None:
    """Pixels of unknown size cannot be brought to 1 mm: the network would see another magnification than it was taught on."""
    shown = picture(Radiograph())
    options = "spacing_mm = [0, 1.0, 1.0]\nwindow = [32, 32]\nmask_channels = [0]\n"
    network = Flat()
    with pytest.raises(Unfit, match="millimetres"):
        predict(tmp_path / "a", network, options, "masks\n" + labels("organ"), shown)
    calibrated = replace(shown, grid=replace(shown.grid, calibrated=True))
    assert predict(tmp_path / "b", network, options, "masks\n" + labels("organ"), calibrated).masks[1].all()


class Flat(nn.Module):
    """Marks every pixel."""

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Give (batch, 1, rows, columns)."""
        return seen[:, :1] * 0 + 5
