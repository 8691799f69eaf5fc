"""Retrieve by C-GET, on the association that asks, or by C-MOVE, to our own listener. Ref: PS3.4 C.4.2, C.4.3; PS3.7 9.1.3, 9.1.4."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from pydicom import Dataset
from pydicom._uid_dict import UID_dictionary
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.presentation import PresentationContext, build_context, build_role

from node.errors import Refused, Retryable
from node.fetch.bounds import UNREAD_MAX, Patience, bound, within
from node.fetch.entrance import Entrance, Sender
from node.fetch.plan import Deadline, FetchPlan, SeriesPlan
from node.listener.intake import Intake, Reception
from node.peers import association
from node.settings import Peer, Settings
from node.storage_classes import is_image_class, is_storage_class

if TYPE_CHECKING:
    from node.listener.acceptor import Link

STUDY_ROOT_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
SETTLE_S = 3.0  # for the last image to be indexed
IMAGES_A_REQUEST = 100  # SOP Instance UIDs in one identifier
CLASSES_MAX = 127
CLASSES_A_LINK = 8  # x 15 syntaxes: an association has 128 contexts, PS3.8 9.3.2.2
# A context each, so that an archive sends what it has as it has it; uncompressed first for one that takes the first it finds.
SYNTAXES = (
    "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.203", "1.2.840.10008.1.2.2",
)  # fmt: skip
# What an archive that does not tell the SOP class of an image may have under a modality. Ref: PS3.4 B.5
_ROOT = "1.2.840.10008.5.1.4.1.1."
BY_MODALITY = {
    "CT": ("2", "2.1", "2.2"),
    "MR": ("4", "4.1", "4.3"),
    "PT": ("128", "130", "128.1"),
    "MG": ("1.2", "1.2.1", "13.1.3"),
    "DX": ("1.1", "1.1.1"),
    "CR": ("1",),
    "US": ("6.1", "3.1", "6.2"),
    "NM": ("20",),
}
_MODALITY_CLASSES = {modality: tuple(_ROOT + tail for tail in tails) for modality, tails in BY_MODALITY.items()}

_PENDING = frozenset({0xFF00, 0xFF01})
_COMPLETE_WITH_FAILURES = 0xB000
_DESTINATION_UNKNOWN = 0xA801


class LevelRefused(Refused):
    """The peer does not take requests at this level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One identifier: a whole series, or these images of it."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uids: tuple[str, ...] = ()

    @property
    def identifier(self) -> Dataset:
        """Give the identifier. Ref: PS3.4 C.4.2.2.1."""
        keys = Dataset()
        keys.QueryRetrieveLevel = "IMAGE" if self.sop_instance_uids else "SERIES"
        keys.StudyInstanceUID = self.study_instance_uid
        keys.SeriesInstanceUID = self.series_instance_uid
        if self.sop_instance_uids:
            keys.SOPInstanceUID = list(self.sop_instance_uids)
        return keys


