"""A node that receives into a real spool, with a real archive beside it to ask: what tests of holds need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import ExplicitVRLittleEndian

from node import demographics, status
from node.archive import Archive
from node.deliver import Outages
from node.dispatch import Dispatcher
from node.ledger import Ledger, instances, revisions
from node.ledger.revisions import Revision
from node.settings import Settings
from node.spool import Spool, StoreCommand
from tests.node import archive_files
from tests.node.conftest import Clock

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.11", "1.2.826.0.1.3680043.8.498.11.1"
WORDS = ("Phantom", "PHANTOM", "Ärchive", "19600229", "STRANGER", "Fremd")


@dataclass
class Bench:
    """One node and the archive that it asks."""

    ledger: Ledger
    clock: Clock
    spool: Spool
    archive: Archive
    settings: Settings
    dispatcher: Dispatcher
    home: Path

    def receive(self, dataset: Dataset, sender: tuple[str, str] = ("MODALITY", "10.0.0.1")) -> None:
        """Take one image as the listener does: into the spool, then the index."""
        syntax = dataset.file_meta.TransferSyntaxUID
        buffer = DicomBytesIO()
        buffer.is_implicit_VR, buffer.is_little_endian = syntax.is_implicit_VR, syntax.is_little_endian
        write_dataset(buffer, dataset)
        command = StoreCommand(
            sop_class_uid=dataset.SOPClassUID,
            sop_instance_uid=dataset.SOPInstanceUID,
            transfer_syntax_uid=syntax,
            calling_ae=sender[0],
            called_ae="OVERREAD",
            peer_host=sender[1],
        )
        instances.index(self.ledger, [self.spool.store(command, buffer.getvalue()).instance])

    def give(self, dataset: Dataset) -> None:
        """Put an image into the archive, as it is there now."""
        self.archive.add(archive_files.write(dataset, self.home / "given" / f"{dataset.SOPInstanceUID}.dcm"))

    def settle(self) -> Revision:
        """Let the quiet time pass and the loop run; give the newest revision."""
        self.clock.now += 61
        for _ in range(2):
            self.dispatcher.step()
            self.dispatcher.wait()
        return revisions.of_study(self.ledger, STUDY)[-1]

    def warnings(self) -> str:
        """Give the newest revision's warnings."""
        (study,) = status.of_study(self.ledger, STUDY)["studies"]
        return "; ".join(study["revisions"][-1]["warnings"] or ())


@contextmanager
def bench(ledger: Ledger, clock: Clock, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """Run an archive and a dispatcher."""
    monkeypatch.setattr(demographics, "SILENT", Outages())
    with Archive(home / "archive", "ARCHIVE") as archive:
        settings = Settings.model_validate(
            {
                "node": {"data_dir": str(ledger.data_dir), "association_timeout_s": 5},
                "broker": {"url": "redis://127.0.0.1:1/0"},
                "peers": [{"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive.port, "query": True}],
            }
        )
        dispatcher = Dispatcher(settings, ledger, {})
        yield Bench(ledger, clock, Spool(ledger.data_dir), archive, settings, dispatcher, home)
        dispatcher.close()


def image(number: int, **changes: Any) -> Dataset:
    """Make a slice of the study; the same number has the same UID and bytes each time."""
    dataset = archive_files.image(STUDY, SERIES, number)
    dataset.SOPInstanceUID = f"{SERIES}.{number}"
    dataset.PatientBirthDate, dataset.PatientSex, dataset.AccessionNumber, dataset.SeriesNumber = "19600229", "F", "ACC-1", 3
    dataset.StudyDate = "20231114"  # the test's clock
    dataset.ImagePositionPatient = [0, 0, 2 * number]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing = [1, 1]
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for keyword, value in changes.items():
        setattr(dataset, keyword, value)
    return dataset
