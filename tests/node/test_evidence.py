"""What counts prove: hint and proof, holes, several archives, and the words for it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from node import evidence
from node.evidence import Evidence, Here, Look, Standing
from node.study import Series, Study
from tests.node import work

STABLE_S = 10.0


def here(images: int = 20, hole: int = 0, uid: str = "1.1", number: str = "3") -> Here:
    """Say what came of a series."""
    return Here(series_instance_uid=uid, number=number, images=images, hole=hole)


def look(at: float, took: float = 0.0, **facts: Any) -> Look:
    """Say what peers answered at that time: counts of the series 1.1 by peer, or more."""
    counts = {peer: {"1.1": count} for peer, count in facts.pop("counts", {}).items()}
    return Look(asked_at=at, answered_at=at + took, counts=counts, **facts)


def standing(*looks: Look, came: Here | None = None) -> Standing:
    """Weigh looks one after the other; gives how the series stands in the end."""
    found: Evidence | None = None
    for each in looks:
        found = evidence.judge([came or here()], each, found, STABLE_S)
    assert found is not None
    return found.series["1.1"].standing


@pytest.mark.parametrize(
    ("looks", "wanted"),
    [
        ([look(0, counts={"a": 20})], Standing.HINT),
        ([look(0, counts={"a": 20}), look(9, counts={"a": 20})], Standing.HINT),
        ([look(0, counts={"a": 20}), look(10, counts={"a": 20})], Standing.PROVED),
        # It took the first answer 4 seconds to come: only from then on is it known.
        ([look(0, 4, counts={"a": 20}), look(10, counts={"a": 20})], Standing.HINT),
        # Something else in between begins anew.
        ([look(0, counts={"a": 20}), look(5, counts={"a": 19}), look(10, counts={"a": 20})], Standing.HINT),
        ([look(0, counts={"a": 20}), look(5, away={"a": "down"}), look(10, counts={"a": 20})], Standing.HINT),
        ([look(0, counts={"a": 21}), look(60, counts={"a": 21})], Standing.MISSING),
        ([look(0, counts={"a": 19}), look(60, counts={"a": 19})], Standing.FEWER),
        # What one archive lacks another may have.
        ([look(0, counts={"a": 20, "b": 25}), look(10, counts={"a": 20, "b": 25})], Standing.MISSING),
        ([look(0, counts={"a": 20, "b": 7}), look(10, counts={"a": 20, "b": None})], Standing.PROVED),
        ([look(0, counts={"a": 20}, away={"b": "down"}), look(10, counts={"a": 20}, away={"b": "down"})], Standing.PROVED),
        ([look(0, away={"a": "down"}), look(60, away={"a": "down"})], Standing.AWAY),
        # Who does not know the series yet may learn of it.
        ([look(0, counts={"a": None})], Standing.HINT),
        ([look(0, counts={"a": None}), look(10, counts={"a": None})], Standing.UNCOUNTED),
        ([look(0, silent={"a": "refuses"})], Standing.UNCOUNTED),
        ([look(0)], Standing.UNCOUNTED),
        # A notification holds up, and never proves.
        ([look(0, notices={"1.1": 21})], Standing.MISSING),
        ([look(0, notices={"1.1": 20}), look(60, notices={"1.1": 20})], Standing.UNCOUNTED),
        ([look(0, counts={"a": 20}, notices={"1.1": 21}), look(60, counts={"a": 20}, notices={"1.1": 21})], Standing.MISSING),
    ],
)
def test_how_a_series_stands(looks: list[Look], wanted: Standing) -> None:
    """One equal count is a hint, two far enough apart are the proof, and more anywhere is more."""
    assert standing(*looks) is wanted


def test_a_hole_among_the_slices_is_no_proof() -> None:
    """However often the archive counts the same."""
    assert standing(look(0, counts={"a": 20}), look(60, counts={"a": 20}), came=here(hole=2)) is Standing.HOLE


@pytest.mark.parametrize(
    ("places", "lost"),
    [
        ([0, 2, 4, 6, 8, 10], 0),
        ([0, 2, 4, 10, 12, 14, 16], 2),
        ([16, 4, 0, 14, 2, 12, 10], 2),
        ([0, 2, 4, 6, 8.05, 9.95, 12], 0),
        ([0, 10, 20, 30, 40, 50], 0),
        ([0, 0, 2, 2, 4, 4, 8, 8, 10, 10, 12, 12], 1),
        ([0, 5, 1, 30, 77, 90], 0),
        ([0, 2], 0),
    ],
    ids=["even", "a hole", "a hole, in no order", "rounded", "wide on purpose", "two echoes with a hole", "no stack at all", "two"],
)
def test_holes_are_seen_in_even_stacks_only(places: list[float], lost: int) -> None:
    """What is no single even stack is left to routing and to the stage that reads it."""
    images = [work.image(f"1.2.3.1.{n}", header={"ImagePositionPatient": [0.0, 0.0, place]}) for n, place in enumerate(places, 1)]
    assert evidence.hole(images) == lost


@pytest.mark.parametrize(
    "broken", [{"ImagePositionPatient": None}, {"ImagePositionPatient": ["x", 0, 0]}, {"ImageOrientationPatient": [1, 0]}]
)
def test_a_broken_geometry_is_no_hole(broken: dict[str, Any]) -> None:
    """Headers are whatever a device wrote; nothing is raised."""
    assert evidence.hole([*work.slices(8), *work.slices(1, first=20, header=broken)]) == 0


def test_only_images_need_proof() -> None:
    """Our own results and reports, which grow when they will, are left out."""
    groups = [work.slices(3), work.slices(1, series="1.2.3.2", header={"Manufacturer": "Overread"})]
    groups += [work.slices(1, series="1.2.3.3", header={"Modality": "PR"}), work.slices(2, series="1.2.3.4", header={"SeriesNumber": 7})]
    study = Study(
        study_instance_uid="1.2.3",
        revision=1,
        series=tuple(Series(series_instance_uid=some[0].series_instance_uid, instances=tuple(some)) for some in groups),
    )
    assert [(entry.number, entry.images) for entry in evidence.received(study)] == [("1.2.3.1", 3), ("7", 2)]


def test_evidence_comes_back_from_json_as_it_was() -> None:
    """It is stored between looks, by whichever process takes the next."""
    first = evidence.judge([here(), here(uid="1.2", number="4")], look(0, counts={"a": 20}, away={"b": "down"}), None, STABLE_S)
    found = evidence.with_fetch(first, 3.0, "nothing came")
    stored = json.loads(json.dumps(evidence.to_json(found, 12.0, proof="count")))
    assert evidence.from_json(stored) == found
    assert evidence.from_json({"said": "no arrival for 60 s"}) is None
    assert evidence.from_json(None) is None


def test_the_words_count_and_name_no_more_than_three() -> None:
    """A technologist reads which series lacks how many."""
    lacking = [here(110, uid=f"1.{n}", number=str(n)) for n in range(1, 6)]
    counts = {"pacs": {f"1.{n}": 120 for n in range(1, 6)}}
    found = evidence.judge(lacking, Look(asked_at=0, answered_at=0, counts=counts), None, STABLE_S)
    reason = evidence.mismatch(found)
    assert reason.startswith("pacs has 120 images of series 1, 110 came; pacs has 120 images of series 2, 110 came; ")
    assert reason.endswith("so it is with 2 more series; send the missing images")
    tried = evidence.mismatch(evidence.with_fetch(found, 1.0, "0 of 50 images came from pacs by c-get"))
    assert tried.endswith("; fetching them did not help: 0 of 50 images came from pacs by c-get")
