"""Bringing a model from the command line: add, show, check, shelve."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from models.shelving import shelf, writing
from tests.models import networks
from tests.models.test_shelf import FILLED
from tests.overread.front import overread

NAMED = {"output.labels.1.label": "kidney_left", "output.labels.2.label": "Tumor thing"}
SAID = {key: value for key, value in FILLED.items() if not key.startswith("output.labels")} | NAMED


def sets(values: dict[str, object]) -> list[str]:
    """Give the words of --set."""
    return [word for key, value in values.items() for word in ("--set", f"{key}={writing.value(value)}")]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a site with a settings file and a checkpoint, and a wide terminal."""
    monkeypatch.setenv("COLUMNS", "160")
    text = f'[node]\ndata_dir = "{tmp_path / "data"}"\n[models]\ndir = "{tmp_path / "models"}"\nstarters = false\n'
    (tmp_path / "overread.toml").write_text(text, encoding="utf-8")
    networks.save(tmp_path / "net.pth")
    return tmp_path


def test_from_a_checkpoint_to_the_shelf(site: Path) -> None:
    """Added, it lacks keys and says which; filled in, it is checked; only told to does it go on the shelf."""
    config = ("--config", str(site / "overread.toml"))
    added = overread("models", "add", str(site / "net.pth"), *config)
    assert added.code == 0, added.error
    assert "model.licence" in added.out
    assert "overread models check net" in added.out
    lacking = overread("models", "show", "net", "--json", *config)
    assert (lacking.code, "model.licence" in json.loads(lacking.out)["missing"]) == (1, True)
    assert "16 keys to fill in" in overread("models", "list", *config).out
    early = overread("models", "check", "net", *config)
    assert (early.code, early.out) == (2, "")
    assert "not filled in:\n  model.version: " in early.error
    filled = overread("models", "add", str(site / "net.pth"), "--json", *sets(FILLED), *config)
    assert json.loads(filled.out)["missing"] == {}
    checked = overread("models", "check", "net", "--json", *config)
    assert (checked.code, json.loads(checked.out)["draft"]) == (0, True)
    assert [trial["study"] for trial in json.loads(checked.out)["trials"]] == ["empty", "body"]
    assert json.loads(overread("models", "list", "--json", *config).out) == {
        "models": [],
        "drafts": [{"name": "net", "folder": str(site / "models" / "net"), "missing": []}],
    }
    assert overread("models", "check", "net", "--shelve", *config).code == 0
    shown = json.loads(overread("models", "list", "--json", *config).out)
    (listed,) = shown["models"]
    assert shown["drafts"] == []
    assert listed["digest"] == json.loads(checked.out)["digest"]
    assert "FILL IN" not in (site / "models" / "net" / "card.toml").read_text()


def test_hints_lead_to_the_same_draft(site: Path) -> None:
    """Brought under another name to another place, what is said to do next says both; list and show find it there."""
    config, place = ("--config", str(site / "overread.toml")), site / "m[od]els"
    added = overread("models", "add", str(site / "net.pth"), "--name", "two", "--dir", str(place), *config)
    assert f"overread models add {site / 'net.pth'} --name two --dir {place} --set " in added.out
    assert f"overread models check two --dir {place}" in added.out
    assert str(place / "two") in added.out
    assert "two: a draft" in overread("models", "list", "--dir", str(place), *config).out
    assert "two: a draft" not in overread("models", "list", *config).out
    shown = overread("models", "show", "two", "--json", "--dir", str(place), *config)
    assert (shown.code, json.loads(shown.out)["draft"]) == (1, True)


def test_a_network_that_does_not_fit_its_card_fails_the_check(site: Path) -> None:
    """Weights of three channels under a card of one label are refused at check, with the channels, and nothing is shelved."""
    config = ("--config", str(site / "overread.toml"))
    wrong = {**FILLED, "runtime.options.arguments": {**FILLED["runtime.options.arguments"], "out_channels": 4}}
    assert overread("models", "add", str(site / "net.pth"), *sets(wrong), *config).code == 0
    checked = overread("models", "check", "net", "--shelve", *config)
    assert checked.code == 2
    assert "channels" in checked.error
    assert str(site / "models" / "net" / "card.draft.toml") in checked.error
    assert not (site / "models" / "net" / "card.toml").exists()


def test_codes_are_proposed_and_taken_only_when_confirmed(site: Path) -> None:
    """A label's name finds its code and side in DICOM's list; it stands in a comment until a human confirms; a strange name finds none."""
    config = ("--config", str(site / "overread.toml"))
    words = ["models", "add", str(site / "net.pth"), *config, "--json"]
    proposed = json.loads(overread(*words, *sets(SAID)).out)
    assert tomllib.loads("value = " + proposed["proposals"]["output.labels.1.type"])["value"] == {
        "scheme": "SCT",
        "value": "64033007",
        "meaning": "Kidney",
    }
    assert not [key for key in proposed["proposals"] if key.startswith("output.labels.2")]
    assert "output.labels.1.type" in proposed["missing"]
    draft = site / "models" / "net" / shelf.DRAFT
    assert '# type = { scheme = "SCT", value = "64033007", meaning = "Kidney" }' in draft.read_text()
    taken = json.loads(overread(*words, "--confirm-codes").out)
    assert [key for key in taken["missing"] if key.startswith("output.labels.1")] == []
    assert [key.rpartition(".")[2] for key in taken["missing"]] == ["kind", "category", "type"]
    label = tomllib.loads(draft.read_text())["output"]["labels"][0]
    assert (label["kind"], label["laterality"]["meaning"]) == ("organ", "Left")


