"""AET@HOST:PORT, as every command writes a peer."""

from __future__ import annotations

import re

from node.errors import Misconfigured
from node.settings import Peer

FORM = re.compile(r"^(?P<ae>[\x21-\x5b\x5d-\x7e]{1,16})@(?P<host>\[[0-9A-Fa-f:]+\]|[^\s:@]+):(?P<port>\d{1,5})$")


def peer(text: str, *, name: str = "peer", calling_ae: str | None = None) -> Peer:
    """Read AET@HOST:PORT (IPv6 in brackets); raises Misconfigured."""
    found = FORM.match(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise Misconfigured(f"{text!r} is not a DICOM peer; write AET@HOST:PORT, for example PACS@192.168.1.10:104")
    return Peer(name=name, ae_title=found["ae"], host=found["host"].strip("[]"), port=int(found["port"]), calling_ae=calling_ae)
