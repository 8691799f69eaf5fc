"""Parcels with real files, settings with peers and the claims to send them: what tests of delivery start from."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from node import commitment
from node.ledger import Ledger, deliveries, instances, jobs
from node.ledger.deliveries import DeliveryClaim
from node.ledger.schema import DELIVERIES
from node.settings import NodeSection, Peer, Settings
from node.study import Delivery, Job, Parcel, ParcelObject
from tests.node.archive_files import image, write
from tests.node.work import at_compose, job_plan, planned, slices

SEG = "1.2.840.10008.5.1.4.1.1.66.4"
SR = "1.2.840.10008.5.1.4.1.1.88.33"
EXPLICIT = "1.2.840.10008.1.2.1"
LEASE_S = 8.0


def settings_for(ledger: Ledger, *peers: Peer) -> Settings:
    """Give settings of a node with this ledger's data folder; waits are short."""
    node = NodeSection(data_dir=ledger.data_dir, association_timeout_s=5, network_timeout_s=5)
    return Settings(node=node, peers=peers)


def peer_at(port: int, **changes: Any) -> Peer:
    """Give the settings of an archive on loopback, which may be asked nothing unless `changes` say so."""
    return Peer(**{"name": "archive", "ae_title": "PACS", "host": "127.0.0.1", "port": port} | changes)


def written(ledger: Ledger, *destinations: str, job_id: str = "job-1", profile: str = "ohif") -> Parcel:
    """Bring a job to WRITTEN with a parcel of two files, a SEG and an SR class, and its deliveries."""
    study_uid = f"1.2.3.{int.from_bytes(job_id.encode(), 'big')}"
    stack = slices(3, study=study_uid, series=f"{study_uid}.1")
    instances.index(ledger, stack)
    inputs = [entry.sop_instance_uid for entry in stack]
    planned(ledger, job_plan(job_id, inputs, study_instance_uid=study_uid, destinations=destinations or ("archive",)), study=study_uid)
    job = jobs.get(ledger, job_id)
    parcel = with_files(ledger, job, profile, (("seg", SEG), ("sr", SR)))
    assert jobs.written(ledger, at_compose(ledger, job), [parcel], dict.fromkeys(job.destinations, profile))
    return parcel


def with_files(ledger: Ledger, job: Job, profile: str, kinds: Sequence[tuple[str, str]]) -> Parcel:
    """Make a job's parcel in a profile: a file of each kind and class, each profile's with UIDs of its own."""
    objects = []
    for number, (kind, sop_class) in enumerate(kinds, start=1):
        own = int.from_bytes(profile.encode(), "big")
        dataset = image(job.study_instance_uid, f"{job.study_instance_uid}.{own}.{number}", sop_class=sop_class)
        path = Path("parcels") / job.job_id / profile / f"{kind}.dcm"
        content = write(dataset, ledger.data_dir / path).read_bytes()
        objects.append(
            ParcelObject(
                kind=kind,
                sop_class_uid=sop_class,
                sop_instance_uid=str(dataset.SOPInstanceUID),
                series_instance_uid=str(dataset.SeriesInstanceUID),
                transfer_syntax_uid=EXPLICIT,
                path=str(path),
                sha256=hashlib.sha256(content).hexdigest(),
            )
        )
    return Parcel(
        job_id=job.job_id,
        generation=job.generation,
        study_instance_uid=job.study_instance_uid,
        profile=profile,
        profile_digest="p",
        summary="1 nodule",
        objects=tuple(objects),
    )


def claim_of(ledger: Ledger, parcel: Parcel, destination: str = "archive") -> DeliveryClaim:
    """Claim the delivery of a parcel to a destination."""
    claim = deliveries.claim(ledger, jobs.delivery_id(parcel.job_id, parcel.generation, destination), LEASE_S)
    assert claim is not None
    return claim


def state_of(ledger: Ledger, parcel: Parcel, destination: str = "archive") -> Delivery:
    """Give the delivery of a parcel to a destination."""
    return deliveries.get(ledger, jobs.delivery_id(parcel.job_id, parcel.generation, destination))


def proof_of(ledger: Ledger, parcel: Parcel, destination: str = "archive") -> str | None:
    """Read the proof of a delivery from its row: it is for people, no code reads it back."""
    mine = DELIVERIES.c.delivery_id == jobs.delivery_id(parcel.job_id, parcel.generation, destination)
    with ledger.reading() as connection:
        proof: str | None = connection.execute(sa.select(DELIVERIES.c.proof).where(mine)).scalar_one()
    return proof


def sweep(settings: Settings, ledger: Ledger, now: float) -> int:
    """Look after SENT deliveries whose time is up, as the dispatch loop does; gives how many."""
    timeouts = {peer.name: peer.commitment_timeout_s for peer in settings.peers}
    count = 0
    for delivery in deliveries.waiting_for_commitment(ledger, now, timeouts):
        if deliveries.checked(ledger, delivery, now - timeouts[delivery.destination]):
            commitment.chase(settings, ledger, delivery)
            count += 1
    return count
