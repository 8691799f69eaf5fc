"""Associations with peers: who may call, TLS, and verdicts that say what to do."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian
from pynetdicom import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from node.errors import Misconfigured, Refused, Retryable
from node.peers import association, client_tls, echo
from node.settings import Peer, Settings
from tests.node.listening import listening, soon, us
from tests.node.raw import Caller
from tests.node.wire import ct
from tests.servers import require

SETTINGS = Settings.model_validate({"node": {"association_timeout_s": 1, "network_timeout_s": 1}})


def test_several_ae_titles_and_callers(tmp_path: Path) -> None:
    """Every one of our titles is answered; only allowed callers from their hosts are, others are rejected for good."""
    callers = [
        {"ae_title": "CT1", "hosts": ["127.0.0.0/8"]},
        {"ae_title": "CT2", "hosts": ["10.9.8.7"]},
        {"ae_title": "CT3"},
        {"ae_title": "CT4", "hosts": ["localhost"]},
    ]
    with listening(tmp_path, ae_titles=["OVERREAD", "BRAIN"], allowed_callers=callers) as listener:
        for title in ("OVERREAD", "BRAIN"):
            for calling in ("CT1", "CT3", "CT4"):
                echo(listener.settings, us(listener, ae_title=title, calling_ae=calling))
        for calling in ("CT2", "NOBODY"):
            with pytest.raises(Refused, match=r"[Cc]alling AE"):
                echo(listener.settings, us(listener, calling_ae=calling))
        with pytest.raises(Refused, match=r"[Cc]alled AE"):
            echo(listener.settings, us(listener, ae_title="OTHER", calling_ae="CT1"))
        assert listener.counters.rejected == 3


def test_nobody_listens() -> None:
    """A port on which nobody listens, and a name that is no host, are worth another try."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for host in ("127.0.0.1", "no-such-host.invalid"):
        with pytest.raises(Retryable, match="cannot be reached"):
            echo(SETTINGS, Peer(name="pacs", ae_title="PACS", host=host, port=port))


def test_answers_are_for_the_one_who_asked(tmp_path: Path) -> None:
    """A message that has come is not taken, and lost, by the reactor's look for requests, however often it looks."""
    with listening(tmp_path) as listener, association(listener.settings, us(listener), [build_context(Verification)]) as link:
        link.dimse.msg_queue.put((1, "an answer"))
        looks = threading.Event()
        for _ in range(20):  # the reactor looks every millisecond
            assert not looks.wait(0.01)
        assert link.dimse.get_msg(block=True) == (1, "an answer")


def test_a_pdu_beyond_all_limits_is_not_read(tmp_path: Path) -> None:
    """A peer that announces 4 GB ends the association at once; nothing is collected for it."""

    def lie(server: socket.socket) -> None:
        link, _ = server.accept()
        with link:
            link.recv(65536)
            link.sendall(bytes.fromhex("02 00 ffffffff"))
            link.settimeout(5)
            with suppress(OSError):
                while link.recv(65536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=lie, args=(server,), daemon=True)
        thread.start()
        with pytest.raises(Retryable):
            echo(
                Settings.model_validate({"node": {"association_timeout_s": 30}}),
                Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=server.getsockname()[1]),
            )
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture
def silent() -> Iterator[int]:
    """Listen on a port, accept, and never say a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for one in held:
            one.close()


def test_peer_that_never_answers(silent: int) -> None:
    """A peer that accepts the connection and says nothing is given up at the time-out."""
    with pytest.raises(Retryable):
        echo(SETTINGS, Peer(name="pacs", ae_title="PACS", host="127.0.0.1", port=silent))


def test_no_context_accepted(tmp_path: Path) -> None:
    """A peer that accepts none of our contexts refuses for good."""
    with listening(tmp_path) as listener:
        worklist = build_context("1.2.840.10008.5.1.4.31")
        with pytest.raises(Refused, match="none of the presentation contexts"), association(SETTINGS, us(listener), [worklist]):
            pass


def test_rejected_for_now(tmp_path: Path) -> None:
    """A rejection for want of slots is worth another try."""
    with listening(tmp_path, max_associations=1) as listener, Caller(listener.port) as first:
        first.associate()
        with pytest.raises(Retryable, match="rejects the association"):
            echo(SETTINGS, us(listener))


def test_block_that_raises(tmp_path: Path) -> None:
    """An error inside the block aborts the association and comes out unchanged; the end of the block releases it."""
    with listening(tmp_path) as listener:
        contexts = [build_context(CTImageStorage)]
        with pytest.raises(ZeroDivisionError), association(SETTINGS, us(listener), contexts) as link:
            1 / 0  # noqa: B018
        assert link.is_aborted or not link.is_established
        with association(SETTINGS, us(listener), contexts) as link:
            assert link.is_established
        assert link.is_released
        soon(lambda: not listener.connections)


def certificate(folder: Path, name: str, authority: Path | None = None) -> Path:
    """Make a key and a certificate for 127.0.0.1, signed by itself or by an authority."""
    base = folder / name
    line = [require("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    line += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", f"{base}.key", "-out", f"{base}.pem"]
    if authority is not None:
        line += ["-CA", f"{authority}.pem", "-CAkey", f"{authority}.key", "-addext", "basicConstraints=CA:FALSE"]
    subprocess.run(line, check=True, capture_output=True)
    return base


def test_tls_both_ways(tmp_path: Path) -> None:
    """With TLS a peer of our authority is served; one without a certificate, and one that speaks plainly, are not."""
    ours, strange = certificate(tmp_path, "authority"), certificate(tmp_path, "stranger")
    tls = {"tls_certificate": f"{ours}.pem", "tls_key": f"{ours}.key", "tls_ca": f"{ours}.pem"}
    with listening(tmp_path / "data", association_timeout_s=2, network_timeout_s=2, **tls) as listener:
        echo(listener.settings, us(listener, tls=True))
        ds = ct(rows=700, columns=700)
        with association(listener.settings, us(listener, tls=True), [build_context(CTImageStorage)]) as link:
            ds.file_meta = FileMetaDataset()
            ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
            assert link.send_c_store(ds).Status == 0x0000
        without = Settings.model_validate({"node": {"tls_ca": f"{ours}.pem", "association_timeout_s": 2}})
        with pytest.raises(Retryable):
            echo(without, us(listener, tls=True))
        other = {"tls_certificate": f"{strange}.pem", "tls_key": f"{strange}.key", "tls_ca": f"{strange}.pem"}
        with pytest.raises(Retryable):
            echo(Settings.model_validate({"node": {**other, "association_timeout_s": 2}}), us(listener, tls=True))
        with pytest.raises(Retryable):
            echo(Settings.model_validate({"node": {"association_timeout_s": 2}}), us(listener))


def test_tls_handshake_blocks_nobody(tmp_path: Path) -> None:
    """A caller that never ends its TLS handshake keeps no other from being served, and is closed at the time-out."""
    ours = certificate(tmp_path, "authority")
    tls = {"tls_certificate": f"{ours}.pem", "tls_key": f"{ours}.key", "tls_ca": f"{ours}.pem"}
    with listening(tmp_path / "data", association_timeout_s=1, **tls) as listener, Caller(listener.port) as silent:
        echo(listener.settings, us(listener, tls=True))
        silent.socket.settimeout(5)
        assert silent.closed_by_peer()


def test_tls_files_that_are_none(tmp_path: Path) -> None:
    """TLS files that cannot be read name the settings."""
    broken = Settings.model_validate({"node": {"tls_ca": str(tmp_path / "absent.pem")}})
    with pytest.raises(Misconfigured, match="tls_ca"):
        client_tls(broken)
