"""How fast images are received, beside storescp, Orthanc and a bare TCP receiver, at equal durability.

Every receiver is a process of its own and gets the same images from the same sender, which replays PDUs built beforehand, so that
the receiver is what is measured. One association, each image waits for the last one's answer: so a modality sends.

    synced      each image on the disk before its answer: file and folder (us, the floor), the file alone (Orthanc's default)
    unsynced    nobody syncs: storescp never does, Orthanc with SyncStorageArea off, we with a switch that only this script uses

DCMTK runs with TCP_NODELAY=1: Debian's build leaves Nagle's algorithm on, 40 ms an answer, and anything else would flatter us.
Receivers take turns; each round's wall time is divided by its peer's of the same round, and the median ratio counts.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CT = "1.2.840.10008.5.1.4.1.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
MAX_PDU = 131072
Blobs = list[bytes]
# Ours as a multiple of the peer's wall time, at most: the goals that --json reports.
GOALS = {"synced / floor": 1.5, "unsynced / orthanc": 1.0, "unsynced / storescp": 4.0}


def images(count: int, size: int) -> list[tuple[str, bytes]]:
    """Make the data sets of a CT series; gives (SOP Instance UID, bytes)."""
    generator = np.random.default_rng(7)
    made = []
    for number in range(1, count + 1):
        uid = f"1.2.826.0.1.3680043.8.498.1.{time.time_ns()}.{number}"
        pixels = generator.integers(-1000, 2000, (size, size), dtype="<i2").tobytes()
        elements = [
            (0x0008, 0x0008, b"CS", b"ORIGINAL\\PRIMARY\\AXIAL"), (0x0008, 0x0016, b"UI", CT.encode()),
            (0x0008, 0x0018, b"UI", uid.encode()), (0x0008, 0x0060, b"CS", b"CT"), (0x0010, 0x0010, b"PN", b"Bench^Receive"),
            (0x0010, 0x0020, b"LO", b"BENCH"), (0x0020, 0x000D, b"UI", b"1.2.3.4.5"), (0x0020, 0x000E, b"UI", b"1.2.3.4.5.6"),
            (0x0020, 0x0013, b"IS", str(number).encode()), (0x0020, 0x0032, b"DS", f"0\\0\\{number}".encode()),
            (0x0020, 0x0037, b"DS", b"1\\0\\0\\0\\1\\0"), (0x0028, 0x0002, b"US", b"\1\0"), (0x0028, 0x0004, b"CS", b"MONOCHROME2"),
            (0x0028, 0x0010, b"US", struct.pack("<H", size)), (0x0028, 0x0011, b"US", struct.pack("<H", size)),
            (0x0028, 0x0030, b"DS", b"0.7\\0.7"), (0x0028, 0x0100, b"US", b"\20\0"), (0x0028, 0x0101, b"US", b"\20\0"),
            (0x0028, 0x0102, b"US", b"\17\0"), (0x0028, 0x0103, b"US", b"\1\0"),
        ]  # fmt: skip
        data = b"".join(element(*entry) for entry in elements)
        made.append((uid, data + struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OW", 0, len(pixels)) + pixels))
    return made


def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    """Encode an element in explicit VR little endian."""
    value += (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", group, number, vr, len(value)) + value


def as_pdus(uid: str, data: bytes, max_pdu: int) -> bytes:
    """Encode one C-STORE request, command and data set, in PDUs of the receiver's size."""
    elements = [(0x0002, CT.encode()), (0x0100, b"\1\0"), (0x0110, b"\1\0"), (0x0700, b"\0\0"), (0x0800, b"\1\0"), (0x1000, uid.encode())]
    body = b"".join(struct.pack("<HHL", 0, tag, len(value) + len(value) % 2) + value + b"\0" * (len(value) % 2) for tag, value in elements)
    command = struct.pack("<HHLL", 0, 0, 4, len(body)) + body
    pieces = [pdu(b"\3" + command)]
    step = max_pdu - 6
    pieces += [pdu((b"\2" if at + step >= len(data) else b"\0") + data[at : at + step]) for at in range(0, len(data), step)]
    return b"".join(pieces)


def pdu(fragment: bytes) -> bytes:
    """Wrap a fragment in a P-DATA-TF PDU."""
    return struct.pack(">BBLLB", 4, 0, len(fragment) + 5, len(fragment) + 1, 1) + fragment


def read(link: socket.socket, count: int) -> bytes:
    """Read exactly so many bytes."""
    data = b""
    while len(data) < count:
        piece = link.recv(count - len(data))
        if not piece:
            raise SystemExit("the receiver closed the connection")
        data += piece
    return data


def connect(port: int) -> socket.socket:
    """Connect without Nagle's algorithm."""
    link = socket.create_connection(("127.0.0.1", port), 60)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


