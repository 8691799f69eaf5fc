"""When a study is complete by its quiet time."""

from __future__ import annotations

from node import assembly
from node.ledger import Ledger, instances, revisions
from node.study import RevisionState
from tests.node import work
from tests.node.conftest import Clock


def test_a_quiet_study_is_complete_and_says_on_what_evidence(ledger: Ledger, clock: Clock) -> None:
    """The evidence is kept with the revision."""
    instances.index(ledger, work.slices(3))
    assert assembly.freeze(ledger, work.QUIET) == 0
    clock.now += 61
    assert assembly.freeze(ledger, work.QUIET) == 1
    assert assembly.freeze(ledger, work.QUIET) == 0
    (done,) = revisions.of_study(ledger, "1.2.3")
    assert (done.state, done.evidence) == (RevisionState.COMPLETE, {"said": "no arrival for 61 s"})
