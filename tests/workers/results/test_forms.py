"""The forms of the report: editable in OHIF, in words, without a SEG, and of scores; and what each says."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from node.errors import Refused
from node.profiles import Profile
from tests.servers import require
from tests.workers.results import scans
from tests.workers.results.forms import FORMS, composed, recarded, report_of, scored
from tests.workers.results.test_check import items, named
from tests.workers.results.test_readers import run
from workers.results import compose

SR_BASIC = "1.2.840.10008.5.1.4.1.1.88.33"


def numbers(node: Dataset, name: str) -> list[tuple[str, str]]:
    """Give digits and unit of the numbers of that name."""
    measured = [item.MeasuredValueSequence[0] for item in named(node, name)]
    return [(str(one.NumericValue), one.MeasurementUnitsCodeSequence[0].CodeValue) for one in measured]


def texts(node: Dataset) -> list[str]:
    """Give all words."""
    return [item.TextValue for item in items(node) if item.ValueType == "TEXT"]


def sentences(node: Dataset) -> list[Dataset]:
    """Give the sentences about marks."""
    return [item for item in items(node) if item.ValueType == "TEXT" and named(item, "121080")]


def lines(node: Dataset) -> list[np.ndarray[Any, Any]]:
    """Give every drawn line's points as (column, row)."""
    return [np.array(item.GraphicData).reshape(-1, 2) for item in items(node) if item.ValueType == "SCOORD"]


def test_an_editable_finding_is_two_axes_that_end_on_its_border() -> None:
    """Nodule 1 fills rows 5..7 and columns 4..7: its axes run between borders of these, and say the card's numbers."""
    report = report_of("editable")
    groups = named(report, "125007")
    assert [item.ContentTemplateSequence[0].TemplateIdentifier for item in groups] == ["1501"] * 4
    tools = [named(group, "112039")[0].TextValue for group in groups]
    assert tools == [f"Cornerstone3DTools@^0.1.0:{tool}" for tool in ("Bidirectional",) * 2 + ("PlanarFreehandROI",) * 2]
    long_line, short_line = lines(groups[0])
    for points in (long_line, short_line):
        assert points.min(axis=0).tolist() >= [4, 5]
        assert points.max(axis=0).tolist() <= [8, 8]
    # 0.7 mm between rows, 0.9 mm between columns; the longest runs between the middles of the left and the right side.
    step_mm = (long_line[1] - long_line[0]) * (0.9, 0.7)
    assert numbers(groups[0], "103339001") == [(f"{np.hypot(*step_mm):.1f}", "mm")]
    assert numbers(groups[0], "118565006") == []
    assert all(len(named(number, "121055")) == 1 for group in groups for number in items(group) if number.ValueType == "NUM")


def test_an_editable_organ_is_its_outline_with_the_area_inside() -> None:
    """The left lung fills rows 3..16 and columns 2..10 of every slice: 14 x 9 pixels of 0.63 mm2, less no finding there."""
    group = named(report_of("editable organs"), "125007")[0]
    (outline,) = lines(group)
    assert (outline.min(axis=0).tolist(), outline.max(axis=0).tolist()) == ([2, 3], [11, 17])
    assert numbers(group, "42798000") == [("79.4", "mm2")]


def test_an_editable_report_tells_all_numbers_in_words_too() -> None:
    """OHIF drops the volume and the certainty of what it takes over, so they stand outside the groups."""
    report = report_of("editable")
    told = sentences(report)
    assert [item.TextValue.partition(":")[0] for item in told] == ["Nodule 1 (Lung)", "Nodule 2 (Lung)", "Left lung", "Right lung"]
    assert "Volume 38 mm3" in told[0].TextValue
    assert "Certainty of Finding 88 %" in told[0].TextValue
    assert numbers(told[0], "118565006") == [("38", "mm3")]


def test_a_report_in_words_has_every_finding_and_no_group() -> None:
    """A site whose viewer shows no measurements reads sentences, each with its image and bare numbers."""
    report = report_of("text")
    assert report.SOPClassUID == SR_BASIC
    assert report.ConceptNameCodeSequence[0].CodeValue == "18748-4"
    assert named(report, "125007") == []
    assert not any(item.ValueType == "SCOORD" for item in items(report))
    first, second = sentences(report)[0], named(report, "121080")[0]
    assert first.TextValue.startswith("Nodule 1 (Lung): Volume 38 mm3, Attenuation Coefficient (Mean) 30 HU, Long Axis ")
    assert first.TextValue.endswith("; largest on image 3.")
    assert second.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == f"{scans.ROOT}.3.3"
    assert [named(first, code)[0].TextValue for code in ("111001", "111003", "111002")] == ["Lung nodules", "1.2.0", "threshold=0.5"]
    assert numbers(first, "112031") == [("30", "[hnsf'U]"), ("0", "[hnsf'U]")]
    assert [named(item, "121401")[0].ConceptCodeSequence[0].CodeMeaning for item in named(first, "112031")] == [
        "Mean",
        "Standard Deviation",
    ]
    # 8 x 14 x 9 - 24 and 6 x 17 x 12 - 45 voxels of 1.575 mm3
    assert numbers(report, "118565006")[2:] == [("1.5", "mL"), ("1.9", "mL")]
    assert sentences(report)[2].TextValue.startswith("Left lung: Volume 1.5 mL; largest on image ")


