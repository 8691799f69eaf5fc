"""What speaks for a revision being whole: pure, from what came and what the peers say they have.

One count that equals ours is a hint: the archive may itself still be receiving. Two, `count_stable_s` apart with no
arrival between and no hole among the slices, are the proof. Where nobody counts, the quiet time is all there is, and
the evidence says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any

from node.fit import NOT_IMAGES, OWN_MANUFACTURER
from node.study import Instance, Series, Study

SAME_PLACE_MM = 0.01
HOLE = 1.5  # of a step: a wider gap has lost a slice
FEW_SLICES = 4
TOLD = "a notification"
LISTED = 3


class Standing(StrEnum):
    """How one series stands against the peers' counts."""

    PROVED = "proved"  # equal in two looks, no hole
    HINT = "hint"  # equal in one look so far
    HOLE = "hole"  # equal, but slices lack between the others
    MISSING = "missing"  # a peer has more than came
    FEWER = "fewer"  # the peers have fewer than came
    AWAY = "away"  # who may know does not answer now
    UNCOUNTED = "uncounted"  # who answers knows no count of it


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What came of one series: its images, and how many slices the positions say are lost between them."""

    series_instance_uid: str
    number: str
    images: int
    hole: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """One look at the peers: counts by peer and series, and why the others gave none.

    away     may answer later          silent   will not answer: no queries there
    notices  images of a series that Instance Availability Notifications named
    """

    asked_at: float
    answered_at: float
    counts: Mapping[str, Mapping[str, int | None]] = field(default_factory=dict)
    away: Mapping[str, str] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    notices: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesEvidence:
    """How a series stands; `since` is the first of the looks that found the same."""

    number: str
    here: int
    there: int | None
    peer: str | None
    hole: int
    standing: Standing
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that is known; `looks` were taken since the last arrival.

    fetch  what became of asking for the missing images: {"at": ..., "said": ...}
    """

    series: Mapping[str, SeriesEvidence] = field(default_factory=dict)
    away: Mapping[str, str] = field(default_factory=dict)
    silent: Mapping[str, str] = field(default_factory=dict)
    looks: int = 0
    fetch: Mapping[str, Any] | None = None

    def standing(self, *wanted: Standing) -> list[SeriesEvidence]:
        """Give the series that stand so."""
        return [entry for entry in self.series.values() if entry.standing in wanted]

    @property
    def settled(self) -> bool:
        """Tell whether nothing is left to wait for but the quiet time."""
        return not self.standing(Standing.HINT, Standing.HOLE, Standing.MISSING, Standing.FEWER, Standing.AWAY)

    @property
    def hinted(self) -> bool:
        """Tell whether all that is wanted is a second look."""
        return bool(self.standing(Standing.HINT)) and not self.standing(Standing.HOLE, Standing.MISSING, Standing.FEWER, Standing.AWAY)


def received(study: Study) -> list[Here]:
    """Count what came of each series that holds images; our own results and other documents need no proof."""
    return [_count(series) for series in study.series if not _is_document(series.instances[0])]


def judge(here: Sequence[Here], look: Look, before: Evidence | None, count_stable_s: float) -> Evidence:
    """Weigh one look with those before it; `before` is None after an arrival."""
    known = {} if before is None else before.series
    series = {entry.series_instance_uid: _series(entry, look, known.get(entry.series_instance_uid), count_stable_s) for entry in here}
    return Evidence(
        series=series,
        away=dict(look.away),
        silent=dict(look.silent),
        looks=1 if before is None else before.looks + 1,
        fetch=None if before is None else before.fetch,
    )


def said(evidence: Evidence, quiet_s: float) -> str:
    """Say in one line on what evidence a revision is complete, or what it waits for."""
    total = len(evidence.series)
    proved = evidence.standing(Standing.PROVED)
    parts = [f"no arrival for {quiet_s:.0f} s"]
    if proved:
        named = ", ".join(sorted({entry.peer for entry in proved if entry.peer}))
        parts.append(f"{named} counts as many images as came in {len(proved)} of {total} series, twice")
    remarks = {
        Standing.HINT: "was looked up only once",
        Standing.HOLE: "lacks slices between the others, at the archive too",
        Standing.FEWER: "has fewer images at the archive than came",
        Standing.UNCOUNTED: "was counted by nobody",
    }
    for standing, remark in remarks.items():
        if entries := evidence.standing(standing):
            parts.append(f"{_names(entries)} {remark}")
    parts += [lacking(entry) for entry in evidence.standing(Standing.MISSING)[:LISTED]]
    parts += [f"no answer: {reason}" for reason in [*evidence.away.values(), *evidence.silent.values()]]
    if not (evidence.away or evidence.silent or any(entry.peer for entry in evidence.series.values())):
        parts.append("no peer with query = true to ask")
    return "; ".join(parts)


def lacking(entry: SeriesEvidence) -> str:
    """Say what is missing: "archive has 120 images of series 3, 110 came"."""
    verb = "names" if entry.peer == TOLD else "has"
    return f"{entry.peer} {verb} {_images(entry.there or 0)} of series {entry.number}, {entry.here} came"


def mismatch(evidence: Evidence) -> str:
    """Say, for a technologist, why a revision is not analysed as it is."""
    missing = evidence.standing(Standing.MISSING)
    parts = [lacking(entry) for entry in missing[:LISTED]]
    if len(missing) > LISTED:
        parts.append(f"so it is with {len(missing) - LISTED} more series")
    fetched = (evidence.fetch or {}).get("said")
    parts.append(f"fetching them did not help: {fetched}" if fetched else "send the missing images")
    return "; ".join(parts)


