"""State dicts: a network with a known answer labels and marks what lies at known places, on grids of every orientation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load, save

from models import registry
from models.card import BadCard, read
from models.execution import PLAIN, Execution
from models.vocabulary import Broken, Grid, Prediction, Unfit, Volume
from tests.models.cards import AIR_HU, CARD, MARK_HU, ONE_HU, TWO_HU, lines, weights, write
from tests.models.grids import AXES, ball, grid, middle_mm, places_mm

SHAPE, SPACING_MM = (40, 84, 64), (2.0, 0.9, 1.2)


def scene(of: Grid) -> tuple[Volume, dict[str, np.ndarray]]:
    """Draw organ 1 and organ 2 beside each other, and a mark inside of organ 2, at places fixed in the patient."""
    middle = np.array(middle_mm(of))
    along = np.array(of.axes[1])
    truth = {
        "one": ball(of, tuple(middle - 18 * along), 14.0),
        "two": ball(of, tuple(middle + 18 * along), 14.0),
        "mark": ball(of, tuple(middle + 21 * along), 5.0),
    }
    array = np.full(of.shape, AIR_HU, dtype=np.int16)
    for name, value in (("one", ONE_HU), ("two", TWO_HU), ("mark", MARK_HU)):
        array[truth[name]] = value
    return Volume(array=array, grid=of, unit="HU", modality="CT"), truth


def predict(folder: Path, volume: Volume) -> Prediction:
    """Load the model of known lines and run it."""
    return registry.load(lines(folder), "cpu").predict({"ct": volume}, lambda _: None)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    """Give twice the common voxels over the sum of both."""
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


@pytest.mark.parametrize("name", AXES)
def test_organs_and_findings_lie_where_they_were_drawn(tmp_path: Path, name: str) -> None:
    """In any orientation the labels are the drawn organs, and the one finding is the drawn mark, in LPS."""
    volume, truth = scene(grid(name, SHAPE, SPACING_MM))
    prediction = predict(tmp_path, volume)
    assert prediction.grid == volume.grid
    # Around organ 2 a blurred border passes through organ 1's intensities; organ 1 is judged on its own side.
    side = (places_mm(volume.grid) - middle_mm(volume.grid)) @ np.array(volume.grid.axes[1]) < 0
    assert dice((prediction.labels == 1) & side, truth["one"]) > 0.95
    assert dice((prediction.labels == 2) | (prediction.instances > 0), truth["two"] | truth["mark"]) > 0.9
    (finding,) = prediction.findings
    assert (finding.number, finding.label) == (1, 9)
    assert 0.9 < finding.score <= 0.95  # sigmoid(2.8) = 0.943 at the middle of the mark
    marked = prediction.instances == 1
    assert dice(marked, truth["mark"]) > 0.8
    assert np.allclose(places_mm(volume.grid)[marked].mean(axis=0), places_mm(volume.grid)[truth["mark"]].mean(axis=0), atol=0.5)


def test_no_voxel_is_in_two_segments(tmp_path: Path) -> None:
    """Where a finding is, no organ is, and its box is as tight as can be."""
    volume, _ = scene(grid("axial", SHAPE, SPACING_MM))
    prediction = predict(tmp_path, volume)
    assert prediction.labels.dtype == np.uint8
    assert prediction.instances.dtype == np.uint16
    assert not ((prediction.labels > 0) & (prediction.instances > 0)).any()
    voxels = np.argwhere(prediction.instances == 1)
    assert prediction.findings[0].box.low == tuple(voxels.min(axis=0))
    assert prediction.findings[0].box.high == tuple(voxels.max(axis=0) + 1)


@pytest.mark.parametrize("name", ["axial", "sagittal"])
def test_the_execution_changes_no_voxel(tmp_path: Path, name: str) -> None:
    """Several windows at once, the host's memory: the same organs and findings, and the variant tells."""
    volume, _ = scene(grid(name, SHAPE, SPACING_MM))
    model = registry.load(lines(tmp_path), "cpu")
    plain = model.predict({"ct": volume}, lambda _: None)
    for execution in (Execution(batch=4, stitch="host"), Execution(batch=3)):
        other = model.predict({"ct": volume}, lambda _: None, execution)
        assert np.array_equal(plain.labels, other.labels)
        assert np.array_equal(plain.instances, other.instances)
        assert plain.findings == other.findings
        assert execution.facts().items() <= other.variant.items()


def test_the_need_grows_with_volume_and_batch(tmp_path: Path) -> None:
    """What the worker admits jobs by: more for more voxels and windows, less of the device where the host holds the scores."""
    model = registry.load(lines(tmp_path), "cpu")
    small, large = (model.need({"ct": grid("axial", (count, 300, 300), SPACING_MM)}, PLAIN) for count in (40, 400))
    assert 0 < small.device < large.device
    assert small.host < large.host
    volumes = {"ct": grid("axial", (400, 300, 300), SPACING_MM)}
    assert model.need(volumes, Execution(batch=8)).device > large.device
    assert model.need(volumes, Execution(stitch="host")).device < large.device