def test_a_code_file_fills_labels_by_name(site: Path) -> None:
    """A site's own list of what its labels are is taken; a name that is no label is an error."""
    config = ("--config", str(site / "overread.toml"))
    codes = site / "codes.toml"
    codes.write_text('[tumor_THING]\nkind = "finding"\n'.replace("_THING", "-thing"))
    words = ["models", "add", str(site / "net.pth"), *config, "--json", *sets(SAID), "--codes", str(codes)]
    said = overread(*words)
    assert (said.code, "is no label of this model" in said.error) == (2, True)
    codes.write_text('["tumor THING"]\nkind = "finding"\n')
    overread(*words)
    assert tomllib.loads((site / "models" / "net" / shelf.DRAFT).read_text())["output"]["labels"][1]["kind"] == "finding"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--set", "model.licence"], "write KEY=VALUE"),
        (["--set", "model.limits=[1"], "is no TOML value"),
        (["--set", "model..licence=MIT"], "is no key of a card"),
        (["--name", "Net"], "is no name of a model"),
    ],
)
def test_wrong_words_are_one_clear_line(site: Path, words: list[str], error: str) -> None:
    """A key without a value, half a list, an empty part and a wrong name each end in exit code 2 with the reason."""
    said = overread("models", "add", str(site / "net.pth"), *words, "--config", str(site / "overread.toml"))
    assert (said.code, said.out) == (2, "")
    assert error in said.error


def test_without_a_folder_for_models_it_asks_for_one(site: Path) -> None:
    """No [models] dir and no --dir is said with both remedies; --dir alone is enough."""
    (site / "overread.toml").write_text(f'[node]\ndata_dir = "{site / "data"}"\n')
    said = overread("models", "add", str(site / "net.pth"), "--config", str(site / "overread.toml"))
    assert (said.code, "--dir" in said.error) == (2, True)
    words = ("models", "add", str(site / "net.pth"), "--dir", str(site / "here"), "--config", str(site / "overread.toml"))
    assert overread(*words).code == 0
    assert (site / "here" / "net" / shelf.DRAFT).is_file()
    assert "another model is called" in overread(*words, "--name", "chest-ct").error


def test_a_slip_in_a_draft_is_told_and_hides_nothing(site: Path) -> None:
    """A draft that is no TOML any more is named with its line by list and show; the other models are listed."""
    config = ("--config", str(site / "overread.toml"))
    overread("models", "add", str(site / "net.pth"), *config)
    (site / "models" / "net" / shelf.DRAFT).write_text("schema_version = \n")
    listed = overread("models", "list", *config)
    assert (listed.code, "line 1" in listed.out) == (0, True)
    shown = overread("models", "show", "net", *config)
    assert (shown.code, "line 1" in shown.error) == (2, True)


def test_show_tells_a_changed_file(site: Path) -> None:
    """The card in full, and of each file whether it is the pinned one; exit code 1 where it is not."""
    config = ("--config", str(site / "overread.toml"))
    overread("models", "add", str(site / "net.pth"), *sets(FILLED), *config)
    shown = overread("models", "show", "net", *config)
    assert shown.code == 0
    for words in ("Two parts", "Means nothing.", "modality: CT", "SCT 39607008 Lung", "state-dict", "nothing can be claimed", "ok"):
        assert words in shown.out
    (site / "models" / "net" / "weights.safetensors").write_bytes(b"other")
    shown = overread("models", "show", "net", "--json", *config)
    assert (shown.code, "has sha256" in json.loads(shown.out)["files"]["weights"]) == (1, True)
    checked = overread("models", "check", "net", "--shelve", *config)
    assert (checked.code, "has sha256" in checked.error) == (2, True)


class Endless(torch.nn.Module):
    """A network that never answers."""

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add zeros for ever."""
        while bool(tensor.sum() < 1):
            tensor = tensor * 0
        return tensor


def test_a_check_of_a_network_that_hangs_ends(site: Path) -> None:
    """Past its time a check says how far it was, as one JSON object too, ends with exit code 1, and shelves nothing."""
    torch.jit.script(Endless()).save(str(site / "net.ts"))  # type: ignore[no-untyped-call]
    config = ("--config", str(site / "overread.toml"))
    values = {key: value for key, value in FILLED.items() if key not in {"runtime.options.network", "runtime.options.arguments"}}
    added = overread("models", "add", str(site / "net.ts"), *sets(values), *config)
    assert added.code == 0, added.error
    words = [sys.executable, "-m", "overread", "models", "check", "net", "--shelve", "--within", "1", *config, "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert (told["holds"], told["draft"], told["trials"]) == (False, True, [])
    assert re.search(r"after 1 s \(\d+ s of processor time\) while it was loaded", told["stopped"])
    assert not (site / "models" / "net" / "card.toml").exists()
