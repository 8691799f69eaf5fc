"""`overread models run chest-ct` on real files that show no chest: each is declined with its reason, none ends in a crash."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from models import card, registry
from models.vocabulary import Unfit
from tests.overread.front import overread
from tests.servers import shared
from workers import load

FOLDERS = {
    "abdomen_ct_totalseg": "NIfTI",
    "body_ct_totalseg_dicom": "no DICOM file that a node could receive",
    "chest_cta_totalseg": "no DICOM file that a node could receive",
    "ct_slices_small": "it has 1 slice, the model needs at least 30",
    "edge_fodicom": "the model takes CT",
    "edge_pydicom_data": "it shows the abdomen, the model takes the chest",
    "edge_wg04_ct_mr_us": "the model needs at least 30",
    "head_ct_ge_tilt": "it shows the head, the model takes the chest",
    "mr_t1_sag_anon": "its modality is MR, the model takes CT",
    "seg_dcmqi_liver": "it holds segmentations, not images",
}


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_without_a_chest_is_declined_with_its_reason(folder: str, tmp_path: Path) -> None:
    """Abdomen, head, MR, single slices, other modalities and odd files: exit code 2, the reason, and nothing written."""
    said = overread("models", "run", "chest-ct", str(shared(f"data/{folder}")), "--out", str(tmp_path / "out"))
    assert (said.code, said.out) == (2, "")
    assert FOLDERS[folder] in said.error
    assert "Traceback" not in said.error
    assert not list((tmp_path / "out").glob("*.dcm"))


@pytest.mark.parametrize("folder", ["body_ct_totalseg_dicom", "mr_t1_sag_anon"])
def test_what_slips_through_routing_is_declined_by_the_model(folder: str) -> None:
    """A short piece of a trunk, and an MR that a header calls a CT, reach the network and are not judged clean."""
    files = [path for path in shared(f"data/{folder}").rglob("*") if path.is_file() and path.suffix not in {".md", ".gz"}]
    volume = load.load(sorted(files)).volume
    model = registry.load(card.read(card.STARTERS / "chest_ct" / "card.toml"), "cpu")
    with pytest.raises(Unfit) as caught:
        model.predict({"ct": replace(volume, unit="HU", modality="CT")}, lambda _share: None)
    assert len(caught.value.reason) > 30
