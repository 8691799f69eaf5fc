"""2-D heat maps: a network with a known answer boxes what lies at known places, on pictures of any size and proportion."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models import registry
from models.card import BadCard
from models.vocabulary import Grid, Prediction, Unfit, Volume
from tests.models.grids import grid as grid_of
from tests.models.heat import heat
from tests.radiographs import Opacity, Radiograph

FLAT = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))


def picture(shown: Radiograph) -> Volume:
    """Give the generator's picture as it would be loaded."""
    grid = Grid(shape=(1, *shown.shape), origin_mm=(0, 0, 0), axes=FLAT, spacing_mm=(1, *shown.spacing_mm), space="image", calibrated=False)
    return Volume(array=shown.density()[None].astype(np.float32), grid=grid, unit="1", modality="DX")


def predict(folder: Path, volume: Volume) -> Prediction:
    """Load the model of known heat and run it."""
    return registry.load(heat(folder), "cpu").predict({"image": volume}, lambda _: None)


PICTURES = {
    "as large as the network sees": Radiograph(),
    "five times as large": Radiograph(shape=(1100, 1300), spacing_mm=(0.1, 0.1)),
    "smaller": Radiograph(shape=(110, 130), spacing_mm=(1.0, 1.0)),
    "upright": Radiograph(shape=(520, 300), spacing_mm=(0.4, 0.4), opacities=(Opacity(at_mm=(20.0, 60.0), half_mm=(9.0, 14.0)),)),
    "pixels twice as high": Radiograph(shape=(110, 260), spacing_mm=(1.0, 0.5)),
}


@pytest.mark.parametrize("name", PICTURES)
def test_each_opacity_gets_one_box_where_it_was_drawn(tmp_path: Path, name: str) -> None:
    """Boxes come back to the picture's own pixels, within one pixel of what the network sees; the lead letter gets none."""
    shown = PICTURES[name]
    volume = picture(shown)
    prediction = predict(tmp_path, volume)
    assert prediction.grid == volume.grid
    assert prediction.instances is None
    assert not prediction.labels.any()
    rows, columns = shown.shape
    seen_mm = max(rows * shown.spacing_mm[0] / 220, columns * shown.spacing_mm[1] / 260)
    slack = [max(1.0, seen_mm / step) + 1 for step in shown.spacing_mm]
    truth = sorted((np.argwhere(mask) for mask in shown.masks()), key=lambda pixels: tuple(pixels.mean(axis=0)))
    assert [finding.number for finding in prediction.findings] == list(range(1, len(truth) + 1))
    for finding, pixels in zip(prediction.findings, truth, strict=True):
        assert (finding.label, finding.box.low[0], finding.box.high[0]) == (4, 0, 1)
        assert 0.99 < finding.score <= 1
        assert (np.abs(np.array(finding.box.low[1:]) - pixels.min(axis=0)) <= slack).all()
        assert (np.abs(np.array(finding.box.high[1:]) - pixels.max(axis=0) - 1) <= slack).all()


def test_an_empty_picture_gets_no_box(tmp_path: Path) -> None:
    """Nothing is found where nothing is, and what made the answer is told."""
    prediction = predict(tmp_path, picture(Radiograph(opacities=())))
    assert prediction.findings == ()
    assert (prediction.variant["runtime"], prediction.variant["device"]) == ("state-dict", "cpu")


def test_a_volume_is_no_radiograph(tmp_path: Path) -> None:
    """A stack of slices is refused, not flattened."""
    grid = grid_of("axial", (4, 20, 20), (2.0, 1.0, 1.0))
    with pytest.raises(Unfit, match="radiograph"):
        predict(tmp_path, Volume(array=np.zeros(grid.shape, np.int16), grid=grid, unit="HU", modality="CT"))


WRONG: list[tuple[str, str, str]] = [
    ('kind = "boxes"\ninverse = "runtime"', 'kind = "labels"\ninverse = "scores-linear"', "suppress is for"),
    ('kind = "boxes"', 'kind = "labels"', "is for boxes and scores"),
    ('kind = "finding"', 'kind = "organ"', "every label must be a finding"),
    ("\nthreshold = 0.8", "\nthreshold = 0.7", "those of the output label"),
    ("extent = 0.5", "extent = 0.9", "extent"),
    ("out_channels = 1", "out_channels = 2", "channels"),
    ("spatial_dims = 2", "spatial_dims = 3", "window"),
    ("kernel_size = 5", "kernel_size = 7", "weights do not fit"),
    ('network = "AutoEncoder"', 'network = "Nothing"', "no network"),
    ("size = [220, 260]", "size = [220, 260]\nunknown = 1", "unknown"),
    ("size = [220, 260]", "size = [220, 260]\nwindow = [220, 260]", "exactly one of window, size and multiple_of"),
    ("size = [220, 260]", "size = [220, 260]\nspacing_mm = [1, 1, 1]", "contradict"),
    ("overlap = 0.3", "overlap = 0.3, distance_mm = 3.0", "exactly one of overlap and distance_mm"),
]


@pytest.mark.parametrize(("old", "new", "reason"), WRONG)
def test_a_card_that_does_not_fit_is_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """What would only show on the first patient shows when the model is loaded."""
    with pytest.raises(BadCard, match=reason):
        registry.load(heat(tmp_path, old, new), "cpu")
