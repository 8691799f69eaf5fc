"""Delivery to servers that others wrote: Orthanc with storage commitment and queries, DCMTK's storescp."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread

from node import commitment, deliver, query
from node.archive.holdings import data_set_of
from node.ledger import Ledger, deliveries
from node.listener import Listener
from node.settings import Peer
from node.spool import Spool
from node.study import DeliveryState
from tests.node.archive_files import image, write
from tests.node.conftest import Clock
from tests.node.delivery import claim_of, peer_at, proof_of, settings_for, state_of, sweep, written
from tests.real.orthanc import Orthanc, orthanc
from tests.real.processes import Server, free_port, running, wait_for
from tests.servers import require

pytestmark = pytest.mark.real
LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.7"


@pytest.fixture(scope="module")
def node_port() -> int:
    """Choose where the node takes Orthanc's reports."""
    return free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, node_port: int) -> Iterator[Orthanc]:
    """Run one Orthanc for this file's tests."""
    with orthanc(tmp_path_factory.mktemp("orthanc"), node_port=node_port, extra={"LuaScripts": []}) as running_server:
        yield running_server


@pytest.fixture
def ledger_url() -> str:
    """Use SQLite: the ledger's own tests run on both databases."""
    return "sqlite"


@pytest.fixture
def listening(ledger: Ledger, node_port: int) -> Iterator[None]:
    """Run the node's listener on the port that Orthanc knows."""
    settings = settings_for(ledger)
    settings = settings.model_copy(update={"node": settings.node.model_copy(update={"port": node_port})})
    listener = Listener(settings, ledger, Spool(ledger.data_dir, 0))
    listener.start()
    yield
    listener.stop()


@pytest.fixture
def peer(server: Orthanc) -> Peer:
    """Give Orthanc as a peer that commits and may be queried."""
    return peer_at(server.dicom_port, ae_title=server.ae_title, storage_commitment=True, query=True)


def file_of(server: Orthanc, sop_instance_uid: str, folder: Path) -> Path:
    """Fetch one instance's file from Orthanc."""
    [ident] = server.call("/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": sop_instance_uid}})
    path = folder / "fetched.dcm"
    path.write_bytes(server.file(ident))
    return path


@pytest.mark.usefixtures("listening")
def test_orthanc_stores_our_bytes_and_commits(ledger: Ledger, server: Orthanc, peer: Peer, tmp_path: Path) -> None:
    """SEG and SR arrive byte for byte; Orthanc's report on a new association to our listener makes the delivery COMMITTED."""
    parcel = written(ledger)
    deliver.send(settings_for(ledger, peer), ledger, claim_of(ledger, parcel))
    wait_for(lambda: state_of(ledger, parcel).state is DeliveryState.COMMITTED, seconds=20, what="Orthanc's report", every_s=0.05)
    for entry in parcel.objects:
        fetched = file_of(server, entry.sop_instance_uid, tmp_path)
        assert data_set_of(fetched) == data_set_of(ledger.data_dir / entry.path)


@pytest.mark.usefixtures("listening")
def test_orthanc_reports_what_it_lost_and_gets_it_again(ledger: Ledger, server: Orthanc, peer: Peer, clock: Clock) -> None:
    """An object deleted there before we ask comes back as event type 2: it alone is sent again, then committed."""
    parcel = written(ledger, job_id="job-2")
    without = settings_for(ledger, peer.model_copy(update={"storage_commitment": False, "query": False}))
    claim = claim_of(ledger, parcel)
    for entry in parcel.objects:  # the send of an earlier process that died before it asked
        with deliver.association(without, peer, [deliver.build_context(entry.sop_class_uid, entry.transfer_syntax_uid)]) as link:
            assert link.send_c_store(ledger.data_dir / entry.path).Status == 0x0000
        assert deliveries.object_sent(ledger, claim, entry.sop_instance_uid, 0)
    lost = parcel.objects[0].sop_instance_uid
    [ident] = server.call("/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": lost}})
    server.raw(f"/instances/{ident}", method="DELETE")
    settings = settings_for(ledger, peer)
    clock.now += 10  # its lease is over
    deliver.send(settings, ledger, claim_of(ledger, parcel))
    wait_for(lambda: state_of(ledger, parcel).state is DeliveryState.PENDING, seconds=20, what="Orthanc's report", every_s=0.05)
    assert lost not in state_of(ledger, parcel).sent
    assert parcel.objects[1].sop_instance_uid in state_of(ledger, parcel).sent
    clock.now += 1000
    deliver.send(settings, ledger, claim_of(ledger, parcel))
    wait_for(lambda: state_of(ledger, parcel).state is DeliveryState.COMMITTED, seconds=20, what="Orthanc's report", every_s=0.05)