def to_json(evidence: Evidence, quiet_s: float, **more: Any) -> dict[str, Any]:
    """Give what the ledger stores; `said` is for people, the rest is read back by from_json. `more` that is None is left out."""
    facts = {"said": said(evidence, quiet_s), "quiet_s": round(quiet_s, 3)} | asdict(evidence)
    return facts | {key: value for key, value in more.items() if value is not None}


def from_json(facts: Mapping[str, Any] | None) -> Evidence | None:
    """Read back what to_json gave; None for what another kind of evidence left."""
    if not facts or "series" not in facts:
        return None
    series = {uid: SeriesEvidence(**entry | {"standing": Standing(entry["standing"])}) for uid, entry in facts["series"].items()}
    return Evidence(series=series, away=facts["away"], silent=facts["silent"], looks=facts["looks"], fetch=facts["fetch"])


def with_fetch(evidence: Evidence, at: float, words: str | None) -> Evidence:
    """Note that the missing images were asked for at that time, and what came of it."""
    return replace(evidence, fetch={"at": at, "said": words})


def _series(here: Here, look: Look, before: SeriesEvidence | None, count_stable_s: float) -> SeriesEvidence:
    there, peer = _most(here, look)
    same = before is not None and (before.here, before.there) == (here.images, there)
    since = before.since if before is not None and same else look.answered_at
    stable = look.asked_at - since >= count_stable_s
    standing = _standing(here, there, stable=stable, someone_away=bool(look.away), someone_asked=bool(look.counts))
    return SeriesEvidence(number=here.number, here=here.images, there=there, peer=peer, hole=here.hole, standing=standing, since=since)


def _most(here: Here, look: Look) -> tuple[int | None, str | None]:
    """Give the highest count anybody has, and whose it is: what one archive lost another may have."""
    found = [(count, peer) for peer, counts in look.counts.items() if (count := counts.get(here.series_instance_uid)) is not None]
    there, peer = max(found, default=(None, None), key=lambda pair: pair[0] or 0)
    told = look.notices.get(here.series_instance_uid, 0)
    # A notification names what is there, but not that this is all: it can hold an analysis up, never prove. Ref: PS3.4 R.3
    return (told, TOLD) if told > max(here.images, there or 0) else (there, peer)


def _standing(here: Here, there: int | None, *, stable: bool, someone_away: bool, someone_asked: bool) -> Standing:
    if there is None:
        if someone_away:
            return Standing.AWAY
        # An archive that does not know the series yet may learn of it before the second look.
        return Standing.UNCOUNTED if stable or not someone_asked else Standing.HINT
    if there != here.images:
        return Standing.MISSING if there > here.images else Standing.FEWER
    if here.hole:
        return Standing.HOLE
    return Standing.PROVED if stable else Standing.HINT


def _count(series: Series) -> Here:
    first = series.instances[0]
    number = str(first.header.get("SeriesNumber") or series.series_instance_uid)
    return Here(series_instance_uid=series.series_instance_uid, number=number, images=len(series.instances), hole=hole(series.instances))


def hole(instances: Sequence[Instance]) -> int:
    """Estimate how many slices lack between the others; 0 where the series is no single even stack, which routing judges.

    Example: 0, 2, 4, 10, 12 mm: the step is 2, between 4 and 10 there is room for two more.
    """
    planes = {tuple(entry.header.get("ImageOrientationPatient") or ()) for entry in instances}
    positions = [entry.header.get("ImagePositionPatient") for entry in instances]
    plane = next(iter(planes))
    if len(planes) != 1 or len(plane) != 6 or not all(isinstance(place, list) and len(place) == 3 for place in positions):
        return 0
    try:
        along = _along([float(part) for part in plane], [[float(part) for part in place] for place in positions if place])
    except (TypeError, ValueError):
        return 0
    steps = [after - before for before, after in pairwise(along) if after - before > SAME_PLACE_MM]
    if len(steps) < FEW_SLICES:
        return 0
    step = sorted(steps)[(len(steps) - 1) // 2]
    wide = [gap for gap in steps if gap > HOLE * step]
    if len(wide) > max(2, len(steps) // 4) or min(steps) * HOLE < step:
        return 0
    return sum(round(gap / step) - 1 for gap in wide)


def _along(plane: Sequence[float], positions: Sequence[Sequence[float]]) -> list[float]:
    """Project positions on the normal of the plane, sorted. Ref: PS3.3 C.7.6.2.1.1."""
    row, column = plane[:3], plane[3:]
    normal = (
        row[1] * column[2] - row[2] * column[1],
        row[2] * column[0] - row[0] * column[2],
        row[0] * column[1] - row[1] * column[0],
    )
    return sorted(sum(a * b for a, b in zip(place, normal, strict=True)) for place in positions)


def _is_document(first: Instance) -> bool:
    return first.header.get("Manufacturer") == OWN_MANUFACTURER or str(first.header.get("Modality", "")) in NOT_IMAGES


def _names(entries: Sequence[SeriesEvidence]) -> str:
    names = ", ".join(entry.number for entry in entries[:LISTED])
    more = f" and {len(entries) - LISTED} more" if len(entries) > LISTED else ""
    return f"series {names}{more}"


def _images(count: int) -> str:
    return f"{count} image{'' if count == 1 else 's'}"
