"""An archive that does not take a class: what the sender makes of it, told by a real archive's answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node import audit, deliver, status
from node.archive import Archive, Faults
from node.ledger import Ledger, deliveries, fallbacks, jobs
from node.settings import Settings
from node.study import DeliveryState, Parcel, Stage
from tests.node.conftest import Clock
from tests.node.delivery import SEG, SR, claim_of, peer_at, settings_for, state_of, with_files, written


@pytest.fixture
def ledger_url() -> str:
    """Use SQLite: the ledger's own tests run on both databases."""
    return "sqlite"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """Run an archive that takes no SEG."""
    monkeypatch.setattr(deliver, "OUTAGES", deliver.Outages())
    with Archive(tmp_path / "archive", "PACS") as running:
        running.faults = Faults(refused_classes=frozenset({SEG}))
        yield running


def send(ledger: Ledger, parcel: Parcel, archive: Archive, destination: str = "archive", **peer: Any) -> Stage | None:
    """Claim and send what a destination is to get; give what follows."""
    settings = settings_for(ledger, peer_at(archive.port, **{"name": destination} | peer))
    return deliver.send(settings, ledger, claim_of(ledger, parcel, destination))


def rewrite(ledger: Ledger, parcel: Parcel, kinds: tuple[tuple[str, str], ...] = (("sr", SR),), destination: str = "archive") -> Parcel:
    """Write what a delivery wants, as the worker would."""
    ident = jobs.delivery_id(parcel.job_id, parcel.generation, destination)
    claim = deliveries.claim(ledger, ident, 8, Stage.RECOMPOSE)
    assert claim is not None
    wanted = claim.delivery.wants_profile
    assert wanted is not None
    other = with_files(ledger, jobs.get(ledger, parcel.job_id), wanted, kinds)
    assert fallbacks.point(ledger, claim, other)
    return other


def stored(archive: Archive) -> list[str]:
    """Give what the archive was sent."""
    return [reception.sop_instance_uid for reception in archive.received]


@pytest.mark.parametrize("refused", [{SEG}, {SR}, {SEG, SR}])
def test_a_rejected_class_asks_for_the_fallback_and_sends_nothing(ledger: Ledger, archive: Archive, refused: set[str]) -> None:
    """Also where every context is rejected; the refusal names class and remedy, in status and in the audit trail."""
    archive.faults = Faults(refused_classes=frozenset(refused))
    parcel = written(ledger)
    assert send(ledger, parcel, archive) is Stage.RECOMPOSE
    waiting = state_of(ledger, parcel)
    assert (waiting.state, waiting.wants_profile) == (DeliveryState.PENDING, "basic")
    assert stored(archive) == []
    (shown,) = status.of_study(ledger, parcel.study_instance_uid)["studies"][0]["jobs"][0]["deliveries"]
    (refusal,) = shown["refusals"]
    assert (shown["profile"], shown["wants_profile"], refusal["profile"], refusal["to"]) == ("ohif", "basic", "ohif", "basic")
    assert all(sop_class in refusal["reason"] for sop_class in refused)
    assert "administrator of PACS" in refusal["reason"]
    (told,) = audit.read(ledger.data_dir)
    assert told["EventIdentification"]["EventTypeCode"]["csd-code"] == "results refused"
    assert told["EventIdentification"]["EventOutcomeIndicator"] == 4
    assert {"type": "profile", "value": "ohif"} in told["ParticipantObjectIdentification"][0]["ParticipantObjectDetail"]


def test_the_other_parcel_arrives_and_only_that(ledger: Ledger, archive: Archive) -> None:
    """Nothing of the refused one is in the archive; the trail says which profile was sent."""
    parcel = written(ledger)
    send(ledger, parcel, archive)
    other = rewrite(ledger, parcel)
    assert send(ledger, parcel, archive) is None
    assert stored(archive) == [entry.sop_instance_uid for entry in other.objects]
    done = state_of(ledger, parcel)
    assert (done.state, done.profile) == (DeliveryState.ACCEPTED, "basic")
    refused, sent = audit.read(ledger.data_dir)
    assert {"type": "profile", "value": "basic"} in sent["ParticipantObjectIdentification"][0]["ParticipantObjectDetail"]
    assert refused["EventIdentification"]["EventTypeCode"]["csd-code"] == "results refused"


