"""The whole path with a PACS that others wrote: Orthanc routes, the node analyses, Orthanc commits; DCMTK sends and asks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from overread.sample import Scan, Truth
from tests import phantoms
from tests.real import dcmtk
from tests.real.node import Site, site
from tests.real.ohif import Study, served, visit
from tests.real.processes import wait_for
from tests.real.validators import iod_faults, report_text
from tests.servers import shared
from tests.test_orientation import read_with_dcmqi

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
PROMISED_MM = 10.0  # the starter's card says that smaller nodules are often missed


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run one Orthanc and one node for this file's tests."""
    with site(tmp_path_factory.mktemp("site")) as running_site:
        yield running_site


@pytest.fixture(scope="module")
def analysed(pacs: Site, tmp_path_factory: pytest.TempPathFactory) -> Truth:
    """Import a chest CT with PHI into Orthanc, and wait until the archive has committed to its results."""
    folder = tmp_path_factory.mktemp("chest")
    truth = phantoms.thorax(folder, Scan(patient=phantoms.PHI))
    pacs.archive.upload(list(truth.files))
    pacs.until(truth.study_instance_uid, "COMMITTED")
    return truth


def _results(pacs: Site, truth: Truth, folder: Path) -> dict[str, Path]:
    """Fetch SEG and SR from the archive."""
    paths = {}
    for modality in ("SEG", "SR"):
        (instance,) = pacs.archive.find(truth.study_instance_uid, modality)
        paths[modality] = folder / f"{modality}.dcm"
        paths[modality].write_bytes(pacs.archive.file(instance))
    return paths


def test_a_routed_study_comes_back_with_lungs_and_nodules_where_they_are(pacs: Site, analysed: Truth, tmp_path: Path) -> None:
    """What Orthanc holds in the end, read by dcmqi, agrees with the generator's formulas in patient coordinates."""
    found = read_with_dcmqi(_results(pacs, analysed, tmp_path)["SEG"], tmp_path / "dcmqi")
    for side in ("left", "right"):
        ((mask, centres),) = found[f"{side.capitalize()} lung"]
        truly = analysed.in_lung("left" if side == "left" else "right", centres)
        dice = 2 * (mask & truly).sum() / (mask.sum() + truly.sum())
        assert dice > 0.9, f"{side} lung: Dice {dice:.3f}"
    marks = [centres[mask].mean(axis=0) for label, entries in found.items() if label.startswith("Nodule") for mask, centres in entries]
    for nodule in analysed.nodules:
        if nodule.diameter_mm >= PROMISED_MM:
            assert min(np.linalg.norm(mark - nodule.centre_mm) for mark in marks) < nodule.diameter_mm / 2


def test_what_arrived_is_valid_and_readable(pacs: Site, analysed: Truth, tmp_path: Path) -> None:
    """Dciodvfy finds no error, dsrdump reads the report, and a viewer's query lists both series."""
    paths = _results(pacs, analysed, tmp_path)
    for path in paths.values():
        assert [fault for fault in iod_faults(path) if fault.startswith("Error")] == []
    text = report_text(paths["SR"])
    assert "Imaging Measurement Report" in text
    assert "UNVERIFIED" in text.upper()
    # A page (OT) and a presentation state (PR) beside them, where the profile asks for them.
    listed = dcmtk.findscu(pacs.archive.dicom_port, analysed.study_instance_uid)
    assert {"CT", "SEG", "SR"} <= set(listed) <= {"CT", "OT", "PR", "SEG", "SR"}


@pytest.mark.verify
def test_ohif_shows_what_the_node_sent(pacs: Site, analysed: Truth, tmp_path: Path) -> None:
    """A radiologist who opens the study sees the lungs on their sides and each larger nodule marked at its centre."""
    with served(tmp_path / "nginx", pacs.archive) as address:
        seen = visit(address, [Study(name="routed", uid=analysed.study_instance_uid)], tmp_path / "ohif-routed")["routed"]
    assert seen.faults() == []
    middle_mm = analysed.thorax.centre_mm[0]
    found = [(label, centre) for labelmap in seen.labelmaps for label, centre, _ in labelmap.segments.values()]
    places = dict(found)
    assert places["Left lung"][0] > middle_mm + 40 > middle_mm - 40 > places["Right lung"][0]
    centres = [centre for label, centre in found if label.startswith("Nodule")]
    for nodule in analysed.nodules:
        if nodule.diameter_mm >= PROMISED_MM:
            assert min(np.linalg.norm(centre - nodule.centre_mm) for centre in centres) < nodule.diameter_mm / 2
    assert len([mark for mark in seen.marks if mark["label"].startswith("Nodule")]) == len(centres)


def test_the_result_carries_the_patient_and_the_log_does_not(pacs: Site, analysed: Truth, tmp_path: Path) -> None:
    """Patient and order are copied into the objects; no log line, file name or status names them."""
    report = pydicom.dcmread(_results(pacs, analysed, tmp_path)["SR"])
    assert str(report.PatientName).startswith("Qvortrup")
    assert report.AccessionNumber == phantoms.PHI.accession
    said = pacs.node.said() + str(pacs.node.status(analysed.study_instance_uid))
    names = " ".join(str(path.relative_to(pacs.node.data_dir)) for path in pacs.node.data_dir.rglob("*"))
    for word in phantoms.PHI_WORDS:
        assert word not in said
        assert word not in names


