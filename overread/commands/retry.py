"""`overread retry`: put a study's failed jobs and deliveries back to work, once their cause is mended."""

from __future__ import annotations

import json

from node.ledger import again, open_ledger
from node.settings import Settings


def main(settings: Settings, study_uid: str, *, as_json: bool) -> int:
    """Say what goes on; exit code 1 where nothing had failed."""
    ledger = open_ledger(settings)
    try:
        restarted = again.retry(ledger, study_uid)
    finally:
        ledger.close()
    if as_json:
        print(json.dumps({"study": study_uid, "jobs": list(restarted.jobs), "deliveries": list(restarted.deliveries)}))
    elif restarted.jobs or restarted.deliveries:
        print(f"{len(restarted.jobs)} jobs and {len(restarted.deliveries)} deliveries are tried again; overread status --study {study_uid}")
    else:
        print("nothing of this study has failed")
    return 0 if restarted.jobs or restarted.deliveries else 1