def associate(port: int) -> tuple[socket.socket, int]:
    """Open an association for CT; gives the link and the receiver's maximum PDU."""

    def item(kind: int, body: bytes) -> bytes:
        return struct.pack(">BBH", kind, 0, len(body)) + body

    link = connect(port)
    body = struct.pack(">HH16s16s32x", 1, 0, b"OVERREAD".ljust(16), b"BENCH".ljust(16)) + item(0x10, b"1.2.840.10008.3.1.1.1")
    body += item(0x20, b"\1\0\0\0" + item(0x30, CT.encode()) + item(0x40, EXPLICIT.encode()))
    body += item(0x50, item(0x51, struct.pack(">L", MAX_PDU)) + item(0x52, b"1.2.3.4"))
    link.sendall(struct.pack(">BBL", 1, 0, len(body)) + body)
    head = read(link, 6)
    answer = read(link, int.from_bytes(head[2:], "big"))
    if head[0] != 2:
        raise SystemExit(f"association refused: {head!r} {answer!r}")
    at = answer.index(b"\x51\0\0\4") + 4
    return link, int.from_bytes(answer[at : at + 4], "big") or MAX_PDU


def send_dicom(port: int, sets: list[tuple[str, bytes]]) -> float:
    """Send every image and wait for each answer; gives the seconds."""
    link, max_pdu = associate(port)
    blobs = [as_pdus(uid, data, min(max_pdu, MAX_PDU)) for uid, data in sets]
    begin = time.perf_counter()
    for blob in blobs:
        link.sendall(blob)
        answer = read(link, int.from_bytes(read(link, 6)[2:], "big"))
        at = answer.index(b"\0\0\0\x09\2\0\0\0") + 8
        if answer[at : at + 2] != b"\0\0":
            raise SystemExit(f"status {answer[at : at + 2]!r}")
    seconds = time.perf_counter() - begin
    link.sendall(b"\5\0\0\0\0\4\0\0\0\0")
    link.close()
    return seconds


def send_plain(port: int, sets: list[tuple[str, bytes]]) -> float:
    """Send every image to the floor; gives the seconds."""
    link = connect(port)
    begin = time.perf_counter()
    for _, data in sets:
        link.sendall(struct.pack(">Q", len(data)))
        link.sendall(data)
        read(link, 1)
    seconds = time.perf_counter() - begin
    link.close()
    return seconds


def serve_floor(folder: Path, *, fsync: bool) -> None:
    """Receive bytes over plain TCP into files, synced like ours: what Python and the disk allow."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(server.getsockname()[1], flush=True)
        buffer = memoryview(bytearray(1024**2))
        number = 0
        while True:
            link, _ = server.accept()
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while head := link.recv(8, socket.MSG_WAITALL):
                number += 1
                keep_plain(link, folder / str(number), buffer, (int.from_bytes(head, "big"), fsync))
                link.sendall(b"\0")


def keep_plain(link: socket.socket, path: Path, buffer: memoryview, what: tuple[int, bool]) -> None:
    """Write one image as it comes: .part, sync, rename, sync the folder."""
    left, fsync = what
    part = path.with_suffix(".part")
    handle = os.open(part, os.O_CREAT | os.O_WRONLY)
    while left:
        count = link.recv_into(buffer[: min(left, len(buffer))])
        os.write(handle, buffer[:count])
        left -= count
    if fsync:
        os.fsync(handle)
    os.close(handle)
    part.rename(path)
    if fsync:
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def serve_us(folder: Path, *, fsync: bool) -> None:
    """Run our listener with its ledger."""
    from node import journal  # noqa: PLC0415
    from node.ledger import open_ledger  # noqa: PLC0415
    from node.listener import Listener  # noqa: PLC0415
    from node.settings import Settings  # noqa: PLC0415
    from node.spool import Spool  # noqa: PLC0415

    journal.configure(process="listener", level="WARNING")
    settings = Settings.model_validate({"node": {"data_dir": folder, "port": 0, "free_disk_min_mb": 0}})
    listener = Listener(settings, open_ledger(settings), Spool(folder, fsync=fsync))
    listener.start()
    print(listener.port, flush=True)
    threading.Event().wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """A running receiver."""

    name: str
    port: int
    process: psutil.Process
    send: Callable[[int, list[tuple[str, bytes]]], float] = send_dicom


@contextmanager
def own(name: str, serve: str, folder: Path, *, fsync: bool) -> Iterator[Receiver]:
    """Run this script as a receiver."""
    folder.mkdir(parents=True)
    line = [sys.executable, __file__, "--serve", serve, "--dir", str(folder), *([] if fsync else ["--no-fsync"])]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Receiver(name=name, port=port, process=psutil.Process(process.pid), send=send_plain if serve == "floor" else send_dicom)
        process.kill()


@contextmanager
def peer(name: str, line: list[str], port: int) -> Iterator[Receiver]:
    """Run a peer's server until the block ends."""
    environment = {**os.environ, "TCP_NODELAY": "1"}
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        for _ in range(300):
            time.sleep(0.1)
            try:
                connect(port).close()
                break
            except OSError:
                continue
        time.sleep(0.5)
        yield Receiver(name=name, port=port, process=psutil.Process(process.pid))
        process.kill()


