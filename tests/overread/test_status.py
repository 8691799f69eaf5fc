"""What `overread status --study` says to eyes: which form went where, what was refused, who was told of a failure."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from node import status
from node.ledger import Ledger, deliveries, fallbacks, jobs
from node.study import DeliveryState
from overread.commands.status import show_study
from tests.node import work


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Give an empty ledger."""
    opened = Ledger("sqlite", tmp_path / "data")
    yield opened
    opened.close()


def shown(ledger: Ledger) -> str:
    """Give the story of the one study."""
    out = io.StringIO()
    (study,) = status.of_study(ledger, "1.2.3")["studies"]
    show_study(Console(file=out, width=200, highlight=False), study)
    return out.getvalue()


def test_a_refusal_is_shown_with_both_profiles_and_its_reason(ledger: Ledger) -> None:
    """While the other form is written, and after."""
    job = work.written_job(ledger)
    held = deliveries.claim(ledger, jobs.delivery_id(job.job_id, 1, "archive"), 8)
    assert held
    assert "as ohif" in shown(ledger)
    assert fallbacks.ask(ledger, held, "basic", "archive does not accept [LABELMAP]")
    told = shown(ledger)
    assert "being written as basic" in told
    assert "refused as ohif, so as basic: archive does not accept [LABELMAP]" in told
    assert deliveries.get(ledger, held.delivery.delivery_id).state is DeliveryState.PENDING
