"""A bundle's metadata becomes a draft: names, channels, roles and pins are read, codes are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from models import drafts
from models.card import BadCard
from models.shelving import keys
from tests.models.runtimes import bundles
from tests.models.runtimes.bundles import INFERENCE, METADATA, changed

STEPS = INFERENCE["postprocessing"]["transforms"]


def told(**parts: Any) -> dict[str, Any]:
    """Give metadata with a modality and more entries of the model zoo."""
    image = {**METADATA["network_data_format"]["inputs"]["image"], "modality": "CT"}
    return changed(METADATA, network_data_format__inputs__image=image, intended_use="Research only", copyright="Somebody", **parts)


def test_what_a_bundle_says_of_itself_is_read(tmp_path: Path) -> None:
    """Name, version, intended use, modality, classes and kind of output stand in the draft; licence and codes are asked for."""
    draft = drafts.inspect(bundles.write(tmp_path, metadata=told()))
    assert draft.format == "monai-bundle"
    assert draft.card["model"] == {"name": "lines", "version": "0.3.1", "title": "Lines", "intended_use": "Research only"}
    assert draft.card["inputs"] == [{"role": "ct", "reference": True, "accept": {"modality": ["CT"]}}]
    assert draft.card["output"] == {
        "kind": "labels",
        "inverse": "runtime",
        "labels": [{"index": 1, "label": "first organ"}, {"index": 2, "label": "second organ"}],
    }
    wanted = {entry.key: entry for entry in draft.missing}
    assert {"model.licence", "model.limits", "inputs.ct.accept.region", "output.labels.2.type"} <= set(wanted)
    assert "Somebody" in wanted["model.licence"].what
    assert all(keys.value(draft.card, key) is None for key in wanted)
    assert draft.notes == ("1 channels in, 3 out: 0 background, 1 first organ, 2 second organ",)


def test_every_file_that_is_read_is_pinned(tmp_path: Path) -> None:
    """Configuration and metadata keep their places; a pickled state dict becomes safetensors, TorchScript stays as it is."""
    bundles.write(tmp_path)
    files = drafts.inspect(tmp_path).files
    assert {name: source.place for name, source in files.items()} == {
        "metadata": "configs/metadata.json",
        "inference": "configs/inference.json",
        "weights": "models/model.safetensors",
    }
    assert [name for name, source in files.items() if source.pickled] == ["weights"]
    (tmp_path / "models/model.pt").unlink()
    torch.jit.save(torch.jit.script(torch.nn.Identity()), tmp_path / "models/model.ts")
    assert drafts.inspect(tmp_path).files["weights"].place == "models/model.ts"
    (tmp_path / "models/model.ts").unlink()
    with pytest.raises(BadCard, match=r"needs one of models/model\.safetensors"):
        drafts.inspect(tmp_path)


def test_contrasts_become_roles_in_the_order_of_the_channels(tmp_path: Path) -> None:
    """A bundle of four contrasts gets four roles named by its metadata, the first the reference, the others in its frame."""
    image = {"num_channels": 2, "spatial_shape": [32, 32, 32], "modality": "MR", "channel_def": {"0": "T1c", "1": "FLAIR"}}
    inference = changed(INFERENCE, network_def__in_channels=2)
    draft = drafts.inspect(bundles.write(tmp_path, inference, changed(METADATA, network_data_format__inputs__image=image)))
    assert [part["role"] for part in draft.card["inputs"]] == ["t1c", "flair"]
    assert [part.get("same_frame") for part in draft.card["inputs"]] == [None, True]
    assert draft.card["runtime"]["options"]["keys"] == {"image": ["t1c", "flair"]}


def test_classes_without_a_background_are_numbered_from_one(tmp_path: Path) -> None:
    """Where channel 0 is a class its label is 1, and the options say which channel each label is."""
    pred = {"num_channels": 3, "channel_def": {"0": "core", "1": "whole", "2": "edge"}}
    steps = [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        STEPS[1],
        {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5},
    ]
    inference = changed(INFERENCE, postprocessing__transforms=steps)
    draft = drafts.inspect(bundles.write(tmp_path, inference, changed(METADATA, network_data_format__outputs__pred=pred)))
    assert [part["index"] for part in draft.card["output"]["labels"]] == [1, 2, 3]
    assert draft.card["runtime"]["options"]["channels"] == {"1": 0, "2": 1, "3": 2}
    assert draft.card["output"]["kind"] == "masks"


def test_what_the_configuration_leaves_open_is_asked_for(tmp_path: Path) -> None:
    """Without Orientationd and Invertd the card must say how images were stored and how classes return; faults are told as notes."""
    steps = [step for step in INFERENCE["preprocessing"]["transforms"] if step["_target_"] != "Orientationd"]
    inference = changed(
        INFERENCE,
        preprocessing__transforms=steps,
        postprocessing__transforms=[STEPS[0], STEPS[2]],
        evaluator__prepare_batch="@x",
        network_def__act="$open('x')",
    )
    bundles.write(tmp_path, INFERENCE)
    (tmp_path / "configs/inference.json").write_text(bundles.json.dumps(inference))
    draft = drafts.inspect(tmp_path)
    wanted = {entry.key: entry.what for entry in draft.missing}
    assert "canonical order" in wanted["runtime.options.orientation"]
    assert "scores-linear" in wanted["output.inverse"]
    assert draft.notes[1].startswith("cannot be honoured: evaluator::prepare_batch")
    assert draft.notes[2].startswith("cannot be honoured: network_def::act")


def test_code_of_the_bundles_own_is_pinned_and_must_be_allowed(tmp_path: Path) -> None:
    """Where the network is a class of the bundle's own its files are pinned, and a human must say that they may run."""
    bundles.write(tmp_path)
    inference = changed(INFERENCE, network_def={"_target_": "scripts.net.Own"})
    (tmp_path / "configs/inference.json").write_text(bundles.json.dumps(inference))
    (tmp_path / "scripts/parts").mkdir(parents=True)
    for name in ("net.py", "parts/sizes.py"):
        (tmp_path / "scripts" / name).write_text("raise SystemExit\n")
    draft = drafts.inspect(tmp_path)
    assert [source.place for name, source in draft.files.items() if name.startswith("script_")] == [
        "scripts/net.py",
        "scripts/parts/sizes.py",
    ]
    assert "runtime.options.allow_scripts" in [entry.key for entry in draft.missing]


def test_a_bundle_whose_metadata_lacks_a_key_is_refused(tmp_path: Path) -> None:
    """Metadata without what is needed is told by the key."""
    with pytest.raises(BadCard, match="metadata: monai_version is missing"):
        drafts.inspect(bundles.write(tmp_path, metadata=changed(METADATA, monai_version=None)))
