"""Proof by count: never analysed early, never stuck, one result set a revision, whatever the archive does."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node import holds
from node.archive import Archive, Faults
from node.ledger import Ledger, jobs
from node.proof import whom
from node.settings import Peer
from node.study import JobState, RevisionState, Stage
from tests.node import proving
from tests.node.conftest import Clock
from tests.node.proving import SLICES, Chest, Site
from tests.real.processes import free_port


@pytest.fixture
def place(tmp_path: Path, ledger: Ledger, clock: Clock) -> Iterator[Site]:
    """Run an archive and a node that asks it."""
    with proving.site(tmp_path, ledger, clock) as running:
        yield running


def only(place: Site, study_uid: str) -> Any:
    """Give the study's only revision."""
    (revision,) = place.revisions(study_uid)
    return revision


def test_a_study_is_complete_when_two_counts_agree(place: Site, tmp_path: Path) -> None:
    """After the quiet time and two equal counts, ten seconds apart; the evidence says whose and of how many series."""
    chest = Chest().write(tmp_path / "files").into(place.archive)
    place.archive.forward(chest.study, "OVERREAD")
    place.live(19)
    assert only(place, chest.study).state is RevisionState.RECEIVING
    place.live(4)
    done = only(place, chest.study)
    assert done.state is RevisionState.PLANNED
    assert done.evidence["proof"] == "count"
    assert "archive counts as many images as came in 1 of 1 series, twice" in done.evidence["said"]
    (series,) = done.evidence["series"].values()
    assert (series["here"], series["there"], series["standing"]) == (SLICES, SLICES, "proved")
    assert place.analysed == [SLICES]


def test_on_a_hint_the_study_is_prepared_and_no_further(place: Site, tmp_path: Path) -> None:
    """The prepared job is the one that goes on after the proof: its preparation is not done twice."""
    chest = Chest().write(tmp_path / "files").into(place.archive)
    place.archive.forward(chest.study, "OVERREAD")
    place.live(15)
    assert only(place, chest.study).state is RevisionState.RECEIVING
    assert len(place.prepared) == 1
    ahead = jobs.get(place.ledger, place.prepared[0])
    assert (ahead.provisional, ahead.state, ahead.stage) == (True, JobState.QUEUED, Stage.INFER)
    assert jobs.claim(place.ledger, ahead.job_id, Stage.INFER, 8) is None
    assert place.analysed == []
    place.live(10)
    assert [job.job_id for job in place.written(chest.study)] == place.prepared
    assert not jobs.get(place.ledger, ahead.job_id).provisional


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(Faults(pause_after=12, pause_s=90), id="pauses within a series"),
        pytest.param(Faults(shuffled=True, pause_after=20, pause_s=90), id="pauses, in no order"),
        pytest.param(Faults(twice=True, pause_after=12, pause_s=90), id="sends the series twice"),
        pytest.param(Faults(twice=True, pause_after=SLICES + 4, pause_s=90), id="sends it again after it was analysed"),
        pytest.param(Faults(grow_by=4, grow_after_s=14), id="grows between hint and proof"),
        pytest.param(Faults(grow_by=4, grow_after_s=14, shuffled=True, twice=True), id="grows, in no order, everything twice"),
    ],
)
def test_an_archive_at_its_worst_gets_one_result_set_of_the_whole_study(place: Site, tmp_path: Path, faults: Faults) -> None:
    """Pauses longer than the quiet time, growth while it forwards, repetition, disorder: one revision, all images, one result."""
    chest = Chest().write(tmp_path / "files").into(place.archive)
    place.archive.faults = faults
    place.archive.forward(chest.study, "OVERREAD")
    place.live(60)
    assert only(place, chest.study).state is RevisionState.PLANNED
    assert place.analysed == [SLICES]
    assert len(place.written(chest.study)) == 1


