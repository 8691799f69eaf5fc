"""What pynetdicom's acceptor leaves open, and a hostile or broken caller would use."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from node.listener import Listener
from node.spool import Spool
from tests.node.listening import listening, soon
from tests.node.raw import ABORT, ASSOCIATE_RJ, RELEASE_RP, Caller, pdu, pdv, request, store_command
from tests.node.wire import ct, encoded

VERIFICATION = "1.2.840.10008.1.1"
WORKLIST = "1.2.840.10008.5.1.4.31"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    """Run a listener with short time-outs."""
    with listening(tmp_path, network_timeout_s=0.8, association_timeout_s=0.6) as running:
        yield running


def parts(listener: Listener) -> list[Path]:
    """Give the files of data sets that are half received."""
    return list((listener.settings.data_dir / "parts").iterdir())


def takes_a_study(listener: Listener) -> bool:
    """Tell whether an honest caller is still served; one too slow for the short time-outs asks again, as a PACS does."""
    ds = ct()
    for _ in range(5):
        with suppress(AssertionError, OSError), Caller(listener.port) as caller:
            caller.associate()
            return caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0x0000
    return False


def test_half_a_header(listener: Listener) -> None:
    """A connection that sends half a PDU header is closed at the time-out, associated or not."""
    with Caller(listener.port) as silent, Caller(listener.port) as associated:
        silent.send(b"\x01\x00\x00")
        associated.associate()
        associated.send(b"\x04\x00")
        assert silent.closed_by_peer()
        assert associated.closed_by_peer()
    soon(lambda: not listener.connections)


def test_drip(listener: Listener) -> None:
    """One byte at a time, each within the socket's time-out, does not keep a PDU open beyond its deadline."""
    with Caller(listener.port) as caller:
        caller.associate()
        caller.send(b"\x04\x00\x00\x00\x10\x00")
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.1):
                try:
                    caller.send(b"\0")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert caller.closed_by_peer()
        stop.set()
        dripping.join()
    assert listener.counters.broken == 1


def test_connections_hold_no_slots(tmp_path: Path) -> None:
    """Connections that never ask for an association take no slot, and the oldest yields when there are too many."""
    with listening(tmp_path, max_associations=3, association_timeout_s=30) as listener:
        idle = [Caller(listener.port) for _ in range(30)]
        assert idle[0].closed_by_peer()
        assert takes_a_study(listener)
        soon(lambda: len(listener.connections) <= 20)  # one that yielded is counted until its thread has ended
        for caller in idle:
            caller.socket.close()


def test_too_many_associations(tmp_path: Path) -> None:
    """One association more than the limit is rejected for now (local limit exceeded); a freed slot is given again."""
    with listening(tmp_path, max_associations=2) as listener, Caller(listener.port) as one:
        with Caller(listener.port) as two, Caller(listener.port) as three:
            one.associate()
            two.associate()
            three.send(request())
            kind, body = three.read()
            assert (kind, tuple(body[1:4])) == (ASSOCIATE_RJ, (2, 3, 2))
        soon(lambda: len(listener.connections) == 1)
        assert takes_a_study(listener)


@pytest.mark.parametrize("length", [4_294_967_295, 131_072 + 65])
def test_a_length_is_not_believed(listener: Listener, length: int) -> None:
    """A PDU longer than we announced is answered with an abort; nothing is allocated for what it claims."""
    before = psutil.Process().memory_info().rss
    with Caller(listener.port) as caller:
        caller.associate()
        caller.send(struct.pack(">BBL", 4, 0, length), bytes(1000))
        kind, body = caller.read()
        assert (kind, body[2:4]) == (ABORT, b"\x02\x06")
        assert caller.closed_by_peer()
    assert psutil.Process().memory_info().rss - before < 200_000_000
    assert takes_a_study(listener)


def test_a_request_of_4_gb(listener: Listener) -> None:
    """An association request that claims 4 GB is not read."""
    with Caller(listener.port) as caller:
        caller.send(struct.pack(">BBL", 1, 0, 4_294_967_295))
        assert caller.read()[0] == ABORT
        assert caller.closed_by_peer()


@pytest.mark.parametrize("pdv_length", [0, 1, 4_294_967_295])
def test_damaged_fragments(listener: Listener, pdv_length: int) -> None:
    """A fragment whose length lies inside its PDU ends the association, not the listener."""
    with Caller(listener.port) as caller:
        caller.associate()
        caller.send(pdu(4, struct.pack(">LBB", pdv_length, 1, 3) + b"1234"))
        assert caller.closed_by_peer()
    assert takes_a_study(listener)


