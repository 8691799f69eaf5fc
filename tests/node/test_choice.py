"""Traits, scores and the choice over several roles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest

from models.card import Card
from node import choice, traits
from node.spool import read_instance
from node.study import Instance, Series
from tests import phantoms
from tests.node import work
from tests.node.test_routing import card, study

HEAD = {"BodyPartExamined": "HEAD", "Modality": "MR", "FrameOfReferenceUID": "1.9.1"}


def stack(series: str, description: str, count: int = 30, **header: Any) -> list[Instance]:
    """Make an MR series of a head."""
    return work.slices(
        count, series=f"1.2.3.{series}", header=HEAD | {"SeriesDescription": description, "SeriesNumber": int(series)} | header
    )


def roles(*parts: dict[str, Any]) -> Card:
    """Make a card of these inputs, the first one the reference."""
    inputs = [{"accept": {"modality": ["MR"]}} | part | {"reference": place == 0} for place, part in enumerate(parts)]
    return card("many", inputs).card


def chosen(made: Any, shelf: Card) -> dict[str, str] | None:
    """Give role -> series, or None."""
    found = choice.choose(made, shelf).chosen
    return None if found is None else {role: entry.fit.series.series_instance_uid[6:] for role, entry in found.items()}


def test_no_series_serves_two_roles() -> None:
    """Two roles that take the same get two series; one series alone is not enough, and says so."""
    same = roles({"role": "a"}, {"role": "b"})
    assert chosen(study(stack("1", "T1"), stack("2", "T1")), same) == {"a": "1", "b": "2"}
    alone = choice.choose(study(stack("1", "T1")), same)
    assert alone.chosen is None
    assert alone.reasons == {"1.2.3.1": "it fits the input a or b, but there are fewer fitting series than inputs"}


def test_the_roles_are_filled_together_not_one_after_the_other() -> None:
    """The best series for the first role is left to the second one where only it fits there."""
    shelf = roles(
        {"role": "any", "score": {"sequence": {"t2": 10, "t1": 9}}},
        {"role": "t2", "accept": {"modality": ["MR"], "sequence": ["t2"]}},
    )
    assert chosen(study(stack("1", "T2"), stack("2", "T1")), shelf) == {"any": "2", "t2": "1"}


def test_the_frame_of_reference_with_the_best_whole_is_taken() -> None:
    """A better reference without a partner in its frame loses to a whole set in another; the reason says why."""
    shelf = roles(
        {"role": "t1", "accept": {"modality": ["MR"], "sequence": ["t1"]}, "score": {"slice_spacing_mm": {"best": 1, "loses": 1}}},
        {"role": "t2", "same_frame": True, "accept": {"modality": ["MR"], "sequence": ["t2"]}},
    )
    fine = work.slices(60, series="1.2.3.1", header=HEAD | {"SeriesDescription": "T1", "SeriesNumber": 1, "FrameOfReferenceUID": "1.9.2"})
    made = study(fine, stack("2", "T1"), stack("3", "T2"))
    found = choice.choose(made, shelf)
    assert chosen(made, shelf) == {"t1": "2", "t2": "3"}
    assert found.reasons["1.2.3.1"] == "series 2 suits the model better together with the series of its other inputs"
    strange = study(stack("2", "T1"), stack("3", "T2"), stack("4", "T2", FrameOfReferenceUID="1.9.2"))
    assert choice.choose(strange, shelf).reasons["1.2.3.4"].startswith("it does not lie in the frame of reference of series 2")


def test_a_series_without_a_frame_of_reference_cannot_be_laid_over_another() -> None:
    """Two empty frames of reference are not the same one."""
    shelf = roles({"role": "a"}, {"role": "b", "same_frame": True})
    assert chosen(study(stack("1", "T1", FrameOfReferenceUID=None), stack("2", "T2", FrameOfReferenceUID=None)), shelf) is None


@pytest.mark.timeout(20)
def test_a_study_of_very_many_series_is_chosen_from_in_time() -> None:
    """Eight roles and sixty series that all fit, every one with points of its own."""
    parts = [{"role": f"r{n}", "score": {"slice_spacing_mm": {"best": 1.0 + n / 7, "loses": 1}}} for n in range(8)]
    made = study(*(stack(str(n), "T1", 3, ImagePositionPatient=None) for n in range(1, 61)))
    assert len(set((chosen(made, roles(*parts)) or {}).values())) == 8


def test_the_role_a_series_came_nearest_to_gives_the_reason() -> None:
    """A post-contrast T1 that is too short is told its length, not that it is no FLAIR."""
    shelf = roles(
        {"role": "flair", "accept": {"modality": ["MR"], "sequence": ["flair"]}},
        {"role": "t1c", "accept": {"modality": ["MR"], "sequence": ["t1"], "slices": [100, 400]}},
    )
    assert choice.choose(study(stack("1", "T1 KM")), shelf).reasons == {"1.2.3.1": "it has 30 slices, the model needs at least 100"}
    nothing = choice.choose(study(stack("1", "T2")), shelf)
    assert nothing.reasons == {"1.2.3.1": "its MR sequence is T2, the model takes FLAIR or T1"}


@pytest.mark.parametrize(
    ("header", "trait", "expected"),
    [
        ({"SeriesDescription": "Thorax ohne KM"}, "contrast", "without"),
        ({"SeriesDescription": "Thorax nativ", "ContrastBolusAgent": "Imeron"}, "contrast", "without"),
        ({"SeriesDescription": "TC tórax con contraste"}, "contrast", "with"),
        ({"SeriesDescription": "TDM injecté"}, "contrast", "with"),
        ({"SeriesDescription": "Chest w/o contrast"}, "contrast", "without"),
        ({"SeriesDescription": "Chest", "ContrastBolusAgent": "NONE"}, "contrast", "without"),
        ({"SeriesDescription": "Sinus"}, "contrast", "unknown"),
        ({"SeriesDescription": "C-Spine"}, "contrast", "unknown"),
        ({"SeriesDescription": "Oberbauch art."}, "phase", "arterial"),
        ({"SeriesDescription": "Abdomen temps portal"}, "phase", "portal"),
        ({"SeriesDescription": "x", "ConvolutionKernel": ["Br40f", "3"]}, "kernel", "soft"),
        ({"SeriesDescription": "x", "ConvolutionKernel": "BONEPLUS"}, "kernel", "sharp"),
        ({"SeriesDescription": "x", "ConvolutionKernel": "FC52"}, "kernel", "sharp"),
        ({"SeriesDescription": "Weichteilfenster", "ConvolutionKernel": "strange"}, "kernel", "soft"),
        ({"Modality": "MR", "SeriesDescription": "AxT1_MPRAGE"}, "sequence", "t1"),
        ({"Modality": "MR", "SeriesDescription": "T2* GRE"}, "sequence", "swi"),
        ({"Modality": "MR", "SeriesDescription": "b0 b1000"}, "sequence", "dwi"),
        ({"Modality": "CT", "SeriesDescription": "T1"}, "sequence", "unknown"),
        ({"Modality": "MG", "SeriesDescription": "RMLO"}, "view", "MLO"),
        ({"Modality": "MG", "SeriesDescription": "Brust links"}, "laterality", "L"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}, "orientation", "coronal"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "orientation", "sagittal"),
        ({"ImageOrientationPatient": [0.707, 0.707, 0, 0, 0, -1]}, "orientation", "oblique"),
        ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "orientation", "unknown"),
    ],
)
def test_what_a_series_is_is_read_in_the_field_s_own_words(header: dict[str, Any], trait: str, expected: str) -> None:
    """Attributes and descriptions in four languages."""
    assert getattr(traits.read((work.image("1.2.3.1.1", header=header),)), trait) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"SeriesDescription": "Schädel", "BodyPartExamined": "CHEST"}, {"head"}),
        ({"SeriesDescription": "5.0", "BodyPartExamined": "CHEST"}, {"chest"}),
        ({"SeriesDescription": "5.0", "BodyPartExamined": None, "StudyDescription": "TAP"}, {"chest", "abdomen", "pelvis"}),
        ({"SeriesDescription": "Hippocampus", "BodyPartExamined": None}, {"head"}),
        ({"SeriesDescription": "Cadera dcha", "BodyPartExamined": None}, {"hip"}),
        ({"SeriesDescription": "5.0", "BodyPartExamined": None}, set()),
    ],
)
def test_the_most_particular_attribute_names_the_region(header: dict[str, Any], expected: set[str]) -> None:
    """The description before the preset body part, that before the study."""
    assert traits.read((work.image("1.2.3.1.1", header=header),)).regions == expected


def test_attributes_that_routing_reads_are_indexed(tmp_path: Path) -> None:
    """A double that is no number is left out, for JSON has none; the others come as they are."""
    dataset = pydicom.dcmread(phantoms.write_tiny(tmp_path, phantoms.Tiny(modality="MR"))[0])
    dataset.DiffusionBValue, dataset.ViewPosition, dataset.PatientAge, dataset.EchoTime = 1000.0, "AP", "045Y", 90
    dataset.CorrectedImage = ["NORM", "ATTN"]
    dataset.save_as(tmp_path / "good.dcm")
    header = read_instance(tmp_path / "good.dcm").header
    assert (header["DiffusionBValue"], header["ViewPosition"], header["EchoTime"]) == (1000.0, "AP", 90.0)
    assert (header["PatientAge"], header["CorrectedImage"]) == ("045Y", ["NORM", "ATTN"])
    dataset.DiffusionBValue = float("nan")
    dataset.save_as(tmp_path / "odd.dcm")
    assert "DiffusionBValue" not in read_instance(tmp_path / "odd.dcm").header


def test_every_part_of_a_series_keeps_its_geometry() -> None:
    """Traits look at a series, not at one image: a stack with one slice in another plane is still axial."""
    images = [*work.slices(10), work.image("1.2.3.1.99", header={"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]})]
    made = Series(series_instance_uid="1.2.3.1", instances=tuple(images))
    assert traits.read(made.instances).orientation == "axial"
