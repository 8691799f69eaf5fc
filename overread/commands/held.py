"""`overread held`: what waits for a human's word, and that word: release or drop. No patient data comes out."""

from __future__ import annotations

import datetime as dt
import json

from rich.console import Console
from rich.markup import escape

from node import holds, journal
from node.ledger import holds as rows
from node.ledger import open_ledger
from node.settings import Settings


def show(settings: Settings, *, as_json: bool) -> None:
    """List held studies, the longest waiting first: since when, why, and what may be done."""
    ledger = open_ledger(settings)
    try:
        held = rows.held(ledger)
    finally:
        ledger.close()
    if as_json:
        print(json.dumps({"held": held}, indent=2))
        return
    console = Console(highlight=False, soft_wrap=True)
    for entry in held:
        since = dt.datetime.fromtimestamp(entry["held_at"], dt.UTC)
        kinds = f" [{', '.join(entry['kinds'])}]" if entry["kinds"] else ""
        console.print(f"{entry['study']} revision {entry['revision']}, held since {since:%Y-%m-%d %H:%M} UTC{escape(kinds)}")
        console.print(f"  {escape(entry['reason'] or 'no reason')}")
    if held:
        console.print('overread held release STUDY_UID --by NAME --because TEXT lets one go on, "held drop" declines it')
    else:
        console.print("nothing is held")


def end(settings: Settings, study_uid: str, word: tuple[str, str], *, release: bool, as_json: bool) -> None:
    """Release or drop one study by the word (by, because); raises Refused where none is held or the words quote the patient."""
    journal.configure(process="held", level="WARNING")
    ledger = open_ledger(settings)
    try:
        revision = (holds.release if release else holds.drop)(ledger, study_uid, *word)
    finally:
        ledger.close()
    outcome = "RELEASED" if release else "DROPPED"
    if as_json:
        print(json.dumps({"study": study_uid, "revision": revision.number, "outcome": outcome}))
    elif release:
        print(f"revision {revision.number} goes on as it is; overread status --study {study_uid}")
    else:
        print(f"revision {revision.number} is declined; its images stay until retention takes them")