def test_a_first_object_of_an_unsupported_class_falls_back_too(ledger: Ledger, archive: Archive) -> None:
    """0122 from an archive that accepts every context and judges afterwards."""
    archive.faults = Faults(fail_stores=1, fail_status=0x0122)
    parcel = written(ledger)
    assert send(ledger, parcel, archive) is Stage.RECOMPOSE
    assert "status 0122" in (state_of(ledger, parcel).reason or "")


def test_an_unsupported_class_after_a_stored_object_fails(ledger: Ledger, archive: Archive, clock: Clock) -> None:
    """The archive has the SEG; another report beside it would be of another result."""
    archive.faults = Faults(abort_after=1)
    parcel = written(ledger)
    send(ledger, parcel, archive)
    clock.now += 5
    archive.faults = Faults(refused_classes=frozenset({SR}))
    assert send(ledger, parcel, archive) is None
    failed = state_of(ledger, parcel)
    assert (failed.state, failed.profile, failed.wants_profile) == (DeliveryState.FAILED, "ohif", None)
    assert SR in (failed.reason or "")


def test_two_destinations_share_the_fallback_parcel(ledger: Ledger, archive: Archive) -> None:
    """The second refusal finds it written: it is sent at once, the same bytes."""
    parcel = written(ledger, "archive", "viewer")
    send(ledger, parcel, archive)
    other = rewrite(ledger, parcel)
    assert send(ledger, parcel, archive, "viewer") is Stage.DELIVER
    send(ledger, parcel, archive, "viewer")
    send(ledger, parcel, archive)
    assert stored(archive) == [entry.sop_instance_uid for entry in other.objects] * 2
    assert {state_of(ledger, parcel, name).state for name in ("archive", "viewer")} == {DeliveryState.ACCEPTED}


def test_the_chain_ends_with_the_class_and_the_remedy(ledger: Ledger, archive: Archive) -> None:
    """The last profile is refused as well: FAILED, and the reason says what to enable and what was refused before."""
    parcel = written(ledger)
    send(ledger, parcel, archive)
    archive.faults = Faults(refused_classes=frozenset({SEG, SR}))
    rewrite(ledger, parcel)
    assert send(ledger, parcel, archive) is None
    failed = state_of(ledger, parcel)
    assert failed.state is DeliveryState.FAILED
    assert SR in (failed.reason or "")
    assert "administrator of PACS" in (failed.reason or "")
    assert "refused before as ohif" in (failed.reason or "")
    assert stored(archive) == []


def test_a_profile_that_is_no_more_fails_with_what_to_do(ledger: Ledger, archive: Archive) -> None:
    """Its fallback cannot be known: the reason names the refusal and the section."""
    parcel = written(ledger, profile="removed")
    assert send(ledger, parcel, archive) is None
    failed = state_of(ledger, parcel)
    assert failed.state is DeliveryState.FAILED
    assert SEG in (failed.reason or "")
    assert "[[profiles]]" in (failed.reason or "")


def test_a_site_s_own_profile_falls_back_along_its_own_chain(ledger: Ledger, archive: Archive) -> None:
    """The one it names, as the settings say."""
    parcel = written(ledger, profile="mine")
    own = settings_for(ledger, peer_at(archive.port)).model_dump() | {
        "profiles": [{"name": "mine", "base": "ohif", "fallback": "editable"}]
    }
    assert deliver.send(Settings.model_validate(own), ledger, claim_of(ledger, parcel)) is Stage.RECOMPOSE
    assert state_of(ledger, parcel).wants_profile == "editable"
