"""Sixty-two studies of twenty kinds: what routing takes, and what it says of the rest, is what was written down by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from models import card
from node import routing
from node.study import Plan, Study
from tests.zoo import other, resonance, table, tomography
from tests.zoo.series import Case, write
from workers import folder, pipeline

CASES = (*tomography.CASES, *resonance.CASES, *other.CASES)
SHELF = card.discover(card.folders(table.CARDS, starters=True))
EXPECTED = table.read()


def _numbers(study: Study) -> dict[str, int]:
    return {series.series_instance_uid: int(series.instances[0].header["SeriesNumber"]) for series in study.series}


def _taken(study: Study, plan: Plan) -> dict[str, dict[str, int]]:
    """Give model -> role -> series number."""
    of_image = {image.sop_instance_uid: series.series_instance_uid for series in study.series for image in series.instances}
    numbers = _numbers(study)
    return {job.model: {role: numbers[of_image[uids[0]]] for role, uids in job.inputs.items()} for job in plan.jobs}


def _faults(case: Case, study: Study, plan: Plan) -> list[str]:
    """Compare the reasons of every series and model with the table."""
    expected, numbers = EXPECTED[case.name], _numbers(study)
    modality = {number: shown.modality for shown in case.series for number in (shown.number,)}
    said = {(numbers[entry.series_instance_uid], entry.model): entry.reason for entry in plan.declined}
    faults, used = [], set()
    for number in sorted(numbers.values()):
        for model, shelved in SHELF.items():
            key = next((key for key in ((number, model), (number, "*")) if key in expected.why), None)
            used.add(key)
            wanted = None if key is None else expected.why[key]
            if wanted is None and not any(modality[number] in part.accept.modality for part in shelved.card.inputs):
                wanted = f"its modality is {modality[number]}"
            if number in expected.takes.get(model, {}).values():
                wanted = None
            reason = said.get((number, model))
            if (wanted is None) is not (reason is None) or (wanted is not None and wanted not in str(reason)):
                faults.append(f"series {number}, {model}: wanted {wanted!r}, said {reason!r}")
    return faults + [f"the table's {key} was not looked at" for key in set(expected.why) - used]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_series_ends_as_written(case: Case, tmp_path: Path) -> None:
    """Each model takes the written series, and every other series gets the written reason."""
    (study,) = folder.studies(folder.read(write(case, tmp_path)))
    plan = routing.route(study, SHELF, (), ("archive",))
    assert _taken(study, plan) == EXPECTED[case.name].takes
    assert _faults(case, study, plan) == []


def test_the_zoo_is_as_large_as_it_claims() -> None:
    """Sixty-two studies of twenty kinds, each in the table, none in the table alone."""
    assert len(CASES) == len(EXPECTED) == 62
    assert {case.name for case in CASES} == set(EXPECTED)
    assert len({case.kind for case in CASES}) == 20


def test_reasons_hold_no_patient_data_and_no_numbers_of_objects(tmp_path: Path) -> None:
    """A reason may be shown anywhere: no name, no ID, no UID."""
    for case in CASES[:6]:
        (study,) = folder.studies(folder.read(write(case, tmp_path)))
        for entry in routing.route(study, SHELF, (), ()).declined:
            assert not any(word in entry.reason for word in ("Zoo", "Animal", "ZOO-", "2.25."))
            assert entry.reason.isprintable()
            assert len(entry.reason) < 200


@pytest.mark.parametrize(("name", "model"), [("brain-four-siemens-de", "mr-four"), ("petct-siemens-de", "pet-ct")])
def test_a_job_of_several_roles_is_prepared_into_a_volume_each(name: str, model: str, tmp_path: Path) -> None:
    """What routing chose for the roles of a model is what prepare reads: one volume a role, each from its own series."""
    case = next(case for case in CASES if case.name == name)
    found = folder.read(write(case, tmp_path))
    (study,) = folder.studies(found)
    (job,) = (job for job in routing.route(study, SHELF, (), ()).jobs if job.model == model)
    files = {image.sop_instance_uid: Path(image.path) for image in found}
    prepared = pipeline.read_volumes(SHELF[model], {role: [files[uid] for uid in uids] for role, uids in job.inputs.items()})
    volumes = prepared[0]
    expected = EXPECTED[name].takes[model]
    images = {shown.number: shown.images for shown in case.series}
    assert {role: volume.grid.shape[0] for role, volume in volumes.items()} == {role: images[number] for role, number in expected.items()}
