"""The `overread` command, as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from node.archive import Archive
from tests import phantoms, shelf

ROOT = Path(__file__).parents[2]


def overread(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "overread", *arguments], capture_output=True, text=True, cwd=cwd, env=None, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a settings file, a model of the tests and a small chest CT."""
    home = tmp_path_factory.mktemp("site")
    shelf.put(home / "models")
    phantoms.thorax(home / "study")
    text = f'[node]\nport = 1\ndata_dir = "{home / "data"}"\nfree_disk_min_mb = 1\n[models]\ndir = "{home / "models"}"\nstarters = false\n'
    (home / "overread.toml").write_text(text, encoding="utf-8")
    return home


def test_help_is_instant() -> None:
    """`overread --help` imports none of the heavy libraries."""
    heavy = ("torch", "pydicom", "numpy", "celery", "sqlalchemy")
    code = f"import sys; from overread import cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
    assert "rules" in overread("--help").stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [("[node]\nport = 99999\n", ":2"), ("[node\n", "not valid TOML"), ("[nodes]\n", "nodes"), (None, "cannot read the settings file")],
)
def test_a_wrong_setting_is_one_clear_line_and_exit_code_2(tmp_path: Path, text: str | None, words: str) -> None:
    """A bad settings file gives the place and the fault, and no traceback."""
    path = tmp_path / "overread.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    done = overread("status", "--config", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith("overread: ")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_card_stops_up_with_its_reason(tmp_path: Path) -> None:
    """`overread up` does not restart for ever over a card that cannot be read."""
    home = shelf.put(tmp_path / "models")
    card = home / "two-parts" / "card.toml"
    card.write_text(card.read_text(encoding="utf-8").replace("overlap", "overlop"), encoding="utf-8")
    card.write_text(card.read_text(encoding="utf-8").replace('kind = "labels"', 'kind = "label"'), encoding="utf-8")
    config = tmp_path / "overread.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path / "data"}"\n[models]\ndir = "{home}"\n', encoding="utf-8")
    done = overread("up", "--config", str(config))
    assert done.returncode == 2
    assert "output.kind" in done.stderr


def test_check_says_what_to_do_for_each_fault(site: Path) -> None:
    """Without a running node, broker, listener and peers fail, each with a remedy; the rest holds; exit code 1."""
    done = overread("check", "--json", "--config", str(site / "overread.toml"))
    checks = {entry["name"]: entry for entry in json.loads(done.stdout)["checks"]}
    assert done.returncode == 1
    assert [name for name, entry in checks.items() if not entry["holds"]] == ["broker", "listener", "peers"]
    assert all(entry["remedy"] for entry in checks.values() if not entry["holds"])
    assert "-> start `overread up`" in overread("check", "--config", str(site / "overread.toml")).stdout


def test_check_sees_weights_that_are_not_the_cards(site: Path, tmp_path: Path) -> None:
    """A model whose weights were changed fails its hash."""
    home = shelf.put(tmp_path / "models")
    (home / "two-parts" / "weights.safetensors").write_bytes(b"other")
    config = tmp_path / "overread.toml"
    text = (site / "overread.toml").read_text(encoding="utf-8")
    config.write_text(text.replace(str(site / "models"), str(home)).replace(str(site / "data"), str(tmp_path / "data")), encoding="utf-8")
    done = overread("check", "--json", "--config", str(config))
    model = next(entry for entry in json.loads(done.stdout)["checks"] if entry["name"] == "model two-parts")
    assert not model["holds"]
    assert "sha256" in model["detail"]


def test_rules_explain_tells_which_model_takes_what(site: Path, tmp_path: Path) -> None:
    """A folder's series is taken with its image count, or not with a reason."""
    done = overread("rules", "explain", str(site / "study"), "--json", "--config", str(site / "overread.toml"))
    (answer,) = json.loads(done.stdout)["studies"]
    assert [(entry["roles"], entry["images"]) for entry in answer["taken"]] == [(["ct"], 44)]
    phantoms.write_tiny(tmp_path / "xray", phantoms.Tiny(modality="CR"))
    done = overread("rules", "explain", str(tmp_path / "xray"), "--json", "--config", str(site / "overread.toml"))
    (answer,) = json.loads(done.stdout)["studies"]
    assert done.returncode == 1
    assert "CR" in answer["declined"][0]["reason"]


def test_models_run_writes_seg_and_sr_without_a_node(site: Path, tmp_path: Path) -> None:
    """`overread models run` gives the objects' files and the summary."""
    done = overread(
        "models", "run", "two-parts", str(site / "study"), "--out", str(tmp_path), "--json", "--config", str(site / "overread.toml")
    )
    facts = json.loads(done.stdout)
    names = [Path(path).name for path in facts["files"]]
    assert (names[0], names[-1]) == ("01-seg.dcm", f"{len(names):02d}-sr.dcm")
    assert all(Path(path).read_bytes()[128:132] == b"DICM" for path in facts["files"])
    assert "44 of 44 images" in facts["summary"]


def test_models_run_writes_the_profile_it_is_told(site: Path, tmp_path: Path) -> None:
    """`--profile basic` has no SEG; a profile that nobody has is named in the error."""
    command = ("models", "run", "two-parts", str(site / "study"), "--out", str(tmp_path), "--json", "--config", str(site / "overread.toml"))
    kinds = [Path(path).stem.split("-")[1] for path in json.loads(overread(*command, "--profile", "basic").stdout)["files"]]
    assert "seg" not in kinds
    assert kinds[-1] == "sr"
    done = overread(*command, "--profile", "nobodys")
    assert done.returncode != 0
    assert "nobodys" in done.stdout + done.stderr


def test_models_list_and_an_unknown_name(site: Path) -> None:
    """The shelf is listed; an unknown name is told the known ones."""
    done = overread("models", "list", "--json", "--config", str(site / "overread.toml"))
    assert [entry["name"] for entry in json.loads(done.stdout)["models"]] == ["two-parts"]
    done = overread("models", "show", "no-such", "--config", str(site / "overread.toml"))
    assert (done.returncode, done.stderr) == (2, "overread: no model is named 'no-such'; there are two-parts\n")
    assert "Means nothing." in overread("models", "show", "two-parts", "--config", str(site / "overread.toml")).stdout


def test_send_stores_a_folder_and_counts_what_was_refused(site: Path, tmp_path: Path) -> None:
    """Every file arrives byte for byte; a peer that is not there and a bad address are one line and exit code 2."""
    with Archive(tmp_path, "PACS") as archive:
        done = overread("send", str(site / "study"), f"PACS@127.0.0.1:{archive.port}")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("44 of 44 files stored")
        held = archive.holdings.all()
        assert len(held) == 44
        port = archive.port
    for address in (f"PACS@127.0.0.1:{port}", "PACS", "PACS@host:0"):
        done = overread("send", str(site / "study"), address)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("overread: ")


def test_status_of_an_unknown_study_is_exit_code_1(site: Path) -> None:
    """A study the ledger does not know is said so; the overview is always there."""
    assert overread("status", "--study", "1.2.3", "--config", str(site / "overread.toml")).returncode == 1
    done = overread("status", "--json", "--config", str(site / "overread.toml"))
    assert json.loads(done.stdout)["jobs"]["WRITTEN"] == 0
