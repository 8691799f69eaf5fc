"""`overread held`, as a technologist meets it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node import audit
from node.ledger import holds as rows
from node.ledger import instances, open_ledger, revisions
from node.ledger.holds import Finding
from node.settings import load
from node.study import RevisionState
from tests.node import work
from tests.overread.test_cli import overread


@pytest.fixture
def config(tmp_path: Path) -> str:
    """Give a node's settings file, and one study that is held there."""
    path = tmp_path / "overread.toml"
    path.write_text(f'[node]\ndata_dir = "{tmp_path / "data"}"\n', encoding="utf-8")
    ledger = open_ledger(load(path))
    instances.index(ledger, work.slices(3, header={"PatientName": "Qvortrup^Zebediah"}))
    finding = Finding(kind="patients", key="k", reason="the study holds images of 2 patient IDs")
    assert rows.hold(ledger, work.freeze(ledger), [finding], lambda: None)
    ledger.close()
    return str(path)


def state(config: str) -> RevisionState:
    """Give the state of the study's revision."""
    ledger = open_ledger(load(Path(config)))
    try:
        return revisions.of_study(ledger, "1.2.3")[-1].state
    finally:
        ledger.close()


def test_what_is_held_is_listed_with_its_reason_and_what_to_do(config: str) -> None:
    """For eyes and as JSON."""
    shown = overread("held", "list", "--config", config)
    assert shown.returncode == 0, shown.stderr
    assert "1.2.3 revision 1, held since" in shown.stdout
    assert "the study holds images of 2 patient IDs" in shown.stdout
    (told,) = json.loads(overread("held", "list", "--config", config, "--json").stdout)["held"]
    assert (told["study"], told["revision"], told["kinds"]) == ("1.2.3", 1, ["patients"])


def test_a_release_is_done_once_and_leaves_its_trace(config: str) -> None:
    """The second time there is nothing to release: one line, exit code 2."""
    word = ("1.2.3", "--by", "A. Clerk", "--because", "a typing error", "--config", config)
    done = overread("held", "release", *word)
    assert done.stdout == "revision 1 goes on as it is; overread status --study 1.2.3\n"
    assert state(config) is RevisionState.COMPLETE
    (line,) = audit.read(load(Path(config)).data_dir)
    assert line["EventIdentification"]["EventTypeCode"]["csd-code"] == "hold released"
    again = overread("held", "release", *word)
    assert (again.returncode, again.stderr) == (2, "overread: no revision of this study is held; overread held list shows those that are\n")
    assert "was RELEASED by A. Clerk: a typing error" in overread("status", "--study", "1.2.3", "--config", config).stdout


def test_a_drop_needs_a_name_and_a_reason_without_the_patient(config: str) -> None:
    """What is refused changes nothing; what is done is told."""
    assert overread("held", "drop", "1.2.3", "--config", config).returncode == 2
    quoting = overread("held", "drop", "1.2.3", "--by", "A. Clerk", "--because", "Qvortrup came twice", "--config", config)
    assert quoting.returncode == 2
    assert "quotes the patient's data (PatientName)" in quoting.stderr
    assert "Qvortrup" not in quoting.stderr
    assert state(config) is RevisionState.HELD
    done = overread("held", "drop", "1.2.3", "--by", "A. Clerk", "--because", "sent again", "--config", config, "--json")
    assert json.loads(done.stdout) == {"study": "1.2.3", "revision": 1, "outcome": "DROPPED"}
    assert state(config) is RevisionState.DECLINED
    assert overread("held", "list", "--config", config).stdout == "nothing is held\n"
