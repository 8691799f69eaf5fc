"""Every fault planted in a form of the report must stop it at the last gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from node.errors import Refused
from tests.workers.results import scans
from tests.workers.results.forms import FORMS, composed, report_of
from tests.workers.results.test_check import items, named, set_number, set_to
from workers.results import ComposedObject, ComposeRequest, check, compose

SR_3D = "1.2.840.10008.5.1.4.1.1.88.34"


def group(report: Dataset, index: int = 0) -> Dataset:
    """Give a group of measurements."""
    return named(report, "125007")[index]


def move(away: float) -> Callable[[Dataset], None]:
    """Move the first line."""

    def fault(report: Dataset) -> None:
        line = next(item for item in items(report) if item.ValueType == "SCOORD")
        line.GraphicData = [value + away for value in line.GraphicData]

    return fault


def other_slice(report: Dataset) -> None:
    """Lay the first line on another slice."""
    line = next(item for item in items(report) if item.ValueType == "SCOORD")
    line.ContentSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = f"{scans.ROOT}.3.9"


def other_patient(report: Dataset) -> None:
    """Refer to an image of somebody else."""
    image = next(item for item in items(report) if item.ValueType == "IMAGE")
    image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3.4"


def unit(report: Dataset) -> None:
    """Give the first measured number another unit."""
    item = next(item for item in items(report) if item.ConceptNameCodeSequence[0].CodeValue in {"103339001", "118565006", "122157"})
    item.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue = "cm"


def not_a_number(report: Dataset) -> None:
    """Leave a number without a value."""
    item = next(item for item in items(report) if item.ConceptNameCodeSequence[0].CodeValue in {"103339001", "118565006", "122157"})
    item.MeasuredValueSequence[0].FloatingPointValue = float("nan")


def cancer(report: Dataset) -> None:
    """Call a probability one of cancer."""
    item = next(item for item in items(report) if item.ConceptNameCodeSequence[0].CodeValue in {"111012", "122157"})
    item.ConceptNameCodeSequence[0].CodeValue = "111047"


def verdict(report: Dataset) -> None:
    """Turn a positive score into a negative one."""
    named(report, "36118008")[0].ConceptCodeSequence[0].CodeValue = "260385009"


def in_words(old: str, new: str) -> Callable[[Dataset], None]:
    """Change the words."""

    def fault(report: Dataset) -> None:
        for item in items(report):
            if item.ValueType == "TEXT":
                item.TextValue = item.TextValue.replace(old, new)

    return fault


def drop_number(report: Dataset, code: str) -> None:
    """Take the numbers of that name out of the sentences."""
    for item in items(report):
        if "ContentSequence" in item:
            item.ContentSequence = [child for child in item.ContentSequence if child.ConceptNameCodeSequence[0].CodeValue != code]


def one_finding_less(report: Dataset) -> None:
    """Forget a sentence."""
    container = named(report, "C0034375")[0]
    container.ContentSequence = [item for item in container.ContentSequence if not item.get("TextValue", "").startswith("Nodule 2")]


FAULTS: dict[str, tuple[str, Callable[[Dataset], Any], str]] = {
    "a number without a value": ("editable", not_a_number, "not a number"),
    "a wrong unit in words": ("text", unit, "a unit that no measurement has"),
    "a wrong unit of a score": ("scores", unit, "a unit that no measurement has"),
    "somebody else's image": ("text", other_patient, "neither an image"),
    "somebody else's image in the library": ("alone", other_patient, "neither an image"),
    "axes on another slice": ("editable", other_slice, "does not touch"),
    "axes moved": ("editable", move(1), "does not lie on its segment"),
    "an outline moved": ("alone", move(1), "does not lie on its segment"),
    "an outline of a box moved": ("boxes", move(-1), "does not lie on its segment"),
    "an outline on another slice": ("boxes", other_slice, "does not touch"),
    "an axis of another length": ("editable", set_number("103339001", "9.9"), "not as long as its line"),
    "an area that is none": ("editable organs", set_number("42798000", "80.9"), "not that inside its outline"),
    "a group missing": ("editable", lambda r: named(r, "126010")[0].ContentSequence.pop(), "one group for each mark"),
    "a group of no segment missing": ("alone", lambda r: named(r, "126010")[0].ContentSequence.pop(), "one group of numbers"),
    "a tool on another template": (
        "editable",
        lambda r: setattr(group(r).ContentTemplateSequence[0], "TemplateIdentifier", "1410"),
        "tool takes over",
    ),
    "another finding": (
        "editable",
        lambda r: setattr(named(group(r), "121071")[0].ConceptCodeSequence[0], "CodeValue", "39607008"),
        "another finding",
    ),
    "a sentence missing": ("text", one_finding_less, "each mark in words"),
    "another number in words": ("text", in_words("Volume 38 mm3", "Volume 380 mm3"), "another number"),
    "an organ's volume missing": ("text organs", lambda r: drop_number(r, "118565006"), "volume of each mark"),
    "a volume ten times in words": ("text", set_number("118565006", "380"), "not that of its segment"),
    "another attenuation": ("text", set_number("112031", "-30"), "attenuation"),
    "another certainty": ("boxes", set_number("111012", "99"), "certainty"),
    "cancer": ("boxes", cancer, "probability of cancer"),
    "a score of cancer": ("scores", cancer, "probability of cancer"),
    "findings in a report of words": ("text", set_number("118565006", "NaN"), "not a number"),
    "a score's side in words": ("scores", in_words("above", "below"), "which side"),
    "a score's verdict": ("scores", verdict, "as the model gave it"),
    "a score's probability": ("scores", set_number("122157", "88"), "as the model gave it"),
    "a score on the images": ("scores", lambda r: setattr(r.ConceptNameCodeSequence[0], "CodeValue", "126000"), "title and its groups"),
    "a score in a group": (
        "marks and scores",
        lambda r: group(r).ContentSequence.append(named(r, "27925004")[0].ContentSequence.pop(-2)),
        "stands in a group",
    ),
    "none found, by the code": (
        "scores",
        lambda r: setattr(named(r, "111017")[0].ConceptCodeSequence[0], "CodeValue", "111241"),
        "findings or none",
    ),
    "no intended use": ("scores", in_words("Intended use: ", ""), "intended for"),
    "a failure": ("text", in_words("Not verified", "AI FAILED. Not verified"), "failed"),
    "another class": ("text", set_to("SOPClassUID", SR_3D), "class"),
    "a series not called unverified": ("text", set_to("SeriesDescription", "AI"), "unverified"),
}


def spoiled(form: str, fault: Callable[[Dataset], Any]) -> tuple[ComposeRequest, list[ComposedObject]]:
    """Change the report, and list it as what it then is."""
    request, objects = composed(form)
    dataset = report_of(form)
    fault(dataset)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    buffer = BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    return request, [*objects[:-1], replace(objects[-1], dataset_bytes=buffer.getvalue(), sop_class_uid=str(dataset.SOPClassUID))]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_passes_the_gate_and_is_the_same_bytes_again(form: str) -> None:
    """Also after it was read and written by somebody else."""
    check.verify(*spoiled(form, lambda _: None))
    assert tuple(compose(FORMS[form]()).objects) == composed(form)[1]


@pytest.mark.filterwarnings("ignore:Value 'NaN' is not valid:UserWarning", "ignore:Invalid value for VR DS:UserWarning")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_planted_in_a_form_is_refused(name: str) -> None:
    """Whatever the form, a report that differs from the prediction never leaves."""
    form, fault, reason = FAULTS[name]
    with pytest.raises(Refused, match=reason):
        check.verify(*spoiled(form, fault))
