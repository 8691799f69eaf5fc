"""A real Orthanc: DICOM, DICOMweb, storage commitment, and a Lua script that routes studies to the node."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from tests.real.processes import Server, free_port, running
from tests.servers import require

PLUGINS = Path("/usr/share/orthanc/plugins")
SCRIPT = Path(__file__).with_name("orthanc.lua")


@dataclass(frozen=True, slots=True, kw_only=True)
class Orthanc:
    """Where it listens, and its REST calls."""

    http_port: int
    dicom_port: int
    log: Path
    ae_title: str = "ORTHANC"

    def call(self, path: str, body: object = None, *, method: str | None = None) -> Any:
        """Call its REST interface; JSON in, JSON out."""
        return json.loads(self.raw(path, json.dumps(body).encode() if body is not None else None, method=method) or b"null")

    def raw(self, path: str, body: bytes | None = None, *, method: str | None = None) -> bytes:
        """Call its REST interface; bytes in, bytes out."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", data=body, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 -- loopback
            return bytes(answer.read())

    def upload(self, files: tuple[Path, ...] | list[Path]) -> None:
        """Put files in over REST, as an importer would."""
        for path in files:
            self.raw("/instances", path.read_bytes())

    def find(self, study_uid: str, modality: str | None = None) -> list[str]:
        """Give Orthanc's ids of a study's instances, of one modality or of all."""
        query = {"StudyInstanceUID": study_uid} | ({"Modality": modality} if modality else {})
        return list(self.call("/tools/find", {"Level": "Instance", "Query": query}))

    def file(self, instance: str) -> bytes:
        """Give an instance's file as stored."""
        return self.raw(f"/instances/{instance}/file")

    def datasets(self, study_uid: str, modality: str) -> list[Dataset]:
        """Read a study's instances of one modality."""
        return [pydicom.dcmread(BytesIO(self.file(instance))) for instance in self.find(study_uid, modality)]

    def delete_study(self, study_uid: str) -> None:
        """Remove a study, as an archive's own clean-up would."""
        for ident in self.call("/tools/find", {"Level": "Study", "Query": {"StudyInstanceUID": study_uid}}):
            with contextlib.suppress(urllib.error.HTTPError):
                self.call(f"/studies/{ident}", method="DELETE")


@contextlib.contextmanager
def orthanc(folder: Path, *, node_port: int, stable_s: int = 2, extra: dict[str, Any] | None = None) -> Iterator[Orthanc]:
    """Run Orthanc with its files and log below the folder; node_port is where OVERREAD listens."""
    binary = require("Orthanc")
    folder.mkdir(parents=True, exist_ok=True)
    place = Orthanc(http_port=free_port(), dicom_port=free_port(), log=folder / "orthanc.log")
    overread = {"AET": "OVERREAD", "Host": "127.0.0.1", "Port": node_port, "AllowStorageCommitment": True}
    # DCMTK's clients have an address of no meaning: they only send.
    tools = {
        name: {"AET": name, "Host": "127.0.0.1", "Port": 1, "AllowStorageCommitment": False} for name in ("DCMSEND", "STORESCU", "FINDSCU")
    }
    settings = {
        "Name": "Overread tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": [str(PLUGINS / "libOrthancDicomWeb.so"), str(PLUGINS / "libOrthancGdcm.so")],
        "HttpPort": place.http_port,
        "DicomPort": place.dicom_port,
        "DicomAet": place.ae_title,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomCheckCalledAet": True,
        "DicomCheckModalityHost": True,
        "DicomAlwaysAllowStore": False,
        "DicomAlwaysAllowEcho": False,
        "UnknownSopClassAccepted": True,
        "OverwriteInstances": False,
        "StableAge": stable_s,
        "StorageCommitmentReportsSize": 1000,
        "UserMetadata": {"routed": 1024},
        "LuaScripts": [str(SCRIPT)],
        "DicomModalities": {"overread": overread, **tools},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        **(extra or {}),
    }
    path = folder / "orthanc.json"
    path.write_text(json.dumps(settings, indent=1))
    server = Server(command=[binary, str(path)], log=place.log, port=place.dicom_port)
    with running(server):
        yield place
