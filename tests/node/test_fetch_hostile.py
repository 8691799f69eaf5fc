"""Peers that lie, never end, fall silent or cannot do what they are asked: refused or given up, and nothing lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom import config as pydicom_config
from pydicom.uid import CTImageStorage
from pynetdicom import AE, evt

from node import fetch, query
from node.errors import Refused, Retryable
from node.fetch.dimse import STUDY_ROOT_GET
from tests.node.archive_files import image, study
from tests.node.fetching import Place, moved, place, run


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Place]:
    """Make a node that gets images by C-GET."""
    made = place(tmp_path / "node", 1)
    yield made
    made.ledger.close()


@contextmanager
def answering(**handlers: Callable[[evt.Event], Any]) -> Iterator[int]:
    """Run an SCP that answers as told, by handler name: find, get."""
    ae = AE(ae_title="PACS")
    ae.add_supported_context(query.STUDY_ROOT_FIND)
    ae.add_supported_context(STUDY_ROOT_GET)
    ae.add_supported_context(CTImageStorage, scu_role=True, scp_role=True)
    events: dict[str, Any] = {"find": evt.EVT_C_FIND, "get": evt.EVT_C_GET}
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(events[name], act) for name, act in handlers.items()])
    assert server is not None
    try:
        yield server.socket.getsockname()[1]
    finally:
        server.shutdown()
        for link in ae.active_associations:
            link.join(5)


def answers_of(held: dict[str, Dataset]) -> Callable[[evt.Event], Iterator[tuple[int, Dataset | None]]]:
    """Answer each level with its data set."""

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        yield 0xFF00, held[event.identifier.QueryRetrieveLevel]

    return find


def listing(study_uid: str, series_uid: str, sop_uid: str, **changes: str) -> dict[str, Dataset]:
    """Make one answer a level."""
    found = {}
    for depth, level in enumerate(("STUDY", "SERIES", "IMAGE")):
        answer = Dataset()
        answer.QueryRetrieveLevel = level
        answer.StudyInstanceUID = study_uid
        if depth:
            answer.SeriesInstanceUID, answer.Modality = series_uid, "CT"
        if depth == 2:
            answer.SOPInstanceUID, answer.SOPClassUID = sop_uid, CTImageStorage
        for keyword, value in changes.items():
            if keyword in answer:
                setattr(answer, keyword, value)
        found[level] = answer
    return found


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"StudyInstanceUID": "1.9"}, "another StudyInstanceUID"),
        ({"SOPInstanceUID": "../../etc"}, "no SOPInstanceUID"),
        ({"SeriesInstanceUID": "x"}, "no SeriesInstanceUID"),
    ],
)
def test_a_listing_that_cannot_be_believed_is_refused(node: Place, changes: dict[str, str], reason: str) -> None:
    """Answers about another study, or with UIDs that are none, end the search."""
    with pydicom_config.disable_value_validation():
        answers = answers_of(listing("1.2", "1.2.1", "1.2.1.1", **changes))
    with answering(find=answers) as port, pytest.raises(Refused, match=reason):
        fetch.missing(moved(node, port).settings, node.ledger, "1.2")


def test_answers_without_end_are_refused(node: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A C-FIND that never stops is cut after a number of answers."""
    monkeypatch.setattr(query, "ANSWERS_MAX", 50)

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        held = listing("1.2", "1.2.1", "1.2.1.1")[event.identifier.QueryRetrieveLevel]
        yield 0xFF00, held
        while event.identifier.QueryRetrieveLevel == "IMAGE":
            yield 0xFF00, held

    with answering(find=find) as port, pytest.raises(Refused, match="more than 50 answers"):
        fetch.missing(moved(node, port).settings, node.ledger, "1.2")


def test_pending_responses_without_end_end_with_the_time(node: Place) -> None:
    """A C-GET that reports progress for ever and sends nothing is given up at the peer's time-out."""

    def get(_event: evt.Event) -> Iterator[Any]:
        yield 65535
        other = image("1.2", "1.2.1")
        other.SOPInstanceUID = "1.2.9"
        while True:
            yield 0xFF00, other

    with answering(find=answers_of(listing("1.2", "1.2.1", "1.2.1.1")), get=get) as port:
        endless = moved(node, port, retrieve_timeout_s=6)
        plan = fetch.missing(endless.settings, node.ledger, "1.2")
        outcome = fetch.retrieve(endless.settings, node.ledger, node.spool, plan)
    assert outcome.missing == ("1.2.1.1",)
    assert any("given up after 6" in warning for warning in outcome.warnings)
    assert [reason for reason in outcome.refused if "not asked for" in reason]
    assert node.files() == []


def test_silence_in_the_middle_is_given_up(node: Place) -> None:
    """A peer that accepts the C-GET and says nothing: Retryable when the time is up, nothing left behind."""

    def get(event: evt.Event) -> Iterator[Any]:
        while event.assoc.is_established:
            time.sleep(0.02)
        yield 0

    with answering(find=answers_of(listing("1.2", "1.2.1", "1.2.1.1")), get=get) as port:
        silent = moved(node, port, retrieve_timeout_s=1)
        with pytest.raises(Retryable, match=r"given up after|silent"):
            run(silent, "1.2")
    assert node.parts() == []


def test_other_bytes_again_and_again_do_not_fill_the_disk(node: Place) -> None:
    """One UID with ever other bytes is kept a few times (the conflict is for people to see), then refused."""
    wanted = image("1.2", "1.2.1")

    def get(_event: evt.Event) -> Iterator[Any]:
        yield 20
        for number in range(20):
            wanted.PixelData = bytes([number]) * 128
            yield 0xFF00, wanted

    with answering(find=answers_of(listing("1.2", "1.2.1", str(wanted.SOPInstanceUID))), get=get) as port:
        outcome = run(moved(node, port), "1.2")
    assert outcome.complete
    assert "sent again and again" in outcome.refused
    assert len(node.files()) == 3


def test_a_peer_without_image_level_is_asked_for_the_series(node: Place, tmp_path: Path) -> None:
    """Where single images are refused the whole series comes, and what was here stays once."""
    study_uid, paths = study(tmp_path / "files", images=3)
    wanted = [dcmread(path) for path in paths]
    node.receive(paths[:1])
    levels: list[str] = []

    def get(event: evt.Event) -> Iterator[Any]:
        levels.append(event.identifier.QueryRetrieveLevel)
        if levels[-1] == "IMAGE":
            yield 1
            yield 0xA900, None
            return
        yield 3
        for dataset in wanted:
            yield 0xFF00, dataset

    first = listing(study_uid, str(wanted[0].SeriesInstanceUID), "")

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        level = event.identifier.QueryRetrieveLevel
        for dataset in wanted if level == "IMAGE" else wanted[:1]:
            if level == "IMAGE":
                first[level].SOPInstanceUID = dataset.SOPInstanceUID
            yield 0xFF00, first[level]

    with answering(find=find, get=get) as port:
        outcome = run(moved(node, port), study_uid)
    assert levels == ["IMAGE", "SERIES"]
    assert outcome.complete
    assert len(node.files()) == 3
