"""Fetch the inputs of a model that nobody sent: the PET of a CT, one of four contrasts. For threads of the dispatch loop.

What comes enters the index like received images and opens the study's next revision, in which the model finds all of its
inputs. Nothing waits for it: the revision at hand is planned for the models that have theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

from node import fetch, journal, proof
from node.errors import OverreadError
from node.ledger import Ledger, looks
from node.settings import Settings
from node.spool import Spool
from node.study import Lacking

log = journal.get("inputs")


def sources(settings: Settings, ledger: Ledger, study_uid: str) -> list[str]:
    """Give the names of the peers to fetch from: of those with `retrieve` the ones that sent the study, else all."""
    able = [peer for peer in settings.peers if peer.retrieve != "none"]
    return proof.nearest(able, looks.senders(ledger, study_uid)) if able and settings.assembly.fetch_inputs else []


def fetch_lacking(settings: Settings, ledger: Ledger, names: Sequence[str], study_uid: str, lacking: Sequence[Lacking]) -> str:
    """Fetch from each of the peers the study's series of the wanted modalities that are not here; say what came of it.

    Idempotent: where a peer has nothing that is not here it is asked and no more, so a revision that still lacks ends it.
    """
    spool = Spool(settings.data_dir, settings.node.free_disk_min_mb, max_bytes=settings.node.max_instance_bytes)
    words = []
    for name in names:
        for modality in sorted({modality for entry in lacking for modality in entry.modalities}):
            wanted = fetch.Wanted(study_instance_uid=study_uid, modality=modality)
            try:
                plan = fetch.plan(settings, ledger, settings.peer(name), wanted)
                if not plan.missing:
                    words.append(f"{name} has no {modality} of this study that is not here")
                    continue
                outcome = fetch.retrieve(settings, ledger, spool, plan)
            except OverreadError as error:
                words.append(error.reason)
                continue
            words.append(f"{len(outcome.retrieved)} of {outcome.asked} {modality} images came from {name} by {outcome.how}")
            log.info("inputs.fetched", study=study_uid, peer=name, asked=outcome.asked, retrieved=len(outcome.retrieved))
    return f"nothing was sent for {_named(lacking)}: {'; '.join(dict.fromkeys(words))}"


def _named(lacking: Sequence[Lacking]) -> str:
    """Name the inputs: "the input pet of pet-ct"."""
    return " and ".join(f"the input {entry.role} of {entry.model}" for entry in lacking)
