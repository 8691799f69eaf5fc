"""A radiograph's whole way: from a modality through listener, network and check to an archive, to the right side of the patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from node import routing, send
from node.archive import Archive
from node.ledger import instances, jobs, revisions
from node.settings import Settings
from node.study import JobState, Stage
from tests.models.heat import heat
from tests.node import work
from tests.node.listening import indexed, listening, soon, us
from tests.radiographs import ROOT, Opacity, Radiograph, place_of
from workers import folder, tasks

SPOTS = (Opacity(at_mm=(35.0, -20.0), half_mm=(9.0, 7.0)), Opacity(at_mm=(-25.0, 30.0), half_mm=(7.0, 9.0)))
SHOWN = {
    "chest from the back": Radiograph(opacities=SPOTS),
    "mirrored, inverted, film reader": Radiograph(kind="CR", orientation=("R", "F"), inverted=True, opacities=SPOTS),
    "lying, not calibrated": Radiograph(orientation=("F", "L"), shape=(300, 240), calibrated=False, opacities=SPOTS),
    "breast": Radiograph(kind="MG", sides=("A", "L"), orientation=("P", "L"), opacities=SPOTS, spacing_mm=(0.5, 0.5)),
}


def run(home: Path, shown: Radiograph, monkeypatch: pytest.MonkeyPatch) -> list[Dataset]:
    """Send the image, run every stage as its message would, and give what the archive then holds."""
    image = shown.write(home / "scanner")
    heat(home / "models" / "opacities")
    with Archive(home / "archive", "PACS") as archive:
        kept = tasks.Site()
        kept.settings = Settings.model_validate(
            {
                "node": {"data_dir": str(home / "data")},
                "broker": {"url": "redis://127.0.0.1:1/0"},
                "models": {"dir": str(home / "models"), "starters": False},
                "peers": [{"name": "archive", "ae_title": "PACS", "host": "127.0.0.1", "port": archive.port}],
            }
        )
        monkeypatch.setattr(tasks, "SITE", kept)
        monkeypatch.setattr(tasks, "BACK_OFF_S", (0.0,))
        ledger, study = kept.context.ledger, f"{ROOT}.1"
        with listening(home / "data", ledger=ledger) as listener:
            assert send.store(kept.settings, us(listener), folder.read(image.parent)).stored == 1
            soon(lambda: indexed(listener, study))
        revision = work.freeze(ledger, study)
        plan = routing.route(instances.study(ledger, study, 1), kept.context.cards, (), ("archive",))
        assert revisions.plan(ledger, revision.revision_id, plan)
        job_id = plan.jobs[0].job_id
        for stage in (Stage.PREPARE, Stage.INFER, Stage.COMPOSE):
            getattr(tasks, stage)(job_id)
        job = jobs.get(ledger, job_id)
        assert (job.state, job.reason) == (JobState.WRITTEN, None)
        tasks.deliver(jobs.delivery_id(job_id, 1, "archive"))
        ledger.close()
        return [pydicom.dcmread(path) for path in sorted((home / "archive").rglob("*.dcm"))]


def regions(report: Dataset) -> dict[str, np.ndarray]:
    """Give each group's outline by its tracking identifier."""
    found: dict[str, np.ndarray] = {}

    def walk(item: Dataset) -> None:
        for child in item.get("ContentSequence", ()):
            if child.ValueType == "SCOORD":
                name = next(one.TextValue for one in item.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "112039")
                found[name] = np.array(child.GraphicData, dtype=float).reshape(-1, 2)
            walk(child)

    walk(report)
    return found


@pytest.mark.parametrize("name", SHOWN)
def test_a_box_comes_back_to_its_place_in_the_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In report and overlay alike, by the sent image's own orientation: an opacity on the patient's left is boxed on the left."""
    shown = SHOWN[name]
    held = {entry.Modality: entry for entry in run(tmp_path, shown, monkeypatch)}
    assert {"SR", "PR"} <= set(held)
    assert "SEG" not in held
    image = pydicom.dcmread(tmp_path / "scanner" / "1.dcm")
    drawn = {
        graphic.TrackingID: np.array(graphic.GraphicData, dtype=float).reshape(-1, 2)
        for item in held["PR"].GraphicAnnotationSequence
        for graphic in item.GraphicObjectSequence
    }
    told = regions(held["SR"])
    assert set(told) == set(drawn) == {"Opacity 1", "Opacity 2"}
    found = []
    for key, points in told.items():
        assert np.array_equal(points, drawn[key])
        places = place_of(points, image, shown.sides, shown.spacing_mm)
        found.append((places.min(axis=0), places.max(axis=0)))
    for spot in shown.opacities:
        low, high = np.array(spot.at_mm) - spot.half_mm, np.array(spot.at_mm) + spot.half_mm
        assert any(np.abs(one - low).max() < 1.6 and np.abs(other - high).max() < 1.6 for one, other in found)
