"""Questions to an archive: which instances it holds, how many a series has, and answers that are none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from node import query
from node.archive import Archive, Faults
from node.errors import Refused, Retryable
from node.peers import association
from node.settings import NodeSection, Settings
from tests.node.archive_files import study
from tests.node.delivery import peer_at
from tests.real.processes import free_port


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Give settings with short waits."""
    return Settings(node=NodeSection(data_dir=tmp_path / "data", association_timeout_s=5, network_timeout_s=5))


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    """Run an archive, which refuses queries that skip a level."""
    with Archive(tmp_path / "archive", "PACS") as running:
        yield running


def held(archive: Archive, folder: Path) -> tuple[str, dict[str, str]]:
    """Put a study of two series with two images each into the archive; gives its UID and each image's series."""
    study_uid, paths = study(folder, series=2, images=2)
    series_of = {}
    for path in paths:
        series_of[archive.add(path)] = str(dcmread(path).SeriesInstanceUID)
    return study_uid, series_of


def test_only_what_the_archive_shows_is_present(settings: Settings, archive: Archive, tmp_path: Path) -> None:
    """Of the instances asked for in two series, those it shows; others of the same series do not count."""
    study_uid, series_of = held(archive, tmp_path / "files")
    hidden, unasked, *_ = sorted(series_of)
    archive.faults = Faults(hidden=frozenset({hidden}))
    asked = {uid: series for uid, series in series_of.items() if uid != unasked} | {"1.2.3.4": next(iter(series_of.values()))}
    found = query.instances_present(settings, peer_at(archive.port), study_uid, asked)
    assert found == set(series_of) - {hidden, unasked}


def test_counts_come_series_by_series(settings: Settings, archive: Archive, tmp_path: Path) -> None:
    """Each series of the study with its count; an unknown study has none."""
    study_uid, series_of = held(archive, tmp_path / "files")
    assert query.series_counts(settings, peer_at(archive.port), study_uid) == dict.fromkeys(series_of.values(), 2)
    assert query.series_counts(settings, peer_at(archive.port), "1.2.3.4") == {}


def test_an_archive_that_is_away_is_retryable(settings: Settings) -> None:
    """Nobody listens: Retryable, never an empty answer."""
    with pytest.raises(Retryable):
        query.series_counts(settings, peer_at(free_port()), "1.2.3")


@pytest.fixture
def answering(request: pytest.FixtureRequest) -> Iterator[int]:
    """Run an SCP whose C-FIND gives the parameter's (status, answer) pairs; None: it does not offer queries."""
    ae = AE(ae_title="PACS")
    ae.add_supported_context("1.2.840.10008.1.1")
    answers = request.param

    def find(event: evt.Event) -> Iterator[tuple[int, Dataset | None]]:
        if answers == "abort":
            event.assoc.abort()
            return
        yield from answers

    handlers: list[Any] = []
    if answers is not None:
        ae.add_supported_context(query.STUDY_ROOT_FIND)
        handlers = [(evt.EVT_C_FIND, find)]
    server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    yield server.socket.getsockname()[1]
    server.shutdown()
    for link in ae.active_associations:
        link.join(5)


def series(uid: str, count: int | None = None) -> Dataset:
    """Make a SERIES level answer."""
    made = Dataset()
    made.QueryRetrieveLevel = "SERIES"
    made.SeriesInstanceUID = uid
    if count is not None:
        made.NumberOfSeriesRelatedInstances = count
    return made


@pytest.mark.parametrize("answering", [[(0xFF00, series("1.2.1")), (0xFF01, series("1.2.2", 7)), (0x0000, None)]], indirect=True)
def test_an_archive_may_answer_without_counting(settings: Settings, answering: int) -> None:
    """A series without a count is there with None; FF01, optional keys not supported, is an answer too."""
    assert query.series_counts(settings, peer_at(answering), "1.2") == {"1.2.1": None, "1.2.2": 7}


@pytest.mark.parametrize(
    ("answering", "error"),
    [
        (None, Refused),
        ([(0xA900, None)], Refused),
        ([(0xC001, None)], Refused),
        ([(0xFF00, series("1.2.1", 1)), (0xA700, None)], Retryable),
        ("abort", Retryable),
    ],
    indirect=["answering"],
)
def test_an_answer_that_ends_badly_is_no_answer(settings: Settings, answering: int, error: type[Exception]) -> None:
    """No query service, a refused query, one that breaks off: raised, never taken as a short list."""
    with pytest.raises(error):
        query.series_counts(settings, peer_at(answering), "1.2")


def test_no_answer_is_lost_between_two_questions(settings: Settings, archive: Archive, tmp_path: Path) -> None:
    """A hundred questions on one association bring a hundred times the same answers."""
    study_uid, series_of = held(archive, tmp_path / "files")
    with association(settings, peer_at(archive.port), [build_context(query.STUDY_ROOT_FIND)]) as link:
        for _ in range(100):
            answers = list(query.find(link, "SERIES", StudyInstanceUID=study_uid, SeriesInstanceUID=""))
            assert {str(answer.SeriesInstanceUID) for answer in answers} == set(series_of.values())
