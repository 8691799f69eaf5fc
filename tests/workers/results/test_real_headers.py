"""Headers as real scanners and archives write them."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest

from models.vocabulary import Prediction
from tests.real.validators import LATERALITY
from tests.servers import require, shared
from tests.workers.results import scans
from workers.load import load
from workers.results import ComposeRequest, compose

pytestmark = pytest.mark.real


@pytest.mark.parametrize("folder", ["mr_t1_sag_anon", "body_ct_totalseg_dicom/example_ct_dicom"])
def test_a_real_series_gets_its_result(folder: str, tmp_path: Path) -> None:
    """A block off the centre of a real series is written, and passes the last gate, under the series' own header."""
    paths = sorted(path for path in shared(f"data/{folder}").iterdir() if path.name != "NOTE.md")
    loaded = load(paths)
    for number, source in enumerate(loaded.sources, start=1):
        if not source.SOPInstanceUID:  # the CT was stripped of its UIDs when it was published
            source.SOPClassUID, source.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number}"
            source.StudyInstanceUID, source.SeriesInstanceUID = "1.2.4", "1.2.5"
    labels = np.zeros(loaded.volume.grid.shape, np.uint8)
    depth, rows, columns = labels.shape
    labels[depth // 4 : depth // 2, rows // 3 : rows // 2, columns // 5 : columns // 4] = 1
    template = scans.request(finds=False)
    request = ComposeRequest(
        job=replace(template.job, inputs={"ct": tuple(sorted(str(source.SOPInstanceUID) for source in loaded.sources))}),
        card=template.card,
        prediction=Prediction(grid=loaded.volume.grid, labels=labels),
        volume=loaded.volume,
        sources=loaded.sources,
        settings=template.settings,
    )
    for entry in compose(request).objects:
        dataset = pydicom.dcmread(BytesIO(entry.dataset_bytes))
        assert dataset.PatientID == loaded.sources[0].PatientID
        assert dataset.StudyInstanceUID == loaded.sources[0].StudyInstanceUID
        path = tmp_path / f"{entry.kind}.dcm"
        path.write_bytes(entry.dataset_bytes)
        said = subprocess.run([require("dciodvfy"), str(path)], capture_output=True, text=True, check=False)
        faults = {line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")}
        assert faults <= ({LATERALITY} if entry.kind in {"sc", "gsps"} else set())
