"""`overread purge`: remove what the node keeps of one patient, with a line in the audit trail. No patient data comes out."""

from __future__ import annotations

import json
from collections.abc import Sequence

from node import journal, purge
from node.ledger import open_ledger
from node.ledger.purging import Holding
from node.purge import Purged, Wish
from node.settings import Settings


def main(settings: Settings, wish: Wish, *, dry_run: bool, as_json: bool) -> int:
    """Show what is kept, or remove it; exit code 1 where nothing is, or where images came again meanwhile. Raises Refused."""
    journal.configure(process="purge", level="WARNING")
    ledger = open_ledger(settings)
    try:
        holdings = purge.find(ledger, wish)
        purged = None if dry_run else purge.purge(settings, ledger, wish)
    finally:
        ledger.close()
    if as_json:
        print(json.dumps(_facts(holdings, purged), indent=2))
    else:
        _tell(holdings, purged)
    return 0 if holdings and not (purged and purged.came_again) else 1


def _facts(holdings: Sequence[Holding], purged: Purged | None) -> dict[str, object]:
    studies = [
        {
            "study": entry.study_instance_uid,
            "images": len(entry.images),
            "jobs": len(entry.jobs),
            "unfinished": list(entry.unfinished),
            "files_removed": None if purged is None else purged.files[entry.study_instance_uid],
        }
        for entry in holdings
    ]
    return {"purged": purged is not None, "studies": studies, "came_again": [] if purged is None else list(purged.came_again)}


def _tell(holdings: Sequence[Holding], purged: Purged | None) -> None:
    if not holdings:
        print("nothing is kept of this patient")
    for entry in holdings:
        what = f"{len(entry.images)} images, results of {len(entry.jobs)} jobs"
        unfinished = f"; unfinished: {', '.join(entry.unfinished)}" if entry.unfinished else ""
        if purged is None:
            print(f"study {entry.study_instance_uid}: {what}{unfinished}")
        else:
            print(f"study {entry.study_instance_uid}: {what}: {purged.files[entry.study_instance_uid]} files removed")
    if purged and purged.came_again:
        print(f"images of {len(purged.came_again)} studies came again meanwhile: let the work end, then purge once more")
