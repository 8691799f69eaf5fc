"""A site's model becomes a folder: pinned, drafted, filled in, and only then a card."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from models import card as cards
from models import registry
from models.card import BadCard
from models.shelving import shelf
from models.shelving.shelf import Wish
from tests.models import networks

LUNG = {"scheme": "SCT", "value": "39607008", "meaning": "Lung"}
ORGAN = {"scheme": "SCT", "value": "91723000", "meaning": "Anatomical Structure"}
FILLED: dict[str, Any] = {
    "model.version": "1",
    "model.title": "Two parts",
    "model.licence": "MIT",
    "model.intended_use": "Tests.",
    "model.limits": ["Means nothing."],
    "inputs.ct.reference": True,
    "inputs.ct.accept.modality": ["CT"],
    "inputs.ct.accept.region": ["chest"],
    "output.kind": "labels",
    "output.inverse": "scores-linear",
    **{
        f"output.labels.{index}.{key}": value
        for index in (1, 2)
        for key, value in {"label": f"Part {index}", "kind": "organ", "category": ORGAN, "type": LUNG}.items()
    },
    "runtime.options.network": "UNet",
    "runtime.options.arguments": {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": [4, 8], "strides": [2]},
    "runtime.options.spacing_mm": [5.0, 5.0, 5.0],
    "runtime.options.orientation": "SPL",
    "runtime.options.intensity": {"low": -1000.0, "high": 400.0},
    "runtime.options.window": [32, 32, 32],
    "runtime.options.overlap": 0.25,
    "runtime.options.organ_channels": [0, 1, 2],
}


def state(folder: Path) -> dict[str, str]:
    """Give every file of a folder by its hash."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Give a pickled checkpoint of a network."""
    return networks.save(tmp_path / "Net_1.pth")


def test_a_checkpoint_becomes_a_draft_that_no_node_reads(tmp_path: Path, weights: Path) -> None:
    """The folder holds safetensors with its hash pinned and a draft; discovery sees nothing; reading it tells what is missing."""
    brought = shelf.bring(Wish(path=weights), tmp_path / "models")
    assert brought.folder == tmp_path / "models" / "net-1"
    assert sorted(state(brought.folder)) == ["card.draft.toml", "origin.json", "weights.safetensors"]
    assert brought.card["runtime"]["files"]["weights"]["sha256"] == state(brought.folder)["weights.safetensors"]
    assert cards.discover([tmp_path / "models"]) == {}
    assert list(shelf.drafts_in(tmp_path / "models")) == ["net-1"]
    with pytest.raises(BadCard, match=r"not filled in:\n(  .*\n)*  model\.licence: of network and weights"):
        shelf.as_card(brought.folder)


def test_filled_in_it_goes_on_the_shelf_and_loads(tmp_path: Path, weights: Path) -> None:
    """With every key said the draft is a card, whose digest stays when it is shelved, and whose network runs."""
    brought = shelf.bring(Wish(path=weights, values=FILLED), tmp_path / "models")
    assert brought.missing == ()
    digest = shelf.as_card(brought.folder).digest
    assert shelf.shelve(brought.folder).digest == digest
    shelved = cards.discover([tmp_path / "models"])["net-1"]
    assert shelved.digest == digest
    registry.load(shelved, "cpu")
    assert shelf.drafts_in(tmp_path / "models") == {}
    with pytest.raises(BadCard, match="on the shelf"):
        shelf.bring(Wish(path=weights, values={"model.licence": "GPL"}), tmp_path / "models")
    assert not shelf.bring(Wish(path=weights), tmp_path / "models").changed


def test_the_same_files_again_change_nothing(tmp_path: Path, weights: Path) -> None:
    """Bringing twice leaves every byte, also what a human has written meanwhile; values go into the draft that is there."""
    folder = shelf.bring(Wish(path=weights), tmp_path / "models").folder
    draft = folder / shelf.DRAFT
    draft.write_text(draft.read_text().replace("[model]", '[model]\nlicence = "BSD"'))
    before = state(folder)
    again = shelf.bring(Wish(path=weights), tmp_path / "models")
    assert (again.changed, state(folder)) == (False, before)
    assert again.card["model"]["licence"] == "BSD"
    more = shelf.bring(Wish(path=weights, values={"model.version": "2"}), tmp_path / "models")
    assert more.changed
    assert (more.card["model"]["licence"], more.card["model"]["version"]) == ("BSD", "2")
    assert not shelf.bring(Wish(path=weights, values={"model.version": "2"}), tmp_path / "models").changed