def test_growth_after_the_hint_throws_away_what_was_prepared_ahead(place: Site, tmp_path: Path) -> None:
    """What was prepared on the hint was not the whole: it ends SUPERSEDED with its reason, and nothing of it is sent."""
    chest = Chest().write(tmp_path / "files").into(place.archive)
    place.archive.faults = Faults(grow_by=4, grow_after_s=14)
    place.archive.forward(chest.study, "OVERREAD")
    place.live(60)
    first, second = place.prepared
    dropped = jobs.get(place.ledger, first)
    assert (dropped.state, dropped.reason) == (JobState.SUPERSEDED, "images arrived while it was prepared ahead of the proof")
    assert [job.job_id for job in place.written(chest.study)] == [second]


def test_an_archive_that_grew_after_the_proof_gets_a_second_revision(place: Site, tmp_path: Path) -> None:
    """Nobody could know; the second revision has all, one result set each, the second naming the first as predecessor."""
    chest = Chest().write(tmp_path / "files").into(place.archive)
    place.archive.faults = Faults(grow_by=4, grow_after_s=50)
    place.archive.forward(chest.study, "OVERREAD")
    place.live(120)
    assert [entry.state for entry in place.revisions(chest.study)] == [RevisionState.SUPERSEDED, RevisionState.PLANNED]
    assert place.analysed == [SLICES - 4, SLICES]


@pytest.mark.parametrize(("policy", "state"), [("decline", RevisionState.DECLINED), ("hold", RevisionState.HELD)])
def test_ten_lost_slices_are_counted_and_the_study_is_not_analysed(
    tmp_path: Path, ledger: Ledger, clock: Clock, policy: str, state: RevisionState
) -> None:
    """The reason counts; the archive still has them, so sending them later completes the study."""
    with proving.site(tmp_path, ledger, clock, assembly={"on_mismatch": policy}) as place:
        chest = Chest().write(tmp_path / "files").into(place.archive)
        place.archive.faults = Faults(lose=10)
        place.archive.forward(chest.study, "OVERREAD")
        place.live(290)
        assert only(place, chest.study).state is RevisionState.RECEIVING
        place.live(20)
        ended = only(place, chest.study)
        assert (ended.state, ended.reason) == (
            state,
            f"archive has {SLICES} images of series 3, {SLICES - 10} came; send the missing images",
        )
        assert place.analysed == []
        place.archive.faults = Faults()
        place.archive.forward(chest.study, "OVERREAD")
        place.live(60)
        assert [entry.state for entry in place.revisions(chest.study)][1:] == [RevisionState.PLANNED]
        assert place.analysed == [SLICES]


def test_lost_slices_are_fetched_where_the_archive_lets_us(place: Site, tmp_path: Path) -> None:
    """No human is needed: the rest comes by C-GET, and the study is proved and analysed as one revision."""
    proving.with_peer(place, retrieve="c-get")
    chest = Chest().write(tmp_path / "files").into(place.archive)
    place.archive.faults = Faults(lose=10)
    place.archive.forward(chest.study, "OVERREAD")
    place.live(80)
    assert only(place, chest.study).state is RevisionState.PLANNED
    assert place.analysed == [SLICES]


def test_a_fetch_that_brings_nothing_is_told_in_the_reason(place: Site, tmp_path: Path) -> None:
    """Tried once, then declined when the time is up, with what the archive said."""
    proving.with_peer(place, retrieve="c-get")
    chest = Chest().write(tmp_path / "files").into(place.archive)
    held = place.archive.instances(chest.study)
    place.archive.faults = Faults(lose=10, withheld=frozenset(held[7:17]))
    place.archive.forward(chest.study, "OVERREAD")
    place.live(320)
    ended = only(place, chest.study)
    assert ended.state is RevisionState.DECLINED
    assert (ended.reason or "").startswith(f"archive has {SLICES} images of series 3, {SLICES - 10} came; fetching them did not help: ")
    assert place.analysed == []


def test_a_hole_that_the_archive_has_too_is_no_proof(place: Site, tmp_path: Path) -> None:
    """Equal counts, but slices lack between the others: waited for until the time is up, then left to the model's own judgement."""
    chest = Chest().write(tmp_path / "files", 12)
    chest = chest.write(tmp_path / "files", 12, first=20).into(place.archive)
    place.archive.forward(chest.study, "OVERREAD")
    place.live(290)
    assert only(place, chest.study).state is RevisionState.RECEIVING
    place.live(20)
    ended = only(place, chest.study)
    assert ended.state is RevisionState.PLANNED
    assert ended.evidence["proof"] == "quiet"
    assert "series 3 lacks slices between the others, at the archive too" in ended.evidence["said"]


