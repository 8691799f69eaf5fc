"""A real Orthanc that does not know LABELMAP segmentations, and a study whose SEG must be one: the result arrives all the same."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import psutil
import pydicom
import pytest

from node import audit
from node.ledger import Ledger, open_ledger
from node.settings import load
from node.status import of_study
from overread.sample import Truth
from tests import phantoms, shelf
from tests.real.node import Site, node
from tests.real.orthanc import orthanc
from tests.real.processes import free_port, wait_for
from tests.real.validators import iod_faults, report_text

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
LABELMAP = "1.2.840.10008.5.1.4.1.1.66.7"
ODD = replace(phantoms.SMALL, matrix=(61, 63), patient=phantoms.PHI)  # 3843 pixels: no multiple of 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Fallback:
    """Archive, node and the node's ledger, opened beside it."""

    site: Site
    ledger: Ledger

    def facts(self, study: str) -> dict[str, object]:
        """Give the study's first job, empty before there is one."""
        studies = of_study(self.ledger, study)["studies"]
        return dict(studies[0]["jobs"][0]) if studies and studies[0]["jobs"] else {}

    def tree(self, name: str) -> list[psutil.Process]:
        """Give a worker's process and those it forked."""
        pid = json.loads((self.site.node.data_dir / "run" / f"{name}.ready").read_text())["pid"]
        return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fallback]:
    """Run an Orthanc that takes no class it does not know, and a node with the tests' own model."""
    home = tmp_path_factory.mktemp("strict")
    port = free_port()
    sections = {"models": {"dir": str(shelf.put(home / "models")), "starters": False}, "workers": {"lease_s": 3, "renew_s": 0.5}}
    with (
        orthanc(home / "orthanc", node_port=port, extra={"UnknownSopClassAccepted": False}) as archive,
        node(home / "node", port=port, archive=archive, sections=sections) as place,
    ):
        ledger = open_ledger(load(place.config))
        yield Fallback(site=Site(archive=archive, node=place), ledger=ledger)
        ledger.close()


def check(strict: Fallback, truth: Truth, folder: Path) -> None:
    """Look that the archive holds the basic result, and only that, and that everybody is told."""
    study = truth.study_instance_uid
    (job,) = strict.site.node.status(study)["jobs"]
    (delivery,) = job["deliveries"]
    (refusal,) = delivery["refusals"]
    assert (delivery["state"], delivery["profile"], refusal["profile"], refusal["to"]) == ("COMMITTED", "basic", "ohif", "basic")
    assert LABELMAP in refusal["reason"]
    wanted = {entry["sop_instance_uid"]: entry["kind"] for entry in job["objects"] if entry["profile"] == "basic"}
    files = {ident: strict.site.archive.file(ident) for ident in strict.site.archive.find(study)}
    images = {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in truth.files}
    held = {str(pydicom.dcmread(BytesIO(file)).SOPInstanceUID): file for file in files.values()}
    assert held.keys() - images == wanted.keys()
    (uid,) = [uid for uid, kind in wanted.items() if kind == "sr"]
    path = folder / "report.dcm"
    path.write_bytes(held[uid])
    assert [fault for fault in iod_faults(path) if fault.startswith("Error")] == []
    assert "UNVERIFIED" in report_text(path).upper()
    events = [entry["EventIdentification"]["EventTypeCode"]["csd-code"] for entry in audit.read(strict.site.node.data_dir)]
    assert "results refused" in events
    assert not [word for word in phantoms.PHI_WORDS if word in strict.site.node.said()]


def test_a_refused_labelmap_comes_back_as_a_basic_result(strict: Fallback, tmp_path: Path) -> None:
    """Orthanc rejects the context of 66.7; the whole result is written as `basic`, arrives, and is COMMITTED."""
    truth = phantoms.thorax(tmp_path / "odd", replace(ODD, identity="refused"))
    strict.site.archive.upload(list(truth.files))
    strict.site.until(truth.study_instance_uid, "COMMITTED")
    check(strict, truth, tmp_path)


def test_kill_9_between_the_refusal_and_the_new_result_loses_nothing(strict: Fallback, tmp_path: Path) -> None:
    """The worker that is to write it dies with the message in its hands; its successor writes it, once."""
    truth = phantoms.thorax(tmp_path / "odd", replace(ODD, identity="killed"))
    study = truth.study_instance_uid
    io = strict.tree("worker-io")
    for process in io:
        process.suspend()
    strict.site.archive.upload(list(truth.files))
    wait_for(lambda: strict.facts(study).get("state") == "WRITTEN", seconds=400, what="the first result")
    cpu = strict.tree("worker-cpu")
    for process in cpu:
        process.suspend()
    for process in io:
        process.resume()
    wait_for(lambda: _wants(strict.facts(study)) == "basic", seconds=200, what="the refusal")
    for process in cpu:
        os.kill(process.pid, signal.SIGKILL)
    strict.site.until(study, "COMMITTED")
    check(strict, truth, tmp_path)


def _wants(job: dict[str, object]) -> object:
    (delivery,) = job["deliveries"]  # type: ignore[misc]
    return delivery["wants_profile"]
