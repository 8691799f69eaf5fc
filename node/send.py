"""Send files to a peer as a modality or an archive would, and ask an archive to forward a study.

For `overread send`, the demo and the benchmarks; results leave through node.deliver. Ref: PS3.4 B, C.4.2
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pynetdicom import _config
from pynetdicom.presentation import build_context

from node.errors import Refused, Retryable
from node.peers import association
from node.settings import Peer, Settings
from node.study import Instance

# send_c_store(path) then sends the file's bytes behind the file meta information as they are.
_config.STORE_SEND_CHUNKED_DATASET = True

STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
CONTEXTS_MAX = 128  # Ref: PS3.8 9.3.2.2: odd numbers 1..255
STORED = frozenset({0x0000, 0xB000, 0xB006, 0xB007})


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What the peer said: how many it stored, and the status (or reason) of what it did not, counted."""

    stored: int
    refused: dict[str, int]


def store(settings: Settings, peer: Peer, files: Sequence[Instance], on_answer: Callable[[Instance], None] = lambda _: None) -> Sent:
    """C-STORE files, bytes verbatim, on one association for up to 128 kinds; raises Retryable when the peer goes away, Refused."""
    stored, refused = 0, dict[str, int]()
    every = sorted({_kind(entry) for entry in files})
    for start in range(0, len(every), CONTEXTS_MAX):
        kinds = every[start : start + CONTEXTS_MAX]
        wanted = [entry for entry in files if _kind(entry) in kinds]
        with association(settings, peer, [build_context(*kind) for kind in kinds]) as link:
            accepted = {(str(context.abstract_syntax), str(context.transfer_syntax[0])) for context in link.accepted_contexts}
            for entry in wanted:
                why = _store_one(link, entry) if _kind(entry) in accepted else "presentation context not accepted"
                stored += why is None
                if why is not None:
                    refused[why] = refused.get(why, 0) + 1
                on_answer(entry)
    return Sent(stored=stored, refused=refused)


def _kind(entry: Instance) -> tuple[str, str]:
    return entry.sop_class_uid, entry.transfer_syntax_uid


def _store_one(link: object, entry: Instance) -> str | None:
    status = link.send_c_store(entry.path).get("Status")  # type: ignore[attr-defined]
    if status is None:
        raise Retryable("the peer ended the association while files were on their way")
    return None if status in STORED else f"status {status:04X}"


def forward(settings: Settings, archive: Peer, study_uid: str, to_ae: str) -> int:
    """Ask an archive to send a study to an AE it knows (C-MOVE); give how many it sent. Raises Refused, Retryable."""
    identifier = Dataset()
    identifier.QueryRetrieveLevel = "STUDY"
    identifier.StudyInstanceUID = study_uid
    with association(settings, archive, [build_context(STUDY_ROOT_MOVE)]) as link:
        last = _last(status for status, _identifier in link.send_c_move(identifier, to_ae, STUDY_ROOT_MOVE))
    if last is None or last.get("Status") is None:
        raise Retryable(f"{archive.ae_title} gave no answer to the move")
    if last.Status != 0x0000:
        raise Refused(f"{archive.ae_title} did not forward the whole study to {to_ae}: status {last.Status:04X}")
    return int(last.get("NumberOfCompletedSuboperations", 0))


def _last(statuses: Iterable[Dataset]) -> Dataset | None:
    final = None
    for status in statuses:
        final = status
    return final