def requests(plan: FetchPlan, series: SeriesPlan) -> list[Request]:
    """Ask for a whole series where none of it is here, else for the images that are not."""
    uids = plan.study_instance_uid, series.series_instance_uid
    if len(series.missing) == len(series.listed):
        return [Request(study_instance_uid=uids[0], series_instance_uid=uids[1])]
    return [
        Request(study_instance_uid=uids[0], series_instance_uid=uids[1], sop_instance_uids=series.missing[start : start + IMAGES_A_REQUEST])
        for start in range(0, len(series.missing), IMAGES_A_REQUEST)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """One attempt at a plan."""

    settings: Settings
    peer: Peer
    plan: FetchPlan
    deadline: Deadline
    entrance: Entrance
    sender: Sender


Ask = Callable[[Request], Iterable[tuple[Dataset, Dataset | None]]]


def move(errand: Errand) -> list[str]:
    """Have the peer send what is missing to our own listener; give its warnings. Raises Retryable, Refused."""
    settings, peer = errand.settings, errand.peer
    to = peer.move_to or settings.node.ae_titles[0]
    with association(within(settings, errand.deadline), peer, [build_context(STUDY_ROOT_MOVE)]) as link:
        bound(link, errand.deadline, None)  # pending responses are optional, and the images come elsewhere

        def ask(request: Request) -> Iterable[tuple[Dataset, Dataset | None]]:
            answers: Iterable[tuple[Dataset, Dataset | None]] = link.send_c_move(request.identifier, to, STUDY_ROOT_MOVE)
            return answers

        warnings = [warning for entry in errand.plan.series for warning in _series(errand, entry, ask)]
    _await_arrival(errand)
    return warnings


def _await_arrival(errand: Errand) -> None:
    """Wait for the listener's index, which runs behind its acknowledgements, until nothing more comes."""
    count, grew_at = errand.entrance.look(), time.monotonic()
    wanted = set(errand.plan.missing)
    while errand.deadline.left_s and time.monotonic() - grew_at < SETTLE_S and not wanted <= errand.entrance.retrieved:
        time.sleep(min(0.1, errand.deadline.left_s))
        now = errand.entrance.look()
        if now > count:
            count, grew_at = now, time.monotonic()


def get(errand: Errand) -> list[str]:
    """Get what is missing on associations of our own; give the peer's warnings. Raises Retryable, Refused."""
    warnings = []
    for classes, series in _grouped(errand.plan.series):
        warnings += _get_some(errand, classes, series)
    return warnings


def _get_some(errand: Errand, classes: Sequence[str], series: Sequence[SeriesPlan]) -> list[str]:
    settings = within(errand.settings, errand.deadline)
    contexts = [build_context(STUDY_ROOT_GET), *_storage(classes)]
    roles = [build_role(uid, scp_role=True) for uid in classes]
    inbox: _Inbox | None = None
    try:
        with association(settings, errand.peer, contexts, roles=roles) as link:
            inbox = link.dimse = _Inbox(link, errand)
            takes = {str(context.abstract_syntax) for context in link.accepted_contexts if context.as_scp}
            if not takes & set(classes):
                raise Refused(f"{errand.peer.name} accepts no presentation context in which it could send these images to us by C-GET")

            def ask(request: Request) -> Iterable[tuple[Dataset, Dataset | None]]:
                answers: Iterable[tuple[Dataset, Dataset | None]] = link.send_c_get(request.identifier, STUDY_ROOT_GET)
                return answers

            return [warning for entry in series for warning in _series(errand, entry, ask)]
    finally:
        if inbox is not None:
            inbox.abandon()


class _Inbox(Intake):
    """The DIMSE layer of an association on which images come back: the listener's own intake, at the entrance."""

    unanswered_max = UNREAD_MAX

    def __init__(self, link: Any, errand: Errand) -> None:
        super().__init__(link, cast("Reception", errand.entrance))  # whose spool is the entrance itself
        self._patience = Patience(errand.deadline, errand.settings.node.network_timeout_s)
        self._link = cast("Link", _Way(link, errand.sender))

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take fragments of images and answers."""
        self._patience.heard()
        super().receive_primitive(primitive)
        self._patience.heard()  # the disk may have been slow

    def get_msg(self, block: bool = False) -> Any:  # noqa: FBT001, FBT002 -- pynetdicom's signature
        """Give the next message, as patient as we are, to one who waits for it (node.peers.Mailbox says why)."""
        return self._patience.next(self.msg_queue) if block else (None, None)


class _Way:
    """An association as the intake looks at it: the images come from the peer, although we called."""

    def __init__(self, link: Any, sender: Sender) -> None:
        self._accepted_cx = link._accepted_cx  # noqa: SLF001 -- as the intake reads it
        self.calling_ae, self.called_ae, self.host = sender.calling_ae, sender.called_ae, sender.host


def _series(errand: Errand, series: SeriesPlan, ask: Ask) -> Iterator[str]:
    """Ask for one series; a peer that does not send single images is asked for all of it."""
    try:
        for request in requests(errand.plan, series):
            yield from _follow(errand, ask(request))
    except LevelRefused as refused:
        whole = Request(study_instance_uid=errand.plan.study_instance_uid, series_instance_uid=series.series_instance_uid)
        if requests(errand.plan, series) == [whole]:
            raise Refused(refused.reason) from refused
        yield from _follow(errand, ask(whole))
    except ValueError as error:  # no accepted context
        raise Refused(f"{errand.peer.name} does not offer {errand.plan.how.upper()} (Study Root)") from error
    except RuntimeError as error:
        raise Retryable("the association was lost before the request went out") from error


def _follow(errand: Errand, answers: Iterable[tuple[Dataset, Dataset | None]]) -> Iterator[str]:
    """Follow the responses to the last; what it counts as failed or warned of is given, never swallowed."""
    name, last = errand.peer.name, Dataset()
    for status, _identifier in answers:
        last = status
        errand.entrance.index(whole=False)
        if errand.plan.how == "c-move":
            errand.entrance.look()
        if errand.entrance.full is not None:
            raise Retryable(f"this node takes no more images: {errand.entrance.full}")
        errand.deadline.need()
        if status.get("Status") not in _PENDING:
            break
    code = last.get("Status")
    if code is None or code in _PENDING:
        errand.deadline.need()
        raise Retryable(f"{name} broke off, or was silent for too long, while it sent images")
    failed, warned = (int(last.get(f"NumberOf{what}Suboperations") or 0) for what in ("Failed", "Warning"))
    if failed:
        yield f"{name} could not send {failed} of the images asked for (status {code:04X})"
    if warned:
        yield f"{name} sent {warned} images with a warning"
    if code == _COMPLETE_WITH_FAILURES and not failed and not warned:
        yield f"{name} ended with a warning that it does not explain (status B000)"
    if code not in {0x0000, _COMPLETE_WITH_FAILURES}:
        raise _failure(errand, code)


def _failure(errand: Errand, code: int) -> Refused | Retryable:
    """Tell what a failure means and what to do. Ref: PS3.4 Tables C.4-2, C.4-3."""
    name, settings = errand.peer.name, errand.settings
    if code == _DESTINATION_UNKNOWN:
        to = errand.peer.move_to or settings.node.ae_titles[0]
        return Refused(f"{name} does not know the destination {to}: enter our AE title, host and port {settings.node.port} there")
    if code >> 8 == 0xA7 or code == 0xFE00:
        more = "; can it reach our listener?" if errand.plan.how == "c-move" else ""
        return Retryable(f"{name} could not perform the retrieval now (status {code:04X}){more}")
    return LevelRefused(f"{name} refuses the retrieval (status {code:04X}); its log says why")


def _grouped(series: Iterable[SeriesPlan]) -> Iterator[tuple[list[str], list[SeriesPlan]]]:
    """Give classes with the series that need them, few enough for one association."""
    classes: list[str] = []
    group: list[SeriesPlan] = []
    for entry in sorted(series, key=_classes):
        joined = sorted({*classes, *_classes(entry)})
        if group and len(joined) > CLASSES_A_LINK:
            yield classes, group
            classes, group, joined = [], [], _classes(entry)
        classes, group = joined, [*group, entry]
    if group:
        yield classes, group


def _classes(series: SeriesPlan) -> list[str]:
    known = {uid for uid in series.classes if is_storage_class(uid)}
    if not known or "" in series.classes:
        known.update(_MODALITY_CLASSES.get(series.modality, ()))
    return sorted(known) or [uid for uid in UID_dictionary if is_image_class(uid)][:CLASSES_MAX]


def _storage(classes: Sequence[str]) -> list[PresentationContext]:
    """Propose each class in each syntax by itself, or, of too many classes, each with all syntaxes."""
    if len(classes) <= CLASSES_A_LINK:
        return [build_context(uid, syntax) for uid in classes for syntax in SYNTAXES]
    return [build_context(uid, list(SYNTAXES)) for uid in classes]
