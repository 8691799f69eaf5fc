"""The journal: events with keys, never PHI."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
from node import journal
journal.configure(process="test")
log = journal.get("spool")
log.info("instance.stored", sop="1.2.3", patient_name="GREP^ME", accession_number="ACC-GREP")
try:
    raise ValueError("PatientName GREP^ME is bad")
except ValueError:
    log.exception("stage.failed", job="j")
"""


def lines() -> list[dict[str, object]]:
    """Run the script and parse what it logged."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_events_are_json_lines_with_process_room_and_time() -> None:
    """Each event is one JSON object on stderr."""
    first = lines()[0]
    assert first["event"] == "instance.stored"
    assert (first["process"], first["room"], first["sop"]) == ("test", "spool", "1.2.3")
    assert str(first["timestamp"]).endswith("Z")


def test_phi_keys_are_dropped() -> None:
    """A patient's name logged by mistake does not come out."""
    assert "GREP" not in json.dumps(lines())


def test_exceptions_carry_their_type_and_places_without_their_words() -> None:
    """A traceback is a key of the event, so that a log shipper keeps it together; an error's message may quote a data set."""
    assert lines()[1]["exception"] == ["ValueError", "<string>:7 <module>"]
