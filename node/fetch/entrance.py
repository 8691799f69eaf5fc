"""The spool's door for images that were asked for: they enter as received ones do, and no others enter.

What is refused here is refused before it is kept: an image that nobody asked for, of another study or series, of another
patient. What the spool itself refuses (unreadable, cut off, no disk) it refuses here too.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node import journal
from node.fetch.known import here, patient_of
from node.fetch.plan import FetchPlan, Patient, Progress
from node.ledger import Ledger, instances
from node.listener.intake import Counters
from node.spool import OUT_OF_RESOURCES, Part, Spool, SpoolRefusal, StoreCommand, Stored
from node.study import Instance

log = journal.get("fetch")

NOT_AUTHORIZED = 0x0124  # Ref: PS3.7 9.1.1.1.9
INDEX_BATCH = 200
LOOK_S = 0.5
TIMES_MAX = 3  # that one image may come in one fetch: other bytes each time would fill the disk


@dataclass(frozen=True, slots=True, kw_only=True)
class Sender:
    """Who sends what is fetched, as the file meta information will say: the peer, to our title."""

    calling_ae: str
    called_ae: str
    host: str


class Entrance:
    """Where what a peer sends for one plan comes in; a Reception for node.listener.intake, whose thread may be another."""

    def __init__(self, spool: Spool, ledger: Ledger, plan: FetchPlan, progress: Progress) -> None:
        self.counters = Counters()
        self.max_bytes = spool.max_bytes
        self._door = spool
        self._ledger = ledger
        self._study_uid = plan.study_instance_uid
        self._series_of = {image.sop_instance_uid: entry.series_instance_uid for entry in plan.series for image in entry.listed}
        self._asked = frozenset(plan.missing)
        self._patient: Patient | None = plan.patient
        self._progress = progress
        self._lock = threading.Lock()
        self._waiting: list[Instance] = []
        self._times: dict[str, int] = defaultdict(int)
        self.retrieved: set[str] = set()
        self.refused: dict[str, set[str]] = defaultdict(set)
        self._looked_at = 0.0
        self.full: str | None = None  # why this node takes no more, when it does not

    @property
    def spool(self) -> Entrance:
        """Give the door, which for what was asked for is this one."""
        return self

    @property
    def settled(self) -> set[str]:
        """Give what need not be asked for again: it is here, or it was refused."""
        with self._lock:
            return self.retrieved.union(*self.refused.values())

    def begin(self, command: StoreCommand) -> Arrival:
        """Open a part for an image that comes; raises SpoolRefusal."""
        uid = command.sop_instance_uid
        try:
            self._expect(uid)
            return Arrival(self._door.begin(command, self._check), uid, self)
        except SpoolRefusal as refusal:
            self.refuse(uid, refusal, 0)
            raise

    def stored(self, stored: Stored) -> None:
        """Take note of a durable image; the index waits for `index`."""
        uid = stored.instance.sop_instance_uid
        with self._lock:
            self._waiting.append(stored.instance)
            if uid in self._asked:
                self.retrieved.add(uid)
            done = len(self.retrieved)
        self._progress(done, len(self._asked))

    def refuse(self, uid: str, refusal: SpoolRefusal, size_bytes: int) -> None:
        """Note a refusal; one for want of disk is no fault of the image."""
        log.warning("fetch.image_refused", study=self._study_uid, status=f"{refusal.status:04X}", reason=refusal.reason)
        if refusal.status == OUT_OF_RESOURCES and size_bytes <= self.max_bytes:
            self.full = refusal.reason
            return
        with self._lock:
            self.refused[refusal.reason].add(uid)  # no UID: of a part that says none

    def index(self, *, whole: bool = True) -> None:
        """Enter what came into the ledger: all, or only when a batch is full. Raises Retryable; the files are safe then."""
        with self._lock:
            if not self._waiting or (not whole and len(self._waiting) < INDEX_BATCH):
                return
            waiting, self._waiting = self._waiting, []
        try:
            instances.index(self._ledger, waiting)
        except BaseException:
            with self._lock:
                self._waiting = waiting + self._waiting
            raise

    def look(self) -> int:
        """Count what came to our own listener (C-MOVE), at most twice a second; give the last count."""
        if time.monotonic() - self._looked_at >= LOOK_S:
            arrived = here(self._ledger, self._asked)
            self._looked_at = time.monotonic()
            with self._lock:
                self.retrieved |= arrived
            self._progress(len(self.retrieved), len(self._asked))
        return len(self.retrieved)

    def _expect(self, uid: str) -> None:
        """Refuse, before its first byte, what nobody asked for."""
        if uid not in self._series_of:
            raise SpoolRefusal(NOT_AUTHORIZED, "not asked for: the peer's own list of these series does not have it")
        self._times[uid] += 1
        if self._times[uid] > TIMES_MAX:
            raise SpoolRefusal(NOT_AUTHORIZED, "sent again and again")

    def _check(self, header: Mapping[str, Any]) -> None:
        """Refuse what a header shows to be something else than what was asked for."""
        if header["StudyInstanceUID"] != self._study_uid:
            raise SpoolRefusal(NOT_AUTHORIZED, "the image belongs to another study than the one asked for")
        if header["SeriesInstanceUID"] != self._series_of[header["SOPInstanceUID"]]:
            raise SpoolRefusal(NOT_AUTHORIZED, "the image belongs to another series than the peer listed it in")
        patient = patient_of(dict(header))
        if self._patient is None:
            self._patient = patient
        elif not self._patient.is_same(patient):
            raise SpoolRefusal(NOT_AUTHORIZED, "the image carries another patient ID than the study; correct it in the PACS, then send it")


class Arrival:
    """A part whose refusals are noted with the image's UID."""

    def __init__(self, part: Part, uid: str, entrance: Entrance) -> None:
        self._part = part
        self._uid = uid
        self._entrance = entrance
        self._size_bytes = 0

    def write(self, piece: Any) -> None:
        """Take the next bytes; raises SpoolRefusal."""
        self._size_bytes += len(piece)
        try:
            self._part.write(piece)
        except SpoolRefusal as refusal:
            self._entrance.refuse(self._uid, refusal, self._size_bytes)
            raise

    def finish(self) -> Stored:
        """Check the image and make it durable; raises SpoolRefusal."""
        try:
            return self._part.finish()
        except SpoolRefusal as refusal:
            self._entrance.refuse(self._uid, refusal, self._size_bytes)
            raise

    def close(self) -> None:
        """Give up what was not kept; idempotent."""
        self._part.close()
