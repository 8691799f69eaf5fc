"""`overread send`: a folder of DICOM files to an AE."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.progress import Progress

from node import send
from node.settings import Settings
from overread.commands import address
from workers import folder


def main(source: Path, to: str, calling: str) -> int:
    """Send every DICOM file below the folder; exit code 0 when the peer stored all of them. Raises Refused, Retryable."""
    peer = address.peer(to, calling_ae=calling)
    files = folder.read(source)
    begin = time.perf_counter()
    with Progress(transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"to {peer.ae_title}", total=len(files))
        sent = send.store(Settings(), peer, files, lambda _entry: progress.advance(task))
    print(f"{sent.stored} of {len(files)} files stored by {to} in {time.perf_counter() - begin:.1f} s")
    for why, count in sent.refused.items():
        print(f"{count} refused: {why}")
    return 0 if sent.stored == len(files) else 1