def test_what_was_never_sent_to_us_does_not_block(place: Site, tmp_path: Path) -> None:
    """Neither another series at the archive nor a result of ours there."""
    chest = Chest().write(tmp_path / "files").into(place.archive)
    place.archive.forward(chest.study, "OVERREAD")
    Chest(study=chest.study, number=4).write(tmp_path / "files", 3).into(place.archive)
    place.live(25)
    assert place.analysed == [SLICES]
    assert only(place, chest.study).evidence["proof"] == "count"


def test_an_archive_that_does_not_know_the_study_leaves_it_to_the_quiet_time(place: Site, tmp_path: Path) -> None:
    """A modality sent it to us alone: nobody counts, and the evidence says so."""
    chest = Chest().write(tmp_path / "files").into(place.archive)
    with Archive(tmp_path / "modality", "MODALITY") as modality:
        chest.into(modality)
        modality.peers["OVERREAD"] = ("127.0.0.1", place.listener.port)
        place.archive.holdings._held.clear()
        modality.forward(chest.study, "OVERREAD")
    place.live(40)
    done = only(place, chest.study)
    assert (done.state, done.evidence["proof"]) == (RevisionState.PLANNED, "quiet")
    assert "series 3 was counted by nobody" in done.evidence["said"]


def test_an_archive_that_refuses_queries_leaves_it_to_the_quiet_time(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    """A peer that will never count is not waited for; the evidence quotes it."""
    refusing = Peer(name="refusing", ae_title="NOBODY", host="127.0.0.1", port=1, query=True)
    with proving.site(tmp_path, ledger, clock, peers=(refusing,)) as place:
        proving.with_peer(place, ae_title="WRONG")  # it rejects a called AE title that is not its own, for good
        place.dispatcher._asker.settings = place.dispatcher.settings.model_copy(update={"peers": place.dispatcher.settings.peers[:1]})
        chest = Chest().write(tmp_path / "files").into(place.archive)
        place.archive.forward(chest.study, "OVERREAD")
        place.live(25)
        done = only(place, chest.study)
        assert (done.state, done.evidence["proof"]) == (RevisionState.PLANNED, "quiet")
        assert "no answer: " in done.evidence["said"]
        assert "rejects the association" in done.evidence["said"]


def test_without_a_peer_to_ask_the_quiet_time_decides(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    """Where no peer has query = true, proof by count is the quiet time, and says so."""
    with proving.site(tmp_path, ledger, clock) as place:
        proving.with_peer(place, query=False)
        chest = Chest().write(tmp_path / "files").into(place.archive)
        place.archive.forward(chest.study, "OVERREAD")
        place.live(21)
        done = only(place, chest.study)
        assert done.state is RevisionState.PLANNED
        assert done.evidence["said"] == "no arrival for 20 s; series 3 was counted by nobody; no peer with query = true to ask"


def test_an_archive_that_is_down_is_waited_for_and_then_given_up(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    """It may have gone down while it forwarded. When it is back its count proves the study; else the quiet time is the evidence."""
    with proving.site(tmp_path, ledger, clock) as place:
        up = place.archive.port
        chest, other = Chest().write(tmp_path / "files").into(place.archive), Chest().write(tmp_path / "files").into(place.archive)
        place.archive.forward(chest.study, "OVERREAD")
        proving.with_peer(place, port=free_port())
        place.live(200)
        assert only(place, chest.study).state is RevisionState.RECEIVING
        proving.with_peer(place, port=up)
        place.live(60)
        assert only(place, chest.study).evidence["proof"] == "count"
        place.archive.forward(other.study, "OVERREAD")
        proving.with_peer(place, port=free_port())
        place.live(310)
        done = only(place, other.study)
        assert (done.state, done.evidence["proof"]) == (RevisionState.PLANNED, "quiet")
        assert "cannot be reached" in done.evidence["said"]


def test_a_peer_that_hangs_does_not_stall_the_studies_of_others(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    """One archive takes the connection and says nothing for a minute; the other's studies are proved meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        dead = Peer(name="dead", ae_title="DEAD", host="127.0.0.1", port=hanging.getsockname()[1], query=True)
        with proving.site(tmp_path, ledger, clock, peers=(dead,), timeout_s=90) as place, Archive(tmp_path / "dead", "DEAD") as other:
            other.peers["OVERREAD"] = ("127.0.0.1", place.listener.port)
            stuck, chest = Chest().write(tmp_path / "files").into(other), Chest().write(tmp_path / "files").into(place.archive)
            other.forward(stuck.study, "OVERREAD")
            place.archive.forward(chest.study, "OVERREAD")
            place.settle()
            for _ in range(25):
                clock.now += 1
                place.dispatcher.step()
                if "counts at archive" in place.dispatcher._running:
                    place.dispatcher._running["counts at archive"].result()
            assert not place.dispatcher._running["counts at dead"].done()
            assert only(place, chest.study).state is RevisionState.PLANNED
            assert only(place, stuck.study).state is RevisionState.RECEIVING
            hanging.accept()[0].close()


def test_a_sender_s_archive_is_asked_before_others(place: Site, tmp_path: Path) -> None:
    """Another archive that has fewer images proves nothing about what the sender still has."""
    archive, other = place.dispatcher.settings.peers[0], Peer(name="other", ae_title="OTHER", host="10.0.0.9", port=104, query=True)
    deaf = Peer(name="deaf", ae_title="DEAF", host="10.0.0.7", port=104)
    known = (archive, other, deaf)
    assert whom(known, [("PACS", "127.0.0.1")]) == ["archive"]
    assert whom(known, [("ROUTER", "10.0.0.9")]) == ["other"]
    assert whom(known, [("CT1", "10.0.0.77")]) == ["archive", "other"]
    assert whom(known, [("DEAF", "10.0.0.7")]) == ["archive", "other"]
    assert whom((deaf,), [("DEAF", "10.0.0.7")]) == []


def test_a_held_study_that_lacks_images_goes_on_when_released(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    """A human may decide that what came is enough."""
    with proving.site(tmp_path, ledger, clock, assembly={"on_mismatch": "hold"}) as place:
        chest = Chest().write(tmp_path / "files").into(place.archive)
        place.archive.faults = Faults(lose=4)
        place.archive.forward(chest.study, "OVERREAD")
        place.live(310)
        assert only(place, chest.study).state is RevisionState.HELD
        assert holds.release(ledger, chest.study, "Dr. Who", "the rest is lost for good")
        place.live(10)
        assert place.analysed == [SLICES - 4]


def test_a_dripping_sender_causes_few_revisions(tmp_path: Path, ledger: Ledger, clock: Clock) -> None:
    """Without counts each image may look like the last one; the doubled quiet time keeps the revisions logarithmic."""
    with proving.site(tmp_path, ledger, clock, assembly={"proof": "none", "quiet_s": 5}) as place:
        chest = Chest().write(tmp_path / "files", 21).into(place.archive)
        place.archive.forward(chest.study, "OVERREAD")
        place.live(6)
        for number in range(22, 52):
            chest.write(tmp_path / "files", 1, first=number).into(place.archive)
            place.archive.forward(chest.study, "OVERREAD")
            place.live(30)
        place.live(200)
        assert len(place.revisions(chest.study)) <= 5
        assert place.analysed[-1] == 51


def test_with_counts_a_dripping_archive_causes_one_revision(place: Site, tmp_path: Path) -> None:
    """Its own count says that there is more to come."""
    chest = Chest().write(tmp_path / "files").into(place.archive)
    for lost in range(SLICES - 4, -1, -4):
        place.archive.faults = Faults(lose=lost)
        place.archive.forward(chest.study, "OVERREAD")
        place.live(40)
    assert place.analysed == [SLICES]
    assert only(place, chest.study).state is RevisionState.PLANNED
