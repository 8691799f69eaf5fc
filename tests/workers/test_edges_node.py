"""Every real odd file on the way through the node: received or refused, planned or held, prepared or declined; each with a reason.

The tables are exact, as in test_edges.py: what ends otherwise shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
import sqlalchemy as sa

from node import holds
from node.dispatch import Dispatcher
from node.errors import Refused
from node.ledger import Ledger, instances, jobs, revisions
from node.ledger.schema import JOBS, REVISIONS
from node.part10 import read_meta
from node.settings import Settings
from node.spool import Spool, StoreCommand, read_instance
from node.study import JobState, RevisionState, Stage
from tests.workers.test_edges import files_of
from workers import tasks

# What takes everything that can be an image: nothing but the node's own judgement stands between a file and a result.
CARD = """
schema_version = 1
[model]
name = "anything"
version = "1"
title = "Anything"
licence = "Apache-2.0"
intended_use = "Tests."
limits = ["Means nothing."]
[runtime]
format = "state-dict"
[[inputs]]
role = "image"
reference = true
accept = { modality = MODALITIES, image_type_none = [] }
[output]
kind = "labels"
inverse = "runtime"
[[output.labels]]
index = 1
label = "Part"
kind = "organ"
category = { scheme = "SCT", value = "123037004", meaning = "Anatomical Structure" }
type = { scheme = "SCT", value = "39607008", meaning = "Lung" }
cielab = [69, -24, -21]
"""
MODALITIES = ["CR", "CT", "DR", "DX", "ECG", "MG", "MR", "NM", "OT", "PT", "RF", "RTDOSE", "SC", "SEG", "SR", "US", "XA", "XC"]
KEPT, BESIDE, REFUSED = "kept", "kept beside another of its UID", "refused"
# Of each folder's files and studies: how many. The TotalSegmentator examples but one are NIfTI files, no DICOM.
ENDS: dict[str, dict[str, int]] = {
    "abdomen_ct_totalseg": {REFUSED: 136},
    "body_ct_totalseg_dicom": {KEPT: 20, REFUSED: 2, "prepared": 1},
    "chest_cta_totalseg": {REFUSED: 13},
    "ct_slices_small": {KEPT: 24, BESIDE: 19, REFUSED: 1, "held": 1, "declined in routing": 1, "declined in prepare": 4, "prepared": 1},
    "edge_fodicom": {KEPT: 39, BESIDE: 5, REFUSED: 23, "held": 3, "declined in routing": 3, "declined in prepare": 30, "prepared": 4},
    "edge_pydicom_data": {KEPT: 41, BESIDE: 26, REFUSED: 11, "held": 7, "declined in routing": 1, "declined in prepare": 18, "prepared": 1},
    "edge_wg04_ct_mr_us": {KEPT: 38, REFUSED: 6, "declined in prepare": 11},
    "head_ct_ge_tilt": {KEPT: 28, REFUSED: 1, "declined in prepare": 1},
    "mr_t1_sag_anon": {KEPT: 192, REFUSED: 1, "prepared": 1},
    "seg_dcmqi_liver": {KEPT: 6, BESIDE: 1, REFUSED: 12, "held": 1, "declined in routing": 1, "prepared": 1},
}


@dataclass
class Node:
    """A node that has received a folder."""

    ledger: Ledger
    dispatcher: Dispatcher
    received: Counter[str]

    def settle(self) -> None:
        """Plan what is complete, with looks at files where they are needed."""
        for _ in range(3):
            self.dispatcher.step()
            self.dispatcher.wait()

    def rows(self, table: sa.Table) -> Sequence[sa.Row[Any]]:
        """Give every row of a table."""
        with self.ledger.reading() as connection:
            return connection.execute(sa.select(table)).all()


@pytest.fixture
def node(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Receive every file of a folder as the listener does, and complete every study."""
    home = tmp_path / "models" / "anything"
    home.mkdir(parents=True)
    (home / "card.toml").write_text(CARD.replace("MODALITIES", str(MODALITIES)))
    site = tasks.Site()
    site.settings = Settings.model_validate({
        "node": {"data_dir": str(tmp_path / "data")}, "broker": {"url": "redis://127.0.0.1:1/0"},
        "models": {"dir": str(tmp_path / "models"), "starters": False},
    })  # fmt: skip
    monkeypatch.setattr(tasks, "SITE", site)
    monkeypatch.setattr(tasks, "BACK_OFF_S", (0.0,))
    ledger = site.context.ledger
    received = Counter(_receive(ledger, path, tmp_path) for path in files_of(request.param))
    dispatcher = Dispatcher(site.settings, ledger, site.context.cards)
    place = Node(ledger, dispatcher, received)
    for row in place.rows(REVISIONS):
        assert revisions.complete(ledger, revisions.of_row(row), {"said": "no arrival"})
    place.settle()
    yield place
    dispatcher.close()
    ledger.close()


def _receive(ledger: Ledger, path: Path, home: Path) -> str:
    """Store one file as a sender that reads its UIDs from it would send it; give what became of it."""
    path = _identified(path, home) if path.parent.name == "example_ct_dicom" else path
    data = path.read_bytes()
    try:
        entry = read_instance(path)
        _, start = read_meta(data)
        command = StoreCommand(
            sop_class_uid=entry.sop_class_uid, sop_instance_uid=entry.sop_instance_uid, transfer_syntax_uid=entry.transfer_syntax_uid,
            calling_ae="EDGES", called_ae="OVERREAD", peer_host="127.0.0.1",
        )  # fmt: skip
        stored = Spool(ledger.data_dir).store(command, data[start:])
    except Refused as refused:
        return REFUSED if refused.reason else "refused without a reason"
    instances.index(ledger, [stored.instance])
    return BESIDE if stored.conflict else KEPT


def _identified(path: Path, home: Path) -> Path:
    """Fill in the UIDs that the publisher emptied, without which nobody can send the file."""
    image = pydicom.dcmread(path)
    image.SOPClassUID, image.SOPInstanceUID = image.file_meta.MediaStorageSOPClassUID, image.file_meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = "2.25.7", "2.25.71", "2.25.72"
    image.save_as(home / "identified.dcm")
    return home / "identified.dcm"


@pytest.mark.parametrize("node", ENDS, indirect=True)
def test_every_real_file_ends_somewhere_with_a_reason(
    node: Node, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused at the door, held until released, declined, or prepared: never failed, never tried again, never in between."""
    ends = node.received
    for row in node.rows(REVISIONS):
        assert row.state == RevisionState.PLANNED or row.reason
        if row.state == RevisionState.HELD:
            ends["held"] += 1
            holds.release(node.ledger, row.study_instance_uid, "a tester", "it is odd on purpose")
    node.settle()
    for job in jobs.queued(node.ledger, limit=1000):
        tasks.prepare(job.job_id)
    for row in node.rows(REVISIONS):
        assert row.state in {RevisionState.PLANNED, RevisionState.DECLINED}
        ends["declined in routing"] += row.state == RevisionState.DECLINED
    for row in node.rows(JOBS):
        prepared = (row.state, row.stage) == (JobState.QUEUED, Stage.INFER)
        assert prepared or (row.state == JobState.DECLINED and row.reason), (row.state, row.reason)
        ends["prepared" if prepared else "declined in prepare"] += 1
    assert +ends == Counter(ENDS[request.node.callspec.params["node"]])
    said = capsys.readouterr()
    assert "broke" not in said.out + said.err  # what the journal says of an error that nobody thought of
