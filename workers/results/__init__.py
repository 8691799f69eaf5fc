"""Predictions written as DICOM objects, in the form that one viewer profile asks for.

Each kind has a writer here and a check in `check`; the report comes last, because it refers to the others.
Ref: docs/results.md
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from pydicom.dataset import Dataset

from node.profiles import ORDER, Kind
from workers.measure import SegmentMeasures, measure
from workers.pixels import quiet
from workers.results import capture, check, failure, header, keyobject, pm, presentation, rtstruct, seg, sr, wording
from workers.results.arrangement import arranged
from workers.results.identity import profile_digest
from workers.results.request import ComposedObject, ComposeRequest, Draft, FailureRequest
from workers.results.segments import plan
from workers.results.sources import readable, usable
from workers.runs import Covers, covers

__all__ = ["ComposeRequest", "Composed", "ComposedObject", "FailureRequest", "compose", "compose_failure", "measures", "profile_digest"]

# What writes each kind: no object where the analysis has nothing for it, several where one would not do.
WRITERS: Mapping[Kind, Callable[[Draft], Sequence[Dataset]]] = {
    "seg": seg.write,
    "pm": pm.write,
    "rtstruct": rtstruct.write,
    "gsps": presentation.write,
    "sc": capture.write,
    "kos": keyobject.write,
    "sr": sr.write,
}


class Composed(NamedTuple):
    """The objects of one analysis in sending order, and the result in one line without patient data."""

    objects: list[ComposedObject]
    summary: str


def measures(request: ComposeRequest, labelled: Covers | None = None) -> tuple[SegmentMeasures, ...]:
    """Measure what is marked; of one analysis the same in every profile."""
    return tuple(measure(request.prediction, request.volume, request.card.card, labelled))


def compose(request: ComposeRequest, measured: Sequence[SegmentMeasures] | None = None) -> Composed:
    """Write and check the objects of one analysis; the same request always gives the same bytes.

    measured  what `measures` gave; None: measured here
    Without a segment there is no SEG; an SR there always is, since nothing found is a result too.
    Raises Refused where the prediction cannot be written truly. Libraries' warnings are kept quiet: they quote a patient's values.
    """
    with quiet(), _uncollected():
        request = replace(request, sources=readable(request.sources))
        usable(request)
        return _composed(request, measured)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let the collector wait: it would look at the headers of all images some sixty times, and they are no garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _composed(request: ComposeRequest, measured: Sequence[SegmentMeasures] | None) -> Composed:
    # The last gate measures the prediction anew. It needs nothing of what is written, so it does that meanwhile.
    with ThreadPoolExecutor(max_workers=1) as beside:
        truth = beside.submit(check.truth, request)
        labelled = covers(request.prediction.labels)
        segments = arranged(request, plan(request, labelled))
        by_key = {entry.key: entry for entry in (measures(request, labelled) if measured is None else measured)}
        objects = _written(Draft(request=request, measured=tuple((segment, by_key[segment.key]) for segment in segments)))
        check.verify(request, objects, truth.result)
    return Composed(objects, wording.statement(request, segments))


def _written(draft: Draft) -> list[ComposedObject]:
    """Write the objects that the profile asks for, each kind from what was written before it."""
    objects = []
    for kind in ORDER:
        if draft.request.profile.wants(kind) and kind in WRITERS:
            datasets = tuple(WRITERS[kind](draft))
            draft = replace(draft, written={**draft.written, kind: datasets})
            objects += [header.encode(dataset, kind) for dataset in datasets]
    return objects


def compose_failure(request: FailureRequest) -> Composed:
    """Write and check the one report that says an analysis failed; the same request always gives the same bytes.

    Raises Refused where the images do not agree on whose they are, and ValueError without an image.
    """
    if not request.sources:
        raise ValueError("a failure without an image belongs to nobody")
    with quiet():
        request = replace(request, sources=readable(request.sources))
        entry = header.encode(failure.write(request), "sr")
        check.verify_failure(request, entry)
        return Composed([entry], failure.statement(request))
