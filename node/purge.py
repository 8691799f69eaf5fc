"""Remove what the node keeps of one patient: images, conflict copies, work files, parcels, and every word of the ledger that names them.

What is no patient data stays: job ids, UIDs, states, reasons. The same study sent again makes no second result.
Each study leaves a line in the audit trail before anything of it goes. Repeating a purge that was cut off ends it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from node import audit, journal, keeping, patients
from node.errors import Refused
from node.holds import BY_MAX, WORDS_MAX
from node.ledger import Ledger, purging
from node.ledger.purging import Holding
from node.settings import Settings

log = journal.get("purge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Whose data go, by whose word and why; `issuer` None: any, where there is only one.

    force  end unfinished work too
    """

    patient_id: str
    issuer: str | None
    by: str
    because: str
    force: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Purged:
    """What went: study -> files; and the studies of which images came again meanwhile."""

    files: dict[str, int]
    came_again: tuple[str, ...]


def find(ledger: Ledger, wish: Wish) -> list[Holding]:
    """Give what is kept of the patient; raises Refused where an ID is counted by several issuers and none is named."""
    if not wish.patient_id.strip():
        raise Refused("--patient-id is empty")
    every = purging.find(ledger, wish.patient_id)
    issuers = sorted({entry.issuer for entry in every})
    if wish.issuer is None and len(issuers) > 1:
        named = ", ".join(repr(issuer) for issuer in issuers)
        raise Refused(f"this patient ID comes from several issuers ({named}): name one with --issuer, an empty one too")
    return [entry for entry in every if wish.issuer is None or entry.issuer == wish.issuer.strip()]


def require_words(wish: Wish, holdings: Sequence[Holding]) -> None:
    """Take no purge without a name and a reason, and no word that carries the patient's data into the trail."""
    for option, text, most in (("--by", wish.by, BY_MAX), ("--because", wish.because, WORDS_MAX)):
        if not text.strip() or len(text) > most or not text.isprintable():
            raise Refused(f"{option} needs 1 to {most} printable characters")
    known = [patients.identity_of(entry.header) for holding in holdings for entry in holding.images]
    quoted = patients.quoted(wish.because, [{"PatientID": wish.patient_id.strip()}, *known])
    if quoted is not None:
        raise Refused(f"--because quotes the patient's data ({quoted}); say it without: reasons are shown and logged")


def purge(settings: Settings, ledger: Ledger, wish: Wish) -> Purged:
    """Remove everything; raises Refused, before anything went, while work is unfinished and `force` is not set."""
    holdings = find(ledger, wish)
    require_words(wish, holdings)
    unfinished = [entry.study_instance_uid for entry in holdings if entry.unfinished]
    if unfinished and not wish.force:
        raise Refused(f"work on {len(unfinished)} of {len(holdings)} studies is unfinished; let it end, or end it with --force")
    files, again = {}, []
    for holding in holdings:
        _record(ledger, wish, holding)
        if not purging.end_and_mark(ledger, holding, (wish.by.strip(), wish.because.strip()), force=wish.force):
            raise Refused(f"work on study {holding.study_instance_uid} began meanwhile; let it end, or end it with --force")
        files[holding.study_instance_uid] = _remove_files(settings, ledger, holding)
        if not purging.forget(ledger, holding, wish.patient_id):
            again.append(holding.study_instance_uid)
        log.info("study.purged", study=holding.study_instance_uid, images=len(holding.images), jobs=len(holding.jobs))
    return Purged(files=files, came_again=tuple(again))


def _record(ledger: Ledger, wish: Wish, holding: Holding) -> None:
    event = audit.Event(
        action="images purged",
        study_instance_uid=holding.study_instance_uid,
        by=wish.by.strip(),
        reason=wish.because.strip(),
        objects=len(holding.images),
        details={"jobs": len(holding.jobs), "unfinished": len(holding.unfinished)},
    )
    try:
        audit.require(ledger.data_dir, event, ledger.clock())
    except OSError as error:
        raise Refused(f"the audit trail under {ledger.data_dir / audit.FOLDER} cannot be written, so nothing was removed") from error


def _remove_files(settings: Settings, ledger: Ledger, holding: Holding) -> int:
    """Remove images, work files and parcels; those that are gone already are no error."""
    count = 0
    for image in holding.images:
        count += (ledger.data_dir / image.path).exists()
        keeping.remove(ledger.data_dir, image.path, math.inf)
    for job_id in holding.jobs:
        for folder in (settings.work_dir / job_id, settings.data_dir / "parcels" / job_id):
            count += sum(path.is_file() for path in folder.rglob("*"))
            shutil.rmtree(folder, ignore_errors=True)
    return count