def test_http(listener: Listener) -> None:
    """A hundred HTTP requests leave no thread behind, long before the association time-out."""
    before = threading.active_count()
    for _ in range(100):
        with Caller(listener.port) as caller:
            caller.send(b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n")
            caller.closed_by_peer()
    soon(lambda: threading.active_count() <= before, within_s=5)
    assert takes_a_study(listener)


def test_connects_that_leave_no_threads(tmp_path: Path) -> None:
    """A port scan's bare connects free their threads at once, not at the time-out."""
    with listening(tmp_path, association_timeout_s=60) as listener:
        before = threading.active_count()
        for _ in range(50):
            Caller(listener.port).socket.close()
        soon(lambda: threading.active_count() <= before, within_s=5)


@pytest.mark.parametrize("called", ["OTHER", "overread", "OVERREAD2"])
def test_wrong_called_ae(listener: Listener, called: str) -> None:
    """An AE title that is not ours is rejected for good: called AE title not recognised."""
    with Caller(listener.port) as caller:
        caller.send(request(called=called))
        kind, body = caller.read()
        assert kind == ASSOCIATE_RJ
        assert tuple(body[1:4]) == (1, 1, 7)


def test_broken_association_leaves_no_file(listener: Listener) -> None:
    """A data set whose association ends half-way, by silence, abort or release, leaves nothing on the disk."""
    ds = ct(rows=2048, columns=2100)
    data = encoded(ds)
    for ending in (b"", pdu(7, b"\0\0\0\0"), pdu(5, b"\0\0\0\0")):
        with Caller(listener.port) as caller:
            caller.associate()
            caller.send(pdv(store_command(CTImageStorage, ds.SOPInstanceUID), command=True))
            for at in range(0, 6_000_000, 100_000):
                caller.send(pdv(data[at : at + 100_000], last=False))
            soon(lambda: parts(listener))
            caller.send(ending)
        soon(lambda: not parts(listener) and not listener.connections)
    assert listener.counters.received == 0


def test_garbage_is_not_acknowledged(listener: Listener) -> None:
    """Garbage, and a data set cut off in its pixel data, are refused as not understood; the association goes on."""
    ds = ct()
    data = encoded(ds)
    with Caller(listener.port) as caller:
        caller.associate()
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, b"garbage!" * 100) == 0xC000
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, data[:-8]) == 0xC000
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, data) == 0x0000
    assert listener.counters.refused == {0xC000: 2}


def test_class_unlike_the_context(listener: Listener) -> None:
    """A SOP class other than the presentation context's is refused, even where the data set agrees with the request."""
    ds = ct(SOPClassUID=MRImageStorage)
    with Caller(listener.port) as caller:
        caller.associate()
        assert caller.store(MRImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0xA900


@pytest.mark.parametrize("uid", ["../../../etc/passwd", "1.2." + "3" * 70, "", "1.2.3\n"])
def test_path_in_a_uid(listener: Listener, uid: str) -> None:
    """A SOP Instance UID that is none is refused; no file is named after it."""
    ds = ct()
    with Caller(listener.port) as caller:
        caller.associate()
        assert caller.store(CTImageStorage, uid, encoded(ds)) == 0xA900
    assert not [path for path in listener.settings.data_dir.rglob("*") if path.suffix in {".dcm", ".part"}]


def test_worklist_is_no_storage(listener: Listener) -> None:
    """A worklist context is rejected (abstract syntax not supported) while new and private storage classes are accepted."""
    syntaxes = [ExplicitVRLittleEndian]
    offered = [
        WORKLIST,
        "1.2.840.10008.5.1.4.1.2.2.1",
        CTImageStorage,
        "1.2.840.10008.5.1.4.1.1.998.7",
        "1.3.12.2.1107.5.9.1",
        VERIFICATION,
    ]
    with Caller(listener.port) as caller:
        assert caller.associate([(uid, syntaxes) for uid in offered]) == [3, 3, 0, 0, 0, 0]
        ds = ct()
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds), context=5) == 0x0000


def test_store_in_a_rejected_context(listener: Listener) -> None:
    """A C-STORE in a context that was rejected aborts the association."""
    ds = ct()
    with Caller(listener.port) as caller:
        caller.associate([(WORKLIST, [ExplicitVRLittleEndian]), (CTImageStorage, [ExplicitVRLittleEndian])])
        caller.send(pdv(store_command(CTImageStorage, ds.SOPInstanceUID), command=True, context=1))
        assert caller.read()[0] == ABORT


def test_unknown_transfer_syntax(listener: Listener) -> None:
    """A transfer syntax that cannot be walked is not accepted; beside a known one the known one is chosen."""
    with Caller(listener.port) as caller:
        assert caller.associate([(CTImageStorage, ["1.2.3.4.5"]), (CTImageStorage, ["1.2.3.4.5", ExplicitVRLittleEndian])]) == [4, 0]


def test_request_without_a_data_set(listener: Listener) -> None:
    """A C-STORE that announces no data set is answered, and the association goes on."""
    ds = ct()
    with Caller(listener.port) as caller:
        caller.associate()
        caller.send(pdv(store_command(CTImageStorage, ds.SOPInstanceUID, data_set=0x0101), command=True))
        assert caller.status() == 0xC000
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0x0000


