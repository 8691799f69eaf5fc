"""Fetching from a PACS that others wrote: Orthanc by C-GET, C-MOVE and DICOMweb; `overread fetch` as an administrator calls it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pydicom
import pytest

from node import fetch
from node.errors import Refused
from node.settings import Settings
from tests import phantoms
from tests.node.fetching import Place, place
from tests.node.listening import listening
from tests.real.node import OVERREAD, settings_text
from tests.real.orthanc import Orthanc, orthanc
from tests.real.processes import free_port

pytestmark = pytest.mark.real

WAYS = ["c-get", "c-move", "wado-rs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pacs:
    """One Orthanc, and the port at which it believes the node to listen."""

    server: Orthanc
    node_port: int


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    """Run one Orthanc for this file, without routing."""
    port = free_port()
    extra = {"LuaScripts": [], "DicomAlwaysAllowGet": False, "DicomAlwaysAllowMove": False}
    modality = {"AET": "OVERREAD", "Host": "127.0.0.1", "Port": port, "AllowFind": True, "AllowMove": True, "AllowGet": True}
    with orthanc(tmp_path_factory.mktemp("orthanc"), node_port=port, extra=extra | {"DicomModalities": {"overread": modality}}) as server:
        yield Pacs(server=server, node_port=port)


@contextmanager
def near(folder: Path, pacs: Pacs, way: str) -> Iterator[Place]:
    """Make a node that fetches from Orthanc that way, and listens for what C-MOVE brings."""
    url = f"http://127.0.0.1:{pacs.server.http_port}/dicom-web/"
    made = place(folder, pacs.server.dicom_port, ae_title="ORTHANC", retrieve=way, dicomweb_url=url, retrieve_timeout_s=60)
    with listening(folder, ledger=made.ledger, port=pacs.node_port):
        yield made
    made.ledger.close()


def tiny(folder: Path, study: str, series: str = "1", slices: int = 6, **plan: Any) -> list[Path]:
    """Write a small series with PHI in it."""
    return phantoms.write_tiny(folder, phantoms.Tiny(study=study, series=series, slices=slices, **plan))


def uid(path: Path, keyword: str = "StudyInstanceUID") -> str:
    """Read a UID of a file."""
    return str(pydicom.dcmread(path, stop_before_pixels=True)[keyword].value)


@pytest.mark.parametrize("way", WAYS)
def test_a_series_that_stopped_arriving_is_completed(pacs: Pacs, tmp_path: Path, way: str) -> None:
    """Two of six images are here; the other four come, with the pixels the archive holds, and a second fetch asks for nothing."""
    paths = tiny(tmp_path / "files", f"stopped {way}")
    pacs.server.upload(paths)
    study_uid = uid(paths[0])
    with near(tmp_path / "node", pacs, way) as node:
        node.receive(paths[:2])
        outcome = fetch.complete_series(node.settings, node.ledger, node.spool, node.peer, study_uid)
        assert sorted(outcome.retrieved) == sorted(uid(path, "SOPInstanceUID") for path in paths[2:])
        assert (outcome.missing, outcome.refused, outcome.warnings) == ((), {}, ())
        kept = {uid(path, "SOPInstanceUID"): pydicom.dcmread(path) for path in node.files()}
        for path in paths:
            truth = pydicom.dcmread(path)
            assert kept[truth.SOPInstanceUID].PixelData == truth.PixelData
        assert {(row.calling_ae, row.called_ae) for row in node.rows(study_uid)} <= {("ORTHANC", "OVERREAD"), ("PACS", "OVERREAD")}
        assert fetch.complete_series(node.settings, node.ledger, node.spool, node.peer, study_uid).asked == 0
        assert len(node.files()) == 6


@pytest.mark.parametrize("way", WAYS)
def test_a_compressed_study_comes_as_it_is_stored(pacs: Pacs, tmp_path: Path, way: str) -> None:
    """RLE stays RLE, whichever way it comes."""
    paths = tiny(tmp_path / "files", f"compressed {way}", slices=2, size=16)
    for path in paths:
        dataset = pydicom.dcmread(path)
        dataset.compress("1.2.840.10008.1.2.5", generate_instance_uid=False)
        dataset.save_as(path)
    pacs.server.upload(paths)
    with near(tmp_path / "node", pacs, way) as node:
        plan = fetch.missing(node.settings, node.ledger, uid(paths[0]))
        assert fetch.retrieve(node.settings, node.ledger, node.spool, plan).complete
        assert {row.transfer_syntax_uid for row in node.rows(uid(paths[0]))} == {"1.2.840.10008.1.2.5"}


@pytest.mark.parametrize("way", WAYS)
def test_the_prior_and_the_pet_are_found(pacs: Pacs, tmp_path: Path, way: str) -> None:
    """The patient's earlier CT, not another patient's, and of a study with two modalities the one that is named."""
    patient = replace(phantoms.PHI, patient_id=f"PRIOR-{way.upper()}")
    now = tiny(tmp_path / "now", f"now {way}", patient=patient)
    earlier = tiny(tmp_path / "earlier", f"earlier {way}", patient=patient)
    stranger = tiny(tmp_path / "stranger", f"stranger {way}", patient=replace(patient, patient_id=patient.patient_id + "9"))
    mr = tiny(tmp_path / "mr", f"earlier {way}", series="2", modality="MR", slices=2, patient=patient)
    for path in [*earlier, *stranger, *mr]:
        dataset = pydicom.dcmread(path)
        dataset.StudyDate = "20240506"
        dataset.save_as(path)
    pacs.server.upload([*now, *earlier, *stranger, *mr])
    with near(tmp_path / "node", pacs, way) as node:
        node.receive(now)
        query = fetch.prior_query(node.settings, node.ledger, node.peer, uid(now[0]), "CT")
        found = fetch.priors(node.settings, node.peer, query)
        assert [prior.study_instance_uid for prior in found] == [uid(earlier[0])]
        wanted = fetch.Wanted(study_instance_uid=uid(earlier[0]), modality="MR", patient=query.patient)
        plan = fetch.plan(node.settings, node.ledger, node.peer, wanted)
        assert set(plan.missing) == {uid(path, "SOPInstanceUID") for path in mr}
        assert fetch.retrieve(node.settings, node.ledger, node.spool, plan).complete


def test_a_study_orthanc_does_not_have_is_refused_in_words(pacs: Pacs, tmp_path: Path) -> None:
    """Each way says so, and names the peer."""
    for way in WAYS:
        with near(tmp_path / way, pacs, way) as node, pytest.raises(Refused, match="pacs does not have the study"):
            fetch.missing(node.settings, node.ledger, "1.2.3.4")


def config(folder: Path, pacs: Pacs, settings: Settings, way: str) -> Path:
    """Write the settings file of a node."""
    node = {"data_dir": str(settings.data_dir), "port": pacs.node_port, "free_disk_min_mb": 0}
    peer = {
        "name": "pacs", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": pacs.server.dicom_port, "retrieve": way,
        "dicomweb_url": f"http://127.0.0.1:{pacs.server.http_port}/dicom-web",
    }  # fmt: skip
    path = folder / "overread.toml"
    path.write_text(settings_text({"node": node}, [peer]))
    return path


def overread(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `overread fetch`."""
    command = [str(OVERREAD), "fetch", "--config", str(path), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("way", WAYS)
def test_the_command_fetches_and_tells_without_the_patient(pacs: Pacs, tmp_path: Path, way: str) -> None:
    """A dry run tells what is not here, the run fetches it, the next finds nothing to do; no word of the patient is printed."""
    patient = replace(phantoms.PHI, patient_id=f"PHI-88231907-{way.upper()}")
    paths = tiny(tmp_path / "files", f"command {way}", slices=3, patient=patient)
    pacs.server.upload(paths)
    study_uid = uid(paths[0])
    with near(tmp_path / "node", pacs, way) as node:
        path = config(tmp_path, pacs, node.settings, way)
        dry = overread(path, study_uid, "--dry-run")
        assert dry.returncode == 0, dry.stderr
        assert "3 at the peer, 3 not here" in dry.stdout
        assert node.files() == []
        ran = overread(path, study_uid)
        assert ran.returncode == 0, ran.stderr
        assert "3 images fetched in 1 attempt\n" in ran.stdout
        again = json.loads(overread(path, study_uid, "--json").stdout)
        assert [(entry["complete"], entry["retrieved"], entry["missing"]) for entry in again["studies"]] == [(True, 0, [])]
        none = overread(path, study_uid, "--prior", "2", "--modality", "CT")
        assert none.returncode == 0, none.stderr
        assert "no earlier study" in none.stdout
        unknown = overread(path, "1.2.3")
        assert (unknown.returncode, unknown.stderr) == (2, "overread: pacs does not have the study\n")
        for word in phantoms.PHI_WORDS:
            assert word not in "".join(done.stdout + done.stderr for done in (dry, ran, none, unknown)) + json.dumps(again)
