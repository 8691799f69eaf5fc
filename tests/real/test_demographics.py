"""Whose study it is, asked of a PACS that others wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from node import demographics
from node.deliver import Outages
from node.settings import Settings
from tests.node import holding
from tests.node.archive_files import write
from tests.real.orthanc import orthanc
from tests.real.processes import free_port

pytestmark = pytest.mark.real


def test_orthanc_tells_what_it_holds_and_what_it_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attribute of the identity comes back; a merge is told by the other IDs; a strange study is unknown, not silence."""
    monkeypatch.setattr(demographics, "SILENT", Outages())
    with orthanc(tmp_path / "orthanc", node_port=free_port()) as place:
        peer = {"name": "orthanc", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": place.dicom_port, "query": True}
        settings = Settings.model_validate({"node": {"data_dir": str(tmp_path / "data")}, "peers": [peer]})
        assert demographics.ask(settings, holding.STUDY).said == "orthanc does not know the study"
        place.upload([write(holding.image(1, PatientName="Müller^Änne", OtherPatientIDs=["OLD-1", "OLD-2"]), tmp_path / "one.dcm")])
        word = demographics.ask(settings, holding.STUDY)
        assert word.said == "orthanc lists the study"
        assert word.patient is not None
        assert word.patient.identity == {
            "PatientID": "PHANTOM-1",
            "PatientName": "Müller^Änne",
            "PatientBirthDate": "19600229",
            "PatientSex": "F",
            "AccessionNumber": "ACC-1",
        }
        assert word.patient.others >= {("OLD-1", ""), ("OLD-2", "")}
    assert "cannot be reached" in demographics.ask(settings, holding.STUDY).said
