"""Proof by count with an archive that others wrote: Orthanc grows, pauses, loses and repeats; its own C-FIND counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from node.ledger import Ledger
from node.settings import Peer
from node.study import RevisionState
from tests.node import proving
from tests.node.conftest import Clock
from tests.node.proving import SLICES, Chest, Site
from tests.real.orthanc import Orthanc, orthanc

pytestmark = pytest.mark.real


@dataclass(frozen=True, kw_only=True)
class Pacs:
    """A node on a clock of the test's own, and an Orthanc that sends when it is told to."""

    orthanc: Orthanc
    place: Site
    sent: set[str] = field(default_factory=set)

    def route(self, study_uid: str, count: int | None = None) -> None:
        """Let Orthanc send so many (none: all) of the images that it has not sent."""
        due = sorted(set(self.orthanc.find(study_uid)) - self.sent)[:count]
        self.orthanc.call("/modalities/overread/store", {"Resources": due, "Synchronous": True})
        self.sent.update(due)


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    """Run one node and one Orthanc for this file; each test has a study of its own."""
    folder, clock = tmp_path_factory.mktemp("proof"), Clock()
    ledger = Ledger("sqlite", folder / "data", clock)
    unknown = Peer(name="archive", ae_title="ORTHANC", host="127.0.0.1", port=1, query=True)
    with (
        proving.node(ledger, clock, (unknown,)) as place,
        orthanc(folder / "orthanc", node_port=place.listener.port, extra={"LuaScripts": []}) as archive,
    ):
        proving.with_peer(place, port=archive.dicom_port)
        yield Pacs(orthanc=archive, place=place)
    ledger.close()


def chest(pacs: Pacs, folder: Path, count: int = SLICES) -> Chest:
    """Import a chest CT into Orthanc."""
    made = Chest().write(folder, count)
    pacs.orthanc.upload(list(made.files))
    return made


def analysed(pacs: Pacs, study_uid: str) -> list[int]:
    """Give how many images each result of the study is of."""
    return [sum(map(len, job.inputs.values())) for job in pacs.place.written(study_uid)]


def test_orthanc_s_counts_prove_a_study(pacs: Pacs, tmp_path: Path) -> None:
    """Two equal counts by C-FIND, and the study is analysed whole."""
    study = chest(pacs, tmp_path).study
    pacs.route(study)
    pacs.place.live(40)
    (revision,) = pacs.place.revisions(study)
    assert (revision.state, (revision.evidence or {})["proof"]) == (RevisionState.PLANNED, "count")
    assert analysed(pacs, study) == [SLICES]


def test_a_pause_longer_than_the_quiet_time_is_waited_out(pacs: Pacs, tmp_path: Path) -> None:
    """Orthanc says that it has more, whatever the order in which it sends."""
    study = chest(pacs, tmp_path).study
    for count in (7, 9, None):
        assert analysed(pacs, study) == []
        pacs.route(study, count)
        pacs.place.live(60)
    assert [entry.state for entry in pacs.place.revisions(study)] == [RevisionState.PLANNED]
    assert analysed(pacs, study) == [SLICES]


def test_growth_between_hint_and_proof_is_noticed(pacs: Pacs, tmp_path: Path) -> None:
    """What was equal once is equal no more: one revision, one result, of everything."""
    made = chest(pacs, tmp_path, SLICES - 4)
    pacs.route(made.study)
    pacs.place.live(15)
    pacs.orthanc.upload(list(made.write(tmp_path, 4, first=SLICES - 3).files))
    pacs.place.live(30)
    assert analysed(pacs, made.study) == []
    pacs.route(made.study)
    pacs.place.live(40)
    assert [entry.state for entry in pacs.place.revisions(made.study)] == [RevisionState.PLANNED]
    assert analysed(pacs, made.study) == [SLICES]


def test_a_series_sent_twice_has_one_result(pacs: Pacs, tmp_path: Path) -> None:
    """While it is received and after it was analysed."""
    study = chest(pacs, tmp_path).study
    for seconds in (5, 60, 60):
        pacs.sent.difference_update(pacs.orthanc.find(study))
        pacs.route(study)
        pacs.place.live(seconds)
    assert [entry.state for entry in pacs.place.revisions(study)] == [RevisionState.PLANNED]
    assert analysed(pacs, study) == [SLICES]


def test_ten_lost_slices_are_counted_or_fetched(pacs: Pacs, tmp_path: Path) -> None:
    """Without retrieval the reason counts them; with it the node gets them itself."""
    lost, fetched = chest(pacs, tmp_path / "lost").study, chest(pacs, tmp_path / "fetched").study
    pacs.route(lost, SLICES - 10)
    pacs.place.live(330)
    (revision,) = pacs.place.revisions(lost)
    assert revision.state is RevisionState.DECLINED
    assert revision.reason == f"archive has {SLICES} images of series 3, {SLICES - 10} came; send the missing images"
    proving.with_peer(pacs.place, retrieve="c-get")
    pacs.route(fetched, SLICES - 10)
    pacs.place.live(60)
    pacs.place.live(60)
    assert [entry.state for entry in pacs.place.revisions(fetched)] == [RevisionState.PLANNED]
    assert analysed(pacs, fetched) == [SLICES]
    assert analysed(pacs, lost) == []


def test_late_images_after_the_proof_make_a_second_result(pacs: Pacs, tmp_path: Path) -> None:
    """A study that grew when all was done: revision 2, of everything; its growth was news to Orthanc too."""
    made = chest(pacs, tmp_path, SLICES - 4)
    pacs.route(made.study)
    pacs.place.live(40)
    pacs.orthanc.upload(list(made.write(tmp_path, 4, first=SLICES - 3).files))
    pacs.route(made.study)
    pacs.place.live(60)
    assert [entry.number for entry in pacs.place.revisions(made.study)] == [1, 2]
    assert SLICES in analysed(pacs, made.study)