@pytest.mark.parametrize(
    "pdus",
    [
        [pdv(b"x" * 9000, command=True, last=False)] * 3,  # a command set without end
        [pdv(b"\0\0\0\1\xff\xff\xff\xff", command=True)],  # a command element past the end
        [pdv(store_command("1.2", "1.2"), command=True)] * 2,  # a command inside a data set
        [pdv(store_command(CTImageStorage, "1.2.3"), command=True), pdv(b"12345678", context=3)],
        [pdv(b"12345678")],  # a data set without a command
    ],
)
def test_violations(listener: Listener, pdus: list[bytes]) -> None:
    """What breaks the protocol ends the association; the listener serves on."""
    with Caller(listener.port, timeout_s=5) as caller:
        caller.associate()
        caller.send(*pdus)
        assert caller.closed_by_peer()
    assert listener.counters.broken == 1  # at the violation, not at the network time-out
    assert takes_a_study(listener)


def test_instance_without_end(tmp_path: Path) -> None:
    """A data set above the limit is refused (out of resources) without being kept; the association goes on."""
    with listening(tmp_path, max_instance_bytes=100_000) as listener, Caller(listener.port) as caller:
        caller.associate()
        big, small = ct(rows=400, columns=400), ct()
        assert caller.store(CTImageStorage, big.SOPInstanceUID, encoded(big)) == 0xA700
        assert caller.store(CTImageStorage, small.SOPInstanceUID, encoded(small)) == 0x0000
        assert not parts(listener)


def test_disk_full_and_free_again(tmp_path: Path) -> None:
    """Under the watermark senders are told to come again; above it the same association is served."""
    spool = Spool(tmp_path, free_disk_min_mb=1)
    ds = ct()
    with listening(tmp_path, spool=spool) as listener, Caller(listener.port) as caller:
        caller.associate()
        spool._free_min_bytes = 2**62
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0xA700
        spool._free_min_bytes = 0
        assert caller.store(CTImageStorage, ds.SOPInstanceUID, encoded(ds)) == 0x0000


def test_small_pdus_of_the_peer(listener: Listener) -> None:
    """A peer that takes only small PDUs gets its response in fragments."""
    ds = ct()
    with Caller(listener.port) as caller:
        caller.associate(max_pdu=80)
        caller.send(pdv(store_command(CTImageStorage, ds.SOPInstanceUID), command=True), pdv(encoded(ds)))
        received = b""
        while True:
            kind, body = caller.read()
            assert kind == 4
            assert len(body) <= 80
            received += body[6:]
            if body[5] & 2:
                break
        assert received.endswith(str(ds.SOPInstanceUID).encode() + b"\0" * (len(ds.SOPInstanceUID) % 2))


def test_requests_without_waiting(listener: Listener) -> None:
    """A caller that sends its next requests before the answers gets every answer, in order; then a release."""
    sets = [ct() for _ in range(5)]
    with Caller(listener.port) as caller:
        caller.associate()
        for ds in sets:
            caller.send(pdv(store_command(CTImageStorage, ds.SOPInstanceUID), command=True), pdv(encoded(ds)))
        assert [caller.status() for _ in sets] == [0] * 5
        caller.send(pdu(5, b"\0\0\0\0"))
        assert caller.read()[0] == RELEASE_RP


def test_many_descriptors(tmp_path: Path) -> None:
    """Descriptors beyond 1023 are no obstacle: select() would fail there."""
    import resource  # noqa: PLC0415

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("the hard limit of descriptors is too low")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, hard))
    held = [socket.socket() for _ in range(1100)]
    try:
        with listening(tmp_path) as listener:
            assert takes_a_study(listener)
    finally:
        for one in held:
            one.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_stop_lets_a_store_end(tmp_path: Path) -> None:
    """stop() lets a running C-STORE end and be acknowledged, then aborts; idle associations are aborted at once."""
    ds = ct(SOPInstanceUID=generate_uid())
    data = encoded(ds)
    with listening(tmp_path) as listener, Caller(listener.port) as busy, Caller(listener.port) as idle:
        busy.associate()
        idle.associate()
        busy.send(pdv(store_command(CTImageStorage, ds.SOPInstanceUID), command=True), pdv(data[:100], last=False))
        soon(lambda: any(link.dimse.busy for link in listener.connections))
        stopping = threading.Thread(target=listener.stop, args=(5,))
        stopping.start()
        assert idle.read()[0] == ABORT
        busy.send(pdv(data[100:]))
        assert busy.status() == 0x0000
        assert busy.read()[0] == ABORT
        stopping.join()
        with pytest.raises(ConnectionRefusedError):
            Caller(listener.port)


def test_stop_waits_for_no_silent_connection(tmp_path: Path) -> None:
    """stop() closes connections that never asked for an association, long before their time-out."""
    with listening(tmp_path, association_timeout_s=60) as listener, Caller(listener.port) as silent:
        soon(lambda: listener.connections)
        stopping = threading.Thread(target=listener.stop, args=(60,))
        stopping.start()
        assert silent.closed_by_peer()
        soon(lambda: not stopping.is_alive())