def test_weights_that_give_no_numbers_are_broken(tmp_path: Path) -> None:
    """A network of NaN finds nothing nowhere: that is an error, never an empty result."""
    state = load(weights())
    state["decode.decode_0.conv.conv.bias"][1] = float("nan")
    model = registry.load(read(write(tmp_path, save(state))), "cpu")
    with pytest.raises(Broken, match="no finite numbers"):
        model.predict({"ct": scene(grid("axial", SHAPE, SPACING_MM))[0]}, lambda _: None)


def test_two_runs_agree_in_every_voxel(tmp_path: Path) -> None:
    """The same model gives the same prediction twice, and says what made it."""
    volume, _ = scene(grid("oblique", SHAPE, SPACING_MM))
    model = registry.load(lines(tmp_path), "cpu")
    one, other = (model.predict({"ct": volume}, lambda _: None) for _ in range(2))
    assert np.array_equal(one.labels, other.labels)
    assert one.findings == other.findings
    assert one.variant["device"] == "cpu"
    assert one.variant["precision"] == "float32"


def test_progress_rises_to_one(tmp_path: Path) -> None:
    """Progress never falls and ends at 1."""
    told: list[float] = []
    registry.load(lines(tmp_path), "cpu").predict({"ct": scene(grid("axial", SHAPE, SPACING_MM))[0]}, told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_series_without_the_organ_is_unfit(tmp_path: Path) -> None:
    """Where the organ the model needs is not in the picture the series is unfit, and the reason says how much was found."""
    volume, truth = scene(grid("axial", SHAPE, SPACING_MM))
    volume.array[truth["one"]] = AIR_HU
    with pytest.raises(Unfit, match=r"First organ: only \d ml was found where 10 ml is needed"):
        predict(tmp_path, volume)


def test_nothing_marked_is_an_answer(tmp_path: Path) -> None:
    """Without a mark the prediction has no findings and an empty instance map."""
    volume, truth = scene(grid("axial", SHAPE, SPACING_MM))
    volume.array[truth["mark"]] = TWO_HU
    prediction = predict(tmp_path, volume)
    assert prediction.findings == ()
    assert not prediction.instances.any()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('network = "AutoEncoder"', 'network = "NoSuchNet"', "has no network 'NoSuchNet'"),
        ('network = "AutoEncoder"', 'network = "os.system"', "network"),
        ("out_channels = 4", "out_channels = 5", r"the labels need channels \[0, 1, 2, 3\]"),
        ("channels = [4]", "channels = [8]", "weights do not fit"),
        ("spatial_dims = 3", "spatial_dims = 3\nnonsense = 1", "cannot be built"),
        ("organ_channels = [0, 1, 2]", "organ_channels = [0, 1]", "organ_channels names 2"),
        ("label = 9", "label = 2", "finding labels"),
        ("within_labels = [2]", "within_labels = [9]", "organ labels only"),
        ('{ "1" = 10.0 }', '{ "7" = 10.0 }', "organ labels only"),
        ("threshold = 0.5\nmin_volume_ml = 0.1\nwithin", "threshold = 0.4\nmin_volume_ml = 0.1\nwithin", "those of the output label"),
        ("low = -1000.0", "low = 500.0", "low must be below high"),
        ("overlap = 0.25", "overlap = 1.25", "overlap"),
        ("overlap = 0.25", "overlap = 0.25\nsurprise = 1", "surprise"),
    ],
)
def test_a_card_that_does_not_fit_its_network_is_bad(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """A wrong word in the options is named when the model is loaded, not when a patient waits."""
    with pytest.raises(BadCard, match=reason):
        registry.load(lines(tmp_path, old, new), "cpu")


def test_weights_that_are_no_safetensors_are_bad(tmp_path: Path) -> None:
    """A file of another kind is refused although its hash is right; nothing in it is run."""
    with pytest.raises(BadCard, match="weights do not fit"):
        registry.load(read(write(tmp_path, b"\x80\x04cos\nsystem\n", CARD)), "cpu")


def test_weights_with_another_hash_are_bad(tmp_path: Path) -> None:
    """One changed byte in the weights is found before anything is loaded."""
    path = write(tmp_path, weights())
    changed = bytearray((tmp_path / "weights.safetensors").read_bytes())
    changed[-1] ^= 1
    (tmp_path / "weights.safetensors").write_bytes(changed)
    with pytest.raises(BadCard, match="has sha256"):
        registry.load(read(path), "cpu")
