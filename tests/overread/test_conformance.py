"""The conformance statement says what the code does, today."""

from __future__ import annotations

import re
from dataclasses import replace

from node.profiles import BUILT_IN, ORDER, Profile
from overread import conformance
from tests.workers.results import scans, sources
from workers.results import WRITERS, compose


def test_the_statement_is_not_older_than_the_code() -> None:
    """`python -m overread.conformance` would write the file that is there."""
    assert conformance.DOCUMENT.read_text(encoding="utf-8") == conformance.statement(), "run python -m overread.conformance"


def test_every_result_is_of_a_class_and_syntax_that_the_statement_names() -> None:
    """Objects of every profile and form are sent as said; the classes that one prediction brings about are all met."""
    met: dict[str, set[str]] = {}
    forms: list[Profile] = [sources.EVERYTHING, *BUILT_IN.values()]
    forms += [Profile(name=f"labelmap-{syntax}", seg_type="labelmap", seg_syntax=syntax) for syntax in ("explicit", "rle", "jpeg-ls")]  # type: ignore[arg-type]
    for profile in forms:
        for entry in compose(replace(scans.request(scan=scans.Scan(shape=(4, 16, 16)), nodules=0), profile=profile)).objects:
            assert entry.transfer_syntax_uid in conformance.RESULTS[entry.kind][entry.sop_class_uid]
            met.setdefault(entry.kind, set()).add(entry.sop_class_uid)
    assert met["seg"] == set(conformance.RESULTS["seg"])
    assert met["sr"] == set(conformance.RESULTS["sr"])
    assert set(conformance.RESULTS) == set(conformance.MODULES) == set(ORDER) >= set(WRITERS)


def test_the_tables_are_whole() -> None:
    """Common classes and syntaxes stand in it, what is no storage class does not, and every UID has a name."""
    text = conformance.statement()
    for uid in ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.20.1"):
        assert f"`{uid}`" in text or conformance.name(uid) in text
    assert "Modality Worklist" not in text
    assert "newer than our dictionary" not in text
    assert len(re.findall(r"^\| .* Storage", text, flags=re.MULTILINE)) > 120
