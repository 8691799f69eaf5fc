"""No patient data outside of images, results and the ledger: a whole run's output is searched for the phantom's words."""

from __future__ import annotations

import base64
import binascii
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from rich.console import Console

from node import broker, send
from node.ledger import open_ledger
from node.settings import Settings
from overread import machine
from overread.progress import Follower
from tests import phantoms, shelf
from workers import folder

SCAN = replace(phantoms.SMALL, patient=phantoms.PHI)
BODY = re.compile(rb'body\\*": ?\\*"([A-Za-z0-9+/=]+)')


def leaks(words: Iterable[str], texts: Iterable[tuple[str, bytes]]) -> list[str]:
    """Give "word in place" for every word found, in any letter case, as UTF-8, UTF-16 or hexadecimal."""
    found = []
    for place, text in texts:
        lowered = text.lower()
        for word in words:
            plain = word.lower()
            forms = (plain.encode(), plain.encode("utf-16-le"), binascii.hexlify(word.encode()))
            found += [f"{word} in {place}" for form in forms if form in lowered]
    return found


def file_names(root: Path) -> Iterator[tuple[str, bytes]]:
    """Give the name of everything below a folder."""
    for path in root.rglob("*"):
        yield f"name of {path}", str(path.relative_to(root)).encode()


def messages(lines: Iterable[bytes]) -> Iterator[tuple[str, bytes]]:
    """Give what went through the broker: each command, and the bodies that Celery wraps in base64."""
    for line in lines:
        yield "broker command", line
        for body in BODY.findall(line):
            yield "broker message body", base64.b64decode(body)


@contextmanager
def overheard(settings: Settings) -> Iterator[list[bytes]]:
    """Listen to every command that the broker gets (MONITOR)."""
    lines: list[bytes] = []
    client = redis.Redis.from_url(broker.broker_url(settings).replace("redis+socket://", "unix://", 1))
    with client, client.monitor() as monitor:  # type: ignore[no-untyped-call]
        stop = threading.Event()

        def listen() -> None:
            while not stop.is_set():
                lines.append(str(monitor.next_command()).encode())

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        try:
            yield lines
        finally:
            stop.set()
            client.ping()
            thread.join(10)


def test_a_whole_run_says_nothing_of_the_patient(tmp_path: Path) -> None:
    """Journals, messages and file names of a study that is analysed and of one that is declined hold no PHI."""
    truth = phantoms.thorax(tmp_path / "chest", SCAN)
    phantoms.write_tiny(tmp_path / "declined", phantoms.Tiny(modality="CR", study="2"))
    models = {"dir": shelf.put(tmp_path / "models"), "starters": False}
    with machine.run(machine.Plan(home=tmp_path / "site", sections={"assembly": {"quiet_s": 1}, "models": models})) as site:
        with overheard(site.settings) as lines:
            for name in ("chest", "declined"):
                files = folder.read(tmp_path / name)
                assert send.store(site.settings, site.node, files).stored == len(files)
            ledger = open_ledger(site.settings)
            assert Follower(Console(quiet=True), ledger, truth.study_instance_uid).follow(240)["jobs"][0]["state"] == "WRITTEN"
            assert sorted(path.stem[3:] for path in (site.settings.data_dir / "parcels").rglob("*.dcm")) == ["gsps", "sc", "seg", "sr"]
        trail = list((site.settings.data_dir / "audit").glob("*.jsonl"))
        assert trail, "the run left no audit trail to search"
        text = [(str(path), path.read_bytes()) for path in [*tmp_path.glob("site/*.log"), *trail]]
    assert any(b"stage.ended" in content for _name, content in text), "the run left no journal to search"
    assert any(b"overread.prepare" in line for line in lines), "no message was overheard"
    assert any(truth.study_instance_uid.encode() in content for _name, content in text), (
        "UIDs may be logged, and show that the search works"
    )
    assert leaks(phantoms.PHI_WORDS, [*text, *messages(lines), *file_names(tmp_path / "site")]) == []


@pytest.mark.parametrize("word", ["Qvortrup", "QVORTRUP^Zebediah", "qvortrup"])
def test_the_search_finds_a_planted_leak(tmp_path: Path, word: str) -> None:
    """A name in a journal line, in a Celery message's body or in a file's name is found, in any letter case."""
    path = tmp_path / f"{word}.dcm"
    path.write_bytes(b"")
    body = base64.b64encode(f'[["{word}"], {{}}, {{}}]'.encode())
    assert leaks(phantoms.PHI_WORDS, [("journal", f'{{"event":"x","name":"{word}"}}'.encode())])
    assert leaks(phantoms.PHI_WORDS, messages([b"{'command': 'LPUSH cpu {\"body\": \"" + body + b"\"}'}"]))
    assert leaks(phantoms.PHI_WORDS, file_names(tmp_path))
    assert not leaks(phantoms.PHI_WORDS, [("journal", b"nothing")])
