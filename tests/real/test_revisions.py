"""A study that grew after it was analysed: a second result in a real archive, which names the first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overread.sample import Scan
from tests import phantoms
from tests.real.node import Site, site
from tests.real.processes import wait_for
from tests.real.validators import iod_faults, report_text

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
PROOF = {"proof": "c-find", "quiet_s": 4, "count_stable_s": 3}


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Run one Orthanc and one node that proves by its counts."""
    with site(tmp_path_factory.mktemp("site"), {"assembly": PROOF}) as running_site:
        yield running_site


def test_revision_2_replaces_1_in_the_archive(pacs: Site, tmp_path: Path) -> None:
    """The last slices reach the archive when the first result is there: a second one of all, with the first one's SR as predecessor."""
    plan = Scan(nodules_mm=(14.0,), identity="grown", patient=phantoms.PHI)
    short = phantoms.thorax(tmp_path / "short", replace(plan, missing=(88, 89)))
    whole = phantoms.thorax(tmp_path / "whole", plan)
    study = whole.study_instance_uid
    pacs.archive.upload(list(short.files))
    pacs.until(study, "COMMITTED")
    (first,) = pacs.archive.datasets(study, "SR")
    assert "PredecessorDocumentsSequence" not in first
    pacs.archive.upload([whole.files[88], whole.files[89]])
    wait_for(lambda: len(pacs.archive.find(study, "SR")) == 2, seconds=400, what="the second report", every_s=2)
    (second,) = [entry for entry in pacs.archive.datasets(study, "SR") if entry.SOPInstanceUID != first.SOPInstanceUID]
    (series,) = second.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert series.SeriesInstanceUID == first.SeriesInstanceUID
    assert [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence] == [first.SOPInstanceUID]
    path = tmp_path / "second.dcm"
    second.save_as(path)
    assert "rev 2" in second.SeriesDescription
    report_text(path)  # readable by others
    assert b"this result replaces that of revision 1" in path.read_bytes()
    assert [line for line in iod_faults(path) if line.startswith("Error")] == []
    told = pacs.node.status(study)["revisions"]
    assert [entry["evidence"]["proof"] for entry in told] == ["count", "count"]
