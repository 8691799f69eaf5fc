"""`python -m node.archive --dir D --ae-title T --port P --peer AET@HOST:PORT`: an archive in a process of its own."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from node import journal
from node.archive.server import Archive


def peer(text: str) -> tuple[str, tuple[str, int]]:
    """Read AET@HOST:PORT; raises ValueError, which argparse turns into usage."""
    ae_title, _, address = text.partition("@")
    host, _, port = address.rpartition(":")
    if not ae_title or not host:
        raise ValueError("a peer is AET@HOST:PORT")
    return ae_title, (host, int(port))


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; prints one JSON line with the port when ready."""
    parser = argparse.ArgumentParser(prog="python -m node.archive", description="A small archive for demos and tests.")
    parser.add_argument("--dir", type=Path, required=True, help="folder of its files")
    parser.add_argument("--ae-title", default="ARCHIVE")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any free port")
    parser.add_argument("--peer", type=peer, action="append", default=[], metavar="AET@HOST:PORT", help="a known AE (repeat)")
    options = parser.parse_args(arguments)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    journal.configure(process="archive")
    with Archive(options.dir, options.ae_title, options.port, dict(options.peer), host=options.host) as archive:
        sys.stdout.write(json.dumps({"port": archive.port}) + "\n")
        sys.stdout.flush()
        stopping.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
