"""The 117 classes: each has codes that exist, its own colour, and the side that its name says."""

from __future__ import annotations

import re

import numpy as np
import pytest
from pydicom.sr._concepts_dict import concepts  # the dictionary itself; its public face finds by name only

from models.card import LabelPart
from models.nnunet import classes
from tests.servers import shared

# SNOMED CT concepts that DICOM's own context groups, and so pydicom's dictionary, do not have: ribs, S1, muscles, the two veins.
BEYOND_DICOM = {
    *("48535007", "78247007", "25888004", "25523003", "15339008", "59558009", "24915002", "5953002", "22565002", "77644006"),
    *("58830002", "43993008", "65985001", "206007", "78333006", "75297007", "244849004", "68455001", "110765007"),
}
LABELS = {name: LabelPart.model_validate(classes.label(number)) for name, number in classes.numbers().items()}
KNOWN: dict[str, set[str]] = {}
for entry in concepts["SCT"].values():
    for code, (meaning, _) in entry.items():
        KNOWN.setdefault(code, set()).add(meaning.lower())


def verhoeff(digits: str) -> int:
    """Give the checksum by which a SNOMED CT identifier is 0. Ref: SNOMED CT release file specifications, 5.5."""
    turn = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)

    def times(one: int, other: int) -> int:
        """Multiply in the dihedral group of the pentagon."""
        if one < 5:
            return (one + other) % 5 if other < 5 else 5 + (one + other) % 5
        return 5 + (one - other) % 5 if other < 5 else (one - other) % 5

    check = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = turn[value]
        check = times(check, value)
    return check


def test_there_are_117_in_the_order_of_the_task() -> None:
    """Numbers and words are TotalSegmentator's: the first, the last and some between."""
    assert list(classes.numbers().values()) == list(range(1, 118))
    some = {"spleen": 1, "prostate": 22, "vertebrae_L5": 27, "vertebrae_C1": 50, "heart": 51, "rib_left_1": 92, "rib_right_12": 115}
    assert {name: classes.numbers()[name] for name in some} == some
    assert classes.numbers()["costal_cartilages"] == 117


@pytest.mark.parametrize("name", LABELS)
def test_codes_are_concepts_and_mean_what_is_written(name: str) -> None:
    """Each code is a valid identifier; where DICOM knows it, its meaning is DICOM's, and what DICOM does not know is listed."""
    label = LABELS[name]
    for concept in (label.category, label.type, label.region, label.laterality):
        if concept is None:
            continue
        assert concept.scheme == "SCT"
        assert verhoeff(concept.value) == 0
        assert concept.value[-3:-1] in {"00", "10"}, "a concept, no description"
        if concept.value in BEYOND_DICOM:
            assert concept.value not in KNOWN
        else:
            assert concept.meaning.lower() in KNOWN[concept.value]


def test_the_checksum_finds_a_changed_digit() -> None:
    """An identifier with one wrong digit, or two exchanged, does not pass."""
    assert verhoeff("78961009") == 0
    assert verhoeff("78961008") != 0
    assert verhoeff("79861009") != 0


@pytest.mark.parametrize("name", LABELS)
def test_sides_are_those_of_the_names(name: str) -> None:
    """What is called left or right says so in words, and by its laterality or its type."""
    label = LABELS[name]
    side = re.search(r"(?:^|_)(left|right)(?:_|$)", name)
    assert (side[1] in label.label.lower()) if side else not re.search("left|right", label.label.lower())
    told = label.laterality.meaning.lower() if label.laterality else ""
    if side and side[1] not in label.type.meaning.lower():
        assert told == side[1]
    else:
        assert told == ""


def test_colours_differ_and_no_two_classes_are_the_same() -> None:
    """No two classes share a colour, a label, or type, region and side together; a viewer's colours are at least 15 apart."""
    colours = np.array([label.cielab for label in LABELS.values()], dtype=float)
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1000 * np.eye(len(colours))
    assert apart.min() > 15
    assert len({label.label for label in LABELS.values()}) == 117
    assert len({(label.type.value, str(label.region), str(label.laterality)) for label in LABELS.values()}) == 117


@pytest.mark.real
def test_words_are_those_of_a_published_result() -> None:
    """The classes are the files that TotalSegmentator 2 wrote for a real CT."""
    folder = shared("data/abdomen_ct_totalseg/example_seg_fast")
    assert {path.name.removesuffix(".nii.gz") for path in folder.glob("*.nii.gz")} - {"preview_total"} == set(classes.numbers())