def test_orthanc_whose_reports_do_not_reach_us_proves_by_query(ledger: Ledger, peer: Peer, clock: Clock) -> None:
    """Nobody listens for the report: after three requests C-FIND shows both objects."""
    parcel = written(ledger, job_id="job-3")
    settings = settings_for(ledger, peer)
    deliver.send(settings, ledger, claim_of(ledger, parcel))
    for _ in range(commitment.ASKS_MAX):
        assert state_of(ledger, parcel).state is DeliveryState.SENT
        clock.now += 301
        sweep(settings, ledger, clock.now)
    assert state_of(ledger, parcel).state is DeliveryState.ACCEPTED
    assert proof_of(ledger, parcel) == "C-FIND: 2 of 2 instances; no commitment report after 3 requests"


def test_orthanc_counts_a_study_series_by_series(ledger: Ledger, server: Orthanc, peer: Peer, tmp_path: Path) -> None:
    """NumberOfSeriesRelatedInstances of every series, and nothing for a study that Orthanc does not know."""
    study_uid = "1.2.826.0.1.3680043.10.99.1"
    for series, count in (("1", 3), ("2", 1)):
        server.upload([write(image(study_uid, f"{study_uid}.{series}", n), tmp_path / f"{series}-{n}.dcm") for n in range(count)])
    settings = settings_for(ledger, peer)
    assert query.series_counts(settings, peer, study_uid) == {f"{study_uid}.1": 3, f"{study_uid}.2": 1}
    assert query.series_counts(settings, peer, study_uid + ".9") == {}


def test_orthanc_that_does_not_know_us_rejects_for_good(ledger: Ledger, peer: Peer) -> None:
    """FAILED with Orthanc's reason, without a second try."""
    parcel = written(ledger, job_id="job-4")
    stranger = peer.model_copy(update={"calling_ae": "STRANGER", "storage_commitment": False})
    deliver.send(settings_for(ledger, stranger), ledger, claim_of(ledger, parcel))
    failed = state_of(ledger, parcel)
    assert failed.state is DeliveryState.FAILED, failed.reason
    assert peer.ae_title in (failed.reason or "")


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[tuple[Peer, Path]]:
    """Run DCMTK's storescp, which keeps the data sets bit by bit; gives it as a peer, and its folder."""
    folder, port = tmp_path / "storescp", free_port()
    folder.mkdir()
    command = [require("storescp"), "+B", "-od", str(folder), str(port)]
    with running(Server(command=command, log=tmp_path / "storescp.log", port=port)):
        yield peer_at(port, ae_title="STORESCP"), folder


def test_storescp_stores_our_bytes(ledger: Ledger, storescp: tuple[Peer, Path]) -> None:
    """Both files lie in its folder with the same data sets."""
    peer, folder = storescp
    parcel = written(ledger)
    deliver.send(settings_for(ledger, peer), ledger, claim_of(ledger, parcel))
    assert state_of(ledger, parcel).state is DeliveryState.ACCEPTED
    kept = {str(dcmread(path).SOPInstanceUID): data_set_of(path) for path in folder.iterdir()}
    assert kept == {entry.sop_instance_uid: data_set_of(ledger.data_dir / entry.path) for entry in parcel.objects}


def test_a_class_that_storescp_does_not_know_is_named_and_nothing_is_sent(ledger: Ledger, storescp: tuple[Peer, Path]) -> None:
    """DCMTK 3.6.7 has no label map segmentation: the reason names it, and the fallback profile is asked for."""
    peer, folder = storescp
    parcel = written(ledger)
    claim = claim_of(ledger, parcel)
    objects = (parcel.objects[0], replace(parcel.objects[1], sop_class_uid=LABEL_MAP))
    deliver.send(settings_for(ledger, peer), ledger, replace(claim, parcel=replace(parcel, objects=objects)))
    refused = state_of(ledger, parcel)
    assert (refused.state, refused.wants_profile) == (DeliveryState.PENDING, "basic")
    assert LABEL_MAP in refused.refusals[-1]["reason"]
    assert list(folder.iterdir()) == []
