"""A small in-process PACS for the demo and the tests: echo, store, find, move, get, storage commitment, forwarding.

It answers on a loopback port, keeps every file byte for byte, and can be told to misbehave (Faults). It is no product:
it has no authentication beyond AE titles and no retention.
"""

from __future__ import annotations

from node.archive.faults import Faults
from node.archive.holdings import Held, Holdings
from node.archive.server import Archive, Reception

__all__ = ["Archive", "Faults", "Held", "Holdings", "Reception"]
