"""Keep an association that we opened within bounds: time, silence, the size and number of answers.

pynetdicom believes a peer: it collects an identifier without end, queues answers nobody has taken, and waits for each
message anew, so that a peer that drips answers holds its caller for ever.
"""

from __future__ import annotations

import queue
import time
from typing import Any

from pynetdicom.pdu_primitives import P_DATA

from node.fetch.plan import Deadline
from node.peers import Mailbox
from node.settings import Settings

ANSWER_MAX_BYTES = 1024**2  # of one answer: command set and identifier
UNREAD_MAX = 10_000
LOOK_S = 0.25
INVALID_PDU = "Evt19"  # aborts the association: PS3.8 Table 9-10


class Patience:
    """Wait for messages until a deadline, or until nothing has come for a while (`silence_s` None: only the deadline)."""

    def __init__(self, deadline: Deadline, silence_s: float | None) -> None:
        self._deadline = deadline
        self._silence_s = silence_s
        self._heard_at = time.monotonic()

    def heard(self) -> None:
        """Note that something came."""
        self._heard_at = time.monotonic()

    def next(self, messages: queue.Queue[Any]) -> Any:
        """Give the next message; (None, None), which ends the association, when patience has."""
        while self._deadline.left_s and (self._silence_s is None or time.monotonic() - self._heard_at < self._silence_s):
            try:
                return messages.get(timeout=LOOK_S)
            except queue.Empty:
                continue
        return None, None


class Bounded(Mailbox):
    """The DIMSE layer of an association on which we only ask."""

    def __init__(self, link: Any, patience: Patience) -> None:
        super().__init__(link)
        self._patience = patience
        self._size = 0

    def receive_primitive(self, primitive: P_DATA) -> None:
        """Take fragments of an answer, up to its limit."""
        self._patience.heard()
        if self.message is None:
            self._size = 0
        self._size += sum(len(fragment) for _, fragment in primitive.presentation_data_value_list)
        if self._size > ANSWER_MAX_BYTES or self.msg_queue.qsize() > UNREAD_MAX:
            self.dul.event_queue.put(INVALID_PDU)
            return
        super().receive_primitive(primitive)

    def get_msg(self, block: bool = False) -> Any:  # noqa: FBT001, FBT002 -- pynetdicom's signature
        """Give the next message, as patient as we are."""
        return self._patience.next(self.msg_queue) if block else (None, None)


def bound(link: Any, deadline: Deadline, silence_s: float | None) -> None:
    """Bound an association that has just been opened."""
    link.dimse = Bounded(link, Patience(deadline, silence_s))


def within(settings: Settings, deadline: Deadline) -> Settings:
    """Give settings whose time-outs end no later than the deadline; raises Retryable when it has passed."""
    deadline.need()
    node = settings.node
    shorter = {
        "association_timeout_s": min(node.association_timeout_s, deadline.left_s),
        "network_timeout_s": min(node.network_timeout_s, deadline.left_s),
    }
    return settings.model_copy(update={"node": node.model_copy(update=shorter)})