def test_the_same_study_again_makes_no_second_result(pacs: Site, analysed: Truth, tmp_path: Path) -> None:
    """Sent again by DCMTK, and once more after its image files are gone from the node, it has the same SEG and SR."""
    before = sorted(pacs.archive.find(analysed.study_instance_uid))
    jobs = _job_ids(pacs, analysed)
    assert len(jobs) == 1
    dcmtk.dcmsend(pacs.node.port, analysed.files[0].parent)
    _settle(pacs, analysed)
    assert _job_ids(pacs, analysed) == jobs
    for path in (pacs.node.data_dir / "incoming").rglob("*.dcm"):
        path.unlink()
    dcmtk.dcmsend(pacs.node.port, analysed.files[0].parent)
    _settle(pacs, analysed)
    assert _job_ids(pacs, analysed) == jobs
    assert sorted(pacs.archive.find(analysed.study_instance_uid)) == before


def test_a_real_head_ct_is_kept_and_declined_by_every_model(pacs: Site) -> None:
    """A head CT with a tilted gantry is acknowledged, kept, and declined: by each model, with a reason."""
    folder = shared("data/head_ct_ge_tilt")
    files = sorted(folder.glob("*.dcm"))
    dcmtk.storescu(pacs.node.port, files)
    study = str(pydicom.dcmread(files[0], stop_before_pixels=True).StudyInstanceUID)
    pacs.until(study, "DECLINED", seconds=120)
    declined = pacs.node.status(study)["revisions"][-1]["declined"]
    assert {entry["model"] for entry in declined} == {"brain-mr", "chest-ct"}
    assert all(entry["reason"] for entry in declined)
    assert len(list((pacs.node.data_dir / "incoming").rglob("*.dcm"))) >= len(files)


def test_an_unevenly_spaced_chest_is_declined_with_its_reason(pacs: Site, tmp_path: Path) -> None:
    """A chest CT that fits a model but for its uneven slices gets no result, and the reason names the gaps."""
    truth = phantoms.thorax(tmp_path / "uneven", Scan(slices=60, nodules_mm=()))
    phantoms.rewrite(truth.files, _raised, only=tuple(range(0, 60, 2)))
    dcmtk.dcmsend(pacs.node.port, tmp_path / "uneven")
    pacs.until(truth.study_instance_uid, "DECLINED", seconds=120)
    assert "unevenly spaced" in json.dumps(pacs.node.status(truth.study_instance_uid)["jobs"])
    assert pacs.archive.find(truth.study_instance_uid) == []


def _raised(image: Dataset) -> None:
    x, y, z = (float(part) for part in image.ImagePositionPatient)
    image.ImagePositionPatient = [x, y, z + 1.0]


def test_a_compressed_ct_is_kept_verbatim_and_answered(pacs: Site, tmp_path: Path) -> None:
    """A real JPEG 2000 CT is stored with every byte of its data sets; each model takes it or says why not."""
    folder = shared("data/body_ct_totalseg_dicom/example_ct_dicom")
    study = _with_uids(folder, tmp_path)
    dcmtk.dcmsend(pacs.node.port, tmp_path)
    kept = {path.read_bytes()[-2000:]: path for path in (pacs.node.data_dir / "incoming").rglob("*.dcm")}
    for path in tmp_path.iterdir():
        copy = kept[path.read_bytes()[-2000:]]
        assert copy.read_bytes().endswith(_data_set_bytes(path))
        assert pydicom.dcmread(copy).file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.4.90"
    wait_for(lambda: {"DECLINED", "WRITTEN"} & pacs.states(study), seconds=300, what="an answer", every_s=2)


def _with_uids(folder: Path, target: Path) -> str:
    """Fill in the UIDs that the publisher emptied, without which nobody can send the files; gives the study's."""
    plan = Scan(identity="published")
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = plan.uid(0, "study"), plan.uid(0, "series")
        dataset.FrameOfReferenceUID = plan.uid(0, "frame")
        dataset.save_as(target / f"{path.name}.dcm")
    return plan.uid(0, "study")


def _data_set_bytes(path: Path) -> bytes:
    """Give a file's bytes behind its meta information. Ref: PS3.10 7.1."""
    data = path.read_bytes()
    length = int.from_bytes(data[140:144], "little")  # the value of (0002,0000), the first element after preamble and prefix
    return data[144 + length :]


def test_an_incomplete_series_is_declined_and_completed_later(pacs: Site, tmp_path: Path) -> None:
    """Without one slice there is a reason and no result; the late slice makes a revision that is analysed."""
    plan = Scan(nodules_mm=(14.0,), identity="late", patient=phantoms.PHI)
    lacking = phantoms.thorax(tmp_path / "lacking", replace(plan, missing=(41,)))
    dcmtk.dcmsend(pacs.node.port, tmp_path / "lacking")
    pacs.until(lacking.study_instance_uid, "DECLINED", seconds=120)
    assert "missing" in json.dumps(pacs.node.status(lacking.study_instance_uid)["jobs"])
    assert pacs.archive.find(lacking.study_instance_uid, "SR") == []
    whole = phantoms.thorax(tmp_path / "whole", plan)
    dcmtk.storescu(pacs.node.port, [whole.files[41]])
    pacs.until(whole.study_instance_uid, "COMMITTED")
    assert len(pacs.archive.find(whole.study_instance_uid, "SR")) == 1


def _job_ids(pacs: Site, truth: Truth) -> list[str]:
    """Give the jobs of a study by `overread status`."""
    return sorted({str(job["job_id"]) for job in pacs.node.status(truth.study_instance_uid)["jobs"]})


def _settle(pacs: Site, truth: Truth) -> None:
    """Wait until the newest revision has been planned and nothing is under way."""
    busy = {"RECEIVING", "COMPLETE", "QUEUED", "RUNNING", "PENDING", "SENT"}
    wait_for(lambda: not busy & pacs.states(truth.study_instance_uid), seconds=120, what="rest", every_s=2)
