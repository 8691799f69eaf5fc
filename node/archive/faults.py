"""What an archive can be told to do wrong, one field a fault; the defaults are a well-behaved archive."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from node.archive.holdings import Held


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Planted faults. Counts are used up as they strike; assigning new Faults to an archive starts them afresh.

    refused_classes    SOP classes whose presentation contexts are rejected
    fail_stores        the next n C-STOREs are answered with `fail_status` and not kept
    warn_status        a status (B000, B006, B007) with which every store is answered although it is kept
    abort_after        after n stores kept, the association of the next one is aborted, once
    answer_after_s     pause before each C-STORE response
    hidden             SOP Instance UIDs that are kept but that C-FIND does not show
    withheld           SOP Instance UIDs that C-FIND shows but that no C-MOVE or C-GET sends
    refuse_action      a status with which every N-ACTION is answered, without a report
    drop_reports       the next n accepted commitment requests get no report
    report_after_s     pause between N-ACTION and N-EVENT-REPORT
    report_first       the report goes out before the N-ACTION response
    report_twice       each report is sent twice
    report_on_same     the report comes on the association that asked
    missing            SOP Instance UIDs reported as failed (event type 2, reason 0112) although they are kept
    lose               n instances from the middle of a forwarded study are never sent
    shuffled           a forwarded study goes out in no order, the same each time
    twice              a forwarded study goes out a second time at once
    pause_after        after n instances forwarded, the association stays open and silent for `pause_s`, once a forwarding
    grow_by            the last n instances of a forwarded study arrive in the archive only `grow_after_s` after the others were forwarded
    """

    refused_classes: frozenset[str] = frozenset()
    fail_stores: int = 0
    fail_status: int = 0xA700
    warn_status: int | None = None
    abort_after: int | None = None
    answer_after_s: float = 0
    hidden: frozenset[str] = frozenset()
    withheld: frozenset[str] = frozenset()
    refuse_action: int | None = None
    drop_reports: int = 0
    report_after_s: float = 0
    report_first: bool = False
    report_twice: bool = False
    report_on_same: bool = False
    missing: frozenset[str] = frozenset()
    lose: int = 0
    shuffled: bool = False
    twice: bool = False
    pause_after: int | None = None
    pause_s: float = 0
    grow_by: int = 0
    grow_after_s: float = 0


def outgoing(study: Sequence[Held], faults: Faults) -> list[Held]:
    """Give what of a study goes out, and in which order."""
    middle = (len(study) - faults.lose) // 2
    sent = [*study[:middle], *study[middle + faults.lose :]]
    if faults.shuffled:
        sent.sort(key=lambda held: hashlib.sha256(held.sop_instance_uid.encode()).digest())
    return sent * 2 if faults.twice else sent
