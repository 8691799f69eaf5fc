"""An archive at its worst, in real time: Orthanc pauses, grows, repeats and knows no order; the node is a running one."""

from __future__ import annotations

import time
from pathlib import Path

import pydicom
import pytest

from tests import phantoms, shelf
from tests.real.node import Site, node
from tests.real.orthanc import orthanc
from tests.real.processes import free_port

pytestmark = [pytest.mark.real, pytest.mark.verify, pytest.mark.timeout(900)]
PAUSE_S = 30
SECTIONS = {"assembly": {"proof": "c-find", "quiet_s": 4, "count_stable_s": 3, "give_up_s": 300}}


def store(pacs: Site, instances: list[str]) -> None:
    """Let Orthanc send these instances, in this order."""
    pacs.archive.call("/modalities/overread/store", {"Resources": instances, "Synchronous": True})


def test_a_series_that_pauses_grows_and_comes_twice_in_no_order_has_one_result(tmp_path: Path) -> None:
    """Thirty silent seconds after half of it, seven quiet times long, analyse nothing; the whole is analysed once."""
    port = free_port()
    models = {"models": {"dir": str(shelf.put(tmp_path / "models")), "starters": False}}
    made = phantoms.thorax(tmp_path / "study", phantoms.EMPTY)
    files, study = list(made.files), made.study_instance_uid
    with (
        orthanc(tmp_path / "orthanc", node_port=port, extra={"LuaScripts": []}) as archive,
        node(tmp_path / "node", port=port, archive=archive, sections=SECTIONS | models) as place,
    ):
        pacs = Site(archive=archive, node=place)
        archive.upload(files[:40])
        early = sorted(archive.find(study))
        numbers = [int(pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber) for path in files[:40]]
        sent = [int(archive.call(f"/instances/{name}/simplified-tags")["InstanceNumber"]) for name in early]
        assert sorted(sent) == sorted(numbers)
        assert sent != sorted(sent)
        store(pacs, early[:20])
        time.sleep(PAUSE_S)
        assert [(entry["number"], entry["state"]) for entry in place.status(study)["revisions"]] == [(1, "RECEIVING")]
        assert place.status(study)["jobs"] == []
        assert "archive has 40 images of series" in place.status(study)["revisions"][0]["evidence"]["said"]
        archive.upload(files[40:])
        store(pacs, [*early[20:], *sorted(set(archive.find(study)) - set(early))])
        store(pacs, archive.find(study))
        pacs.until(study, "COMMITTED")
        story = place.status(study)
        assert [(entry["number"], entry["evidence"]["proof"]) for entry in story["revisions"]] == [(1, "count")]
        assert [(job["state"], job["images"]) for job in story["jobs"]] == [("WRITTEN", len(files))]
        assert len(archive.find(study, "SR")) == 1
