"""Predictions written as DICOM objects: the SEG, then the SR that refers to it.

Ref: docs/results.md
"""

from __future__ import annotations

from typing import NamedTuple

from workers.measure import measure
from workers.results import check, header, seg, sr, wording
from workers.results.identity import profile_digest
from workers.results.request import ComposedObject, ComposeRequest
from workers.results.segments import plan

__all__ = ["ComposeRequest", "Composed", "ComposedObject", "compose", "profile_digest"]


class Composed(NamedTuple):
    """The objects of one analysis in sending order, and the result in one line without patient data."""

    objects: list[ComposedObject]
    summary: str


def compose(request: ComposeRequest) -> Composed:
    """Write and check the objects of one analysis; the same request always gives the same bytes.

    Without a segment there is no SEG; an SR there always is, since nothing found is a result too.
    Raises Refused where the prediction cannot be written truly.
    """
    segments = plan(request)
    objects = []
    reference = seg.build(request, segments) if segments else None
    if reference is not None:
        objects.append(header.encode(reference, seg.KIND))
    by_key = {entry.key: entry for entry in measure(request.prediction, request.volume, request.card.card)}
    measured = [(segment, by_key[segment.key]) for segment in segments]
    objects.append(header.encode(sr.build(request, measured, reference), sr.KIND))
    check.verify(request, objects)
    return Composed(objects, wording.statement(request, segments))
