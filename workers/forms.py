"""A finished prediction in the form of each destination: in its viewer profile, else in the first fallback that can hold it.

What is wrong with the analysis itself is refused in every profile, and then there is no result at all. What one form alone cannot
say truly, a mask that does not read back, say, keeps nobody else from a result that passed its own gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from node import journal, outbox
from node.errors import Refused
from node.study import Parcel
from workers import pipeline, results
from workers.pipeline import Context, Guard
from workers.results import ComposeRequest

log = journal.get("forms")
Refusal = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    """What was written for whom.

    parcels   each profile once; one without an object is of a profile that some destination wants and nothing could be written in
    profiles  destination -> profile of its parcel
    refusals  destination -> what it should have had and why it has not: profile, to (None: nothing instead), reason, at
    """

    parcels: tuple[Parcel, ...]
    profiles: Mapping[str, str]
    refusals: Mapping[str, tuple[Refusal, ...]]


def write(context: Context, request: ComposeRequest, guard: Guard) -> Forms:
    """Write each destination's parcel and keep its files; raises Refused where no profile holds the result."""
    writer = _Writer(context, request, guard)
    chosen = {name: writer.first(chain) for name, chain in outbox.chains(context.settings, request.job).items()}
    written = [parcel for parcel in writer.tried.values() if parcel.objects]
    if not written:
        raise Refused(next(iter(writer.tried.values())).summary)
    for destination, (_, refusals) in chosen.items():
        for refusal in refusals:
            told = {key: value for key, value in refusal.items() if key != "at"}
            log.error("result.not_in_form", alert=True, job=request.job.job_id, destination=destination, **told)
    profiles = {name: profile for name, (profile, _) in chosen.items() if name is not None}
    nothing = [parcel for parcel in writer.tried.values() if not parcel.objects and parcel.profile in profiles.values()]
    return Forms(
        parcels=(*written, *nothing),
        profiles=profiles,
        refusals={name: refusals for name, (_, refusals) in chosen.items() if name is not None and refusals},
    )


class _Writer:
    """Tries each profile once."""

    def __init__(self, context: Context, request: ComposeRequest, guard: Guard) -> None:
        self.tried: dict[str, Parcel] = {}
        self._context = context
        self._request = request
        self._guard = guard
        self._measures = results.measures(request)

    def first(self, chain: Sequence[str]) -> tuple[str, tuple[Refusal, ...]]:
        """Give the first profile of the chain that holds the result, without one the first of all; and why not those before."""
        refusals: list[Refusal] = []
        for name, following in zip(chain, [*chain[1:], None], strict=True):
            parcel = self._parcel(name)
            if parcel.objects:
                return name, tuple(refusals)
            refusals.append({"profile": name, "to": following, "reason": parcel.summary, "at": self._context.ledger.clock()})
        return chain[0], tuple(refusals)

    def _parcel(self, name: str) -> Parcel:
        """Write one profile's parcel; one without an object says in its summary why there is none."""
        if name not in self.tried:
            profile = self._context.settings.profile(name)
            try:
                composed = results.compose(pipeline.in_profile(self._context.settings, self._request, profile), self._measures)
            except Refused as error:
                composed = results.Composed([], error.reason)
            self._guard()
            self.tried[name] = pipeline.keep(self._context, self._request.job, profile, composed)
        return self.tried[name]