def storescp(folder: Path) -> Any:
    """Run DCMTK's storescp, bytes kept as they come."""
    folder.mkdir(parents=True)
    port = free_port()
    binary = Path(shutil.which("dcmsend") or "").with_name("storescp")  # pynetdicom installs a command of the same name
    return peer("storescp", [str(binary), "+B", "-pdu", str(MAX_PDU), "-od", str(folder), str(port)], port)


def orthanc(folder: Path, *, fsync: bool) -> Any:
    """Run Orthanc with its SQLite index."""
    folder.mkdir(parents=True)
    port = free_port()
    settings = {
        "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"), "DicomPort": port, "DicomAet": "OVERREAD",
        "HttpServerEnabled": False, "DicomAlwaysAllowStore": True, "MaximumPduLength": MAX_PDU, "SyncStorageArea": fsync, "Plugins": [],
        "DicomCheckCalledAet": False, "StorageCompression": False, "OverwriteInstances": True,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    return peer("orthanc", [shutil.which("Orthanc") or "", str(folder / "orthanc.json")], port)


def free_port() -> int:
    """Find a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def measure(receivers: list[Receiver], count: int, size: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Send a fresh series to each receiver in turn, after one round to warm up; gives wall and CPU seconds a round."""
    figures: dict[str, dict[str, list[float]]] = {one.name: {"wall": [], "cpu": []} for one in receivers}
    for number in range(rounds + 1):
        for one in receivers:
            sets = images(count if number else 5, size)
            before = sum(one.process.cpu_times()[:2])
            wall = one.send(one.port, sets)
            if number:
                figures[one.name]["wall"].append(wall)
                figures[one.name]["cpu"].append(sum(one.process.cpu_times()[:2]) - before)
    return figures


def compare(kind: str, receivers: list[Receiver], options: argparse.Namespace) -> dict[str, float]:
    """Measure and print one table; gives our wall time as a multiple of each peer's."""
    figures = measure(receivers, options.count, options.size, options.rounds)
    ratios = {}
    print(f"\n{kind}: {options.count} CT of {options.size} x {options.size}, {options.rounds} rounds, medians")
    print(f"{'receiver':12} {'images/s':>9} {'ms/image':>9} {'CPU ms/image':>13} {'RSS MB':>7} {'our wall / its':>15}")
    for one in receivers:
        wall, cpu = figures[one.name]["wall"], figures[one.name]["cpu"]
        ratio = statistics.median(ours / theirs for ours, theirs in zip(figures["overread"]["wall"], wall, strict=True))
        if one.name != "overread":
            ratios[f"{kind} / {one.name}"] = round(ratio, 3)
        middle = statistics.median(wall) / options.count * 1000
        busy, rss = statistics.median(cpu) / options.count * 1000, one.process.memory_info().rss / 1e6
        print(f"{one.name:12} {1000 / middle:9.0f} {middle:9.2f} {busy:13.2f} {rss:7.0f} {ratio:15.2f}")
    return ratios


def main() -> None:
    """Run both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100, help="images a round")
    parser.add_argument("--size", type=int, default=512, help="rows and columns")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--dir", type=Path, help="where the receivers write (default: a temporary folder); its disk is what is measured")
    parser.add_argument("--serve", choices=["us", "floor"], help=argparse.SUPPRESS)
    parser.add_argument("--no-fsync", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        {"us": serve_us, "floor": serve_floor}[options.serve](options.dir, fsync=not options.no_fsync)
        return
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="overread-bench-", dir=options.dir, ignore_cleanup_errors=True) as name:
        for kind, fsync in (("synced", True), ("unsynced", False)):
            folder = Path(name) / kind
            with ExitStack() as stack:
                receivers = [
                    stack.enter_context(own("floor", "floor", folder / "floor", fsync=fsync)),
                    stack.enter_context(own("overread", "us", folder / "overread", fsync=fsync)),
                ]
                if shutil.which("Orthanc"):
                    receivers.append(stack.enter_context(orthanc(folder / "orthanc", fsync=fsync)))
                if shutil.which("dcmsend") and not fsync:
                    receivers.append(stack.enter_context(storescp(folder / "storescp")))
                ratios.update(compare(kind, receivers, options))
    goals = {key: goal for key, goal in GOALS.items() if key in ratios}
    print("\nSynced, Orthanc syncs the file only, one journal commit an image where the floor and we have two: a name may be lost in a")
    print("power cut, so that ratio has no goal. storescp never syncs and stands in the unsynced table only.")
    if options.json:
        holds = all(ratios[key] <= goal for key, goal in goals.items())
        print(json.dumps({"name": "receive", "ratios": ratios, "goals": goals, "holds": holds}))


if __name__ == "__main__":
    main()