def test_other_files_are_refused_and_forced_only_as_a_draft(tmp_path: Path, weights: Path) -> None:
    """A changed checkpoint is named as such; forced, the old draft is kept; what is on the shelf is never overwritten."""
    folder = shelf.bring(Wish(path=weights, values=FILLED), tmp_path / "models").folder
    before = state(folder)
    networks.save(weights, networks.network(seed=8))
    with pytest.raises(BadCard, match="weights changed"):
        shelf.bring(Wish(path=weights), tmp_path / "models")
    assert state(folder) == before
    forced = shelf.bring(Wish(path=weights, values=FILLED, force=True), tmp_path / "models")
    assert state(folder)["card.draft.old.toml"] == before["card.draft.toml"]
    assert state(folder)["weights.safetensors"] != before["weights.safetensors"]
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["net-1"]
    shelf.shelve(forced.folder)
    networks.save(weights, networks.network(seed=9))
    with pytest.raises(BadCard, match="on the shelf"):
        shelf.bring(Wish(path=weights, force=True), tmp_path / "models")


def test_a_folder_of_somebody_elses_and_a_taken_name_are_left_alone(tmp_path: Path, weights: Path) -> None:
    """A folder that was not brought here is not touched; a name another model has, or that is none, is refused."""
    (tmp_path / "models" / "net-1").mkdir(parents=True)
    (tmp_path / "models" / "net-1" / "thesis.txt").write_text("years")
    with pytest.raises(BadCard, match="not by `models add`"):
        shelf.bring(Wish(path=weights, force=True), tmp_path / "models")
    assert sorted(state(tmp_path / "models" / "net-1")) == ["thesis.txt"]
    with pytest.raises(BadCard, match="another model is called"):
        shelf.bring(Wish(path=weights, name="chest-ct", taken={"chest-ct"}), tmp_path / "models")
    with pytest.raises(BadCard, match="no name of a model"):
        shelf.bring(Wish(path=weights, name="../up"), tmp_path / "models")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("model.licence", 3, "model.licence: must be text in quotes, not 3"),
        ("model.licens", "MIT", "model.licens: there is no such key; is licence meant?"),
        ("model.version", "1.0.0-rc1+build77", "model.version: may have at most 16 characters, not '1.0.0-rc1+build77'"),
        (
            "weather",
            "fine",
            "weather: there is no such key; there are schema_version, model, runtime, inputs, output, measurements, evaluation",
        ),
        ("output.kind", "pictures", "output.kind: must be 'labels', 'masks', 'boxes' or 'scores', not 'pictures'"),
        ("output.labels.1.cielab", [1, 2], "output.labels.1.cielab.2: is missing"),
        ("output.labels.1.threshold", 2, "output.labels.1.threshold: must be at most 1, not 2"),
        ("inputs.ct.accept.region", ["belly"], "inputs.ct.accept.region.0: must be 'head', 'neck', 'chest'"),
        ("inputs.ct.accept.regions", ["chest"], "inputs.ct.accept.regions: there is no such key; is region meant?"),
        ("inputs.ct.accept.spacing_mm", [3.0, 1.0], "the low end comes first"),
    ],
)
def test_a_wrong_value_is_refused_and_nothing_is_written(tmp_path: Path, weights: Path, key: str, value: Any, words: str) -> None:
    """A value of the wrong kind, an unknown key and a range upside down: the key by role and index, and what may stand there."""
    with pytest.raises(BadCard, match=re.escape(words)):
        shelf.bring(Wish(path=weights, values={**FILLED, key: value}), tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_checkpoint_with_code_leaves_no_folder(tmp_path: Path) -> None:
    """A whole pickled network is refused before anything is written."""
    torch.save(networks.network(), tmp_path / "whole.pt")
    with pytest.raises(BadCard, match="code in it"):
        shelf.bring(Wish(path=tmp_path / "whole.pt"), tmp_path / "models")
    assert not (tmp_path / "models").exists()
