"""Tell when a revision is complete, and on what evidence, where the quiet time alone decides."""

from __future__ import annotations

from node import journal
from node.ledger import Ledger, revisions
from node.settings import AssemblySection

log = journal.get("assembly")


def freeze(ledger: Ledger, assembly: AssemblySection, listening_since: float = 0.0) -> int:
    """Complete every revision whose quiet time has passed; returns how many. Safe in several processes."""
    count = 0
    now = ledger.clock()
    for revision in revisions.due(ledger, now, assembly, listening_since):
        evidence = {"said": f"no arrival for {now - revision.last_arrival_at:.0f} s"}
        if revisions.complete(ledger, revision, evidence):
            log.info("revision.complete", study=revision.study_instance_uid, revision=revision.number, evidence=evidence["said"])
            count += 1
    return count
