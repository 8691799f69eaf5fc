"""An input of a model that nobody sent is fetched where a peer may be fetched from; nothing else waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import PositronEmissionTomographyImageStorage

from models.card import ShelvedCard
from node import status
from node.ledger import Ledger
from node.settings import Rule
from node.study import RevisionState
from tests.node import proving
from tests.node.archive_files import write
from tests.node.conftest import Clock
from tests.node.proving import SLICES, Chest, Site
from tests.node.test_routing import card

ROLES = [
    {"role": "ct", "reference": True, "accept": {"modality": ["CT"], "slices": [20, 500]}},
    {"role": "pet", "accept": {"modality": ["PT"], "slices": [20, 500]}},
]


def shelf() -> dict[str, ShelvedCard]:
    """Give a model of the CT alone, and one of CT and PET."""
    return {"chest-ct": card(), "pet-ct": card("pet-ct", ROLES)}


@pytest.fixture
def place(tmp_path: Path, ledger: Ledger, clock: Clock) -> Iterator[Site]:
    """Run an archive that may be fetched from, and a node with both models."""
    with proving.site(tmp_path, ledger, clock) as running:
        running.dispatcher.cards = shelf()
        proving.with_peer(running, retrieve="c-get")
        yield running


def examined(place: Site, folder: Path) -> str:
    """Put a PET-CT into the archive and let it forward the CT alone; give the study's UID."""
    ct = Chest().write(folder / "ct").into(place.archive)
    place.archive.forward(ct.study, "OVERREAD")
    pet = Chest(study=ct.study, number=4).write(folder / "pet")
    for path in pet.files:
        dataset = dcmread(path)
        dataset.Modality, dataset.SOPClassUID = "PT", PositronEmissionTomographyImageStorage
        write(dataset, path)
    pet.into(place.archive)
    return ct.study


def told(place: Site, study_uid: str) -> list[str]:
    """Give what the first revision says is odd, but for the test's clock."""
    (study,) = status.of_study(place.ledger, study_uid)["studies"]
    return [warning for warning in study["revisions"][0]["warnings"] or () if "clock" not in warning]


def models(place: Site, study_uid: str) -> list[tuple[str, int]]:
    """Give the models with results, and of how many images."""
    return sorted((job.model, sum(map(len, job.inputs.values()))) for job in place.written(study_uid))


def test_the_pet_of_a_ct_is_fetched_and_both_are_analysed(place: Site, tmp_path: Path) -> None:
    """The CT's own model does not wait, and has one result; the model of both runs on the revision that the PET opens."""
    study = examined(place, tmp_path)
    place.live(120)
    assert [entry.state for entry in place.revisions(study)][-1] is RevisionState.PLANNED
    assert len(place.revisions(study)) == 2
    assert models(place, study) == [("chest-ct", SLICES), ("pet-ct", 2 * SLICES)]
    assert told(place, study) == [
        f"nothing was sent for the input pet of pet-ct: {SLICES} of {SLICES} PT images came from archive by c-get"
    ]


def test_what_the_archive_does_not_have_is_asked_for_once_a_revision(place: Site, tmp_path: Path) -> None:
    """A CT without a PET stays what it is, and the status says who was asked."""
    study = Chest().write(tmp_path).into(place.archive).study
    place.archive.forward(study, "OVERREAD")
    place.live(120)
    assert len(place.revisions(study)) == 1
    assert models(place, study) == [("chest-ct", SLICES)]
    assert told(place, study) == ["nothing was sent for the input pet of pet-ct: archive has no PT of this study that is not here"]


def test_an_archive_that_breaks_off_is_told_and_changes_nothing(place: Site, tmp_path: Path) -> None:
    """The CT is analysed; what lacks can still be fetched by hand."""
    study = examined(place, tmp_path)
    pets = {str(dcmread(path).SOPInstanceUID) for path in (tmp_path / "pet").iterdir()}
    place.archive.faults = replace(place.archive.faults, withheld=frozenset(pets))
    place.live(120)
    assert len(place.revisions(study)) == 1
    assert models(place, study) == [("chest-ct", SLICES)]
    assert told(place, study)[0].startswith("nothing was sent for the input pet of pet-ct: ")


@pytest.mark.parametrize("why", ["no retrieval", "switched off by the settings", "the model is off"])
def test_nothing_is_fetched_where_nobody_wants_it(place: Site, tmp_path: Path, why: str) -> None:
    """Without `retrieve`, with fetch_inputs = false, or for a model that the rules switch off, the archive is left alone."""
    settings = place.dispatcher.settings
    if why == "no retrieval":
        proving.with_peer(place, retrieve="none")
    elif why == "switched off by the settings":
        place.dispatcher.settings = settings.model_copy(update={"assembly": settings.assembly.model_copy(update={"fetch_inputs": False})})
    else:
        rule = Rule(model="pet-ct", when="Modality is CT", mode="off")
        place.dispatcher.settings = settings.model_copy(update={"rules": (Rule(model="chest-ct"), rule)})
    study = examined(place, tmp_path)
    place.live(120)
    assert len(place.revisions(study)) == 1
    assert models(place, study) == [("chest-ct", SLICES)]
    assert told(place, study) == []