@pytest.mark.parametrize("form", ["alone", "boxes"])
def test_a_mark_without_a_segment_is_one_group_with_numbers_and_outline(form: str) -> None:
    """OHIF draws it with its numbers, because group and outline are one."""
    groups = named(report_of(form), "125007")
    assert {item.ContentTemplateSequence[0].TemplateIdentifier for item in groups} == {"1410"}
    assert len(groups) == (4 if form == "alone" else 1)
    for group in groups:
        assert len(named(group, "111030")) == 1
        assert len(named(group, "121191")) == 0
        assert len(lines(group)[0]) >= 6
    assert numbers(groups[0], "111012") == [("88", "%"), ("4", "%")][: 2 if form == "alone" else 1]
    if form == "boxes":
        assert (lines(groups[0])[0].min(axis=0).tolist(), lines(groups[0])[0].max(axis=0).tolist()) == ([4, 5], [10, 8])
        assert numbers(groups[0], "103355008") == [("5.4", "mm")]


def test_the_older_class_has_outlines_before_numbers() -> None:
    """OHIF takes a merged group's template from the first one."""
    report = report_of("basic class")
    assert report.SOPClassUID == SR_BASIC
    groups = named(report, "125007")
    assert [len(named(group, "111030")) for group in groups] == [1, 0] * 4


def test_scores_are_told_with_probability_threshold_and_verdict() -> None:
    """Nothing is marked on an image, so the report opens as text; 0.496 is never rounded up to its threshold."""
    report = report_of("scores")
    assert report.ConceptNameCodeSequence[0].CodeValue == "18748-4"
    statement = texts(report)[-2]
    assert "Pneumothorax: probability 87 %, above the operating threshold of 50 %." in statement
    assert "Effusion: probability 49.6 %, below the operating threshold of 50 %." in statement
    assert "Fracture: probability 20 %." in statement
    assert "marked" not in statement
    positive, negative = named(report, "36118008")[0], named(report, "60046008")[0]
    assert positive.ConceptCodeSequence[0].CodeMeaning == "Positive"
    assert negative.ConceptCodeSequence[0].CodeMeaning == "Negative"
    assert numbers(positive, "122157") + numbers(positive, "122411") == [("87", "%"), ("50", "%")]
    assert named(report, "125605004") == []
    assert named(report, "111017")[0].ConceptCodeSequence[0].CodeValue == "111242"
    assert report.SeriesDescription.startswith("Above threshold: Pneumothorax 87 % - AI lung-test")
    assert "onfidence" not in " ".join(texts(report))


def test_scores_below_their_thresholds_are_no_findings() -> None:
    """A label without a threshold gives no verdict, however high it is."""
    report = report_of("low scores")
    assert report.SeriesDescription == "Nothing above threshold - AI lung-test 1.2.0 unverified"
    assert named(report, "111017")[0].ConceptCodeSequence[0].CodeValue == "111241"
    assert report.SOPClassUID == SR_BASIC


@pytest.mark.parametrize(
    ("scores", "reason"),
    [((0.1, 0.2), "no score for label 3"), ((0.1, 0.2, 1.2), "not a probability"), ((0.1, float("nan"), 0.2), "not a probability")],
)
def test_scores_that_are_none_are_refused(scores: tuple[float, ...], reason: str) -> None:
    """A label left out would read as a negative."""
    with pytest.raises(Refused, match=reason):
        compose(scored(*scores))


def test_the_intended_use_stands_in_every_report_outside_the_groups() -> None:
    """The card's words are told as they are, and only there may a word of ours be missing from its list."""
    for form in ("editable", "text", "scores"):
        report = report_of(form)
        assert texts(report)[-1] == "Intended use: t"
        assert not any("Intended use" in text for group in named(report, "125007") for text in texts(group))
    request = recarded(scans.request(nodules=0), lambda raw: raw["model"].update(intended_use="Not for diagnosis."))
    assert compose(request).objects


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("{kind} {model} {version}: {message}", {"seg": "segmentation Lung nodules 1.2.0: Nodule: 2 marked - unverified"}),
        ("{message}" * 5, {"sr": "Nodule: 2 markedNodule: 2 markedNodule: 2 markedNod - unverified"}),
        ("Site X {kind} unverified", {"seg": "Site X segmentation - unverified", "sr": "Site X report - unverified"}),
    ],
)
def test_a_sites_pattern_names_every_series_and_never_loses_unverified(pattern: str, names: dict[str, str]) -> None:
    """The text before it is cut, whatever its length."""
    request = replace(scans.request(), profile=Profile(name="own", objects=("seg", "sr"), description=pattern))
    for entry in compose(request).objects:
        said = pydicom.dcmread(BytesIO(entry.dataset_bytes)).SeriesDescription
        assert len(said) <= 64
        assert said.endswith(" - unverified")
        assert said == names.get(entry.kind, said)


@pytest.mark.real
@pytest.mark.parametrize("form", FORMS)
def test_validators_accept_every_form(form: str, tmp_path: Path) -> None:
    """Dciodvfy says nothing but the name of the class, and dsrdump reads the tree without a complaint."""
    path = tmp_path / "sr.dcm"
    path.write_bytes(composed(form)[1][-1].dataset_bytes)
    assert run(require("dciodvfy"), path).strip() in {"Comprehensive3DSR", "ComprehensiveSR"}
    said = run(require("dsrdump"), "+Pl", path)
    assert not [line for line in said.splitlines() if line.startswith(("W:", "E:"))]
