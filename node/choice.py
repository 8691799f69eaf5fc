"""Give each role of a model its series, all roles together: pure, deterministic, with a reason for every series left over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from models.card import Card, InputPart
from node.fit import Fit, Looks, Misfit, either, judge
from node.score import Candidate, candidate, series_name, worse
from node.study import Study

By = Mapping[str, Sequence[Candidate]]
_Taken = tuple[Candidate, ...]
# Sums of points nearer than this are equal.
SAME_POINTS = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """`chosen` is None where a role stays empty, else role -> candidate, the reference role first; `reasons` by series UID.

    lacking  the inputs that no series fits, where another input has one: `near`, the best of the first such input
    """

    chosen: Mapping[str, Candidate] | None
    reasons: Mapping[str, str]
    lacking: tuple[InputPart, ...] = ()
    near: Candidate | None = None


def choose(study: Study, card: Card, looks: Looks | None = None) -> Choice:
    """Find the combination that earns most points over all roles; equal ones by rank, the reference role first."""
    looks = {} if looks is None else looks
    parts = sorted(card.inputs, key=lambda part: not part.reference)
    fits: dict[str, list[Candidate]] = {part.role: [] for part in parts}
    misfits: dict[str, dict[str, Misfit]] = {}
    for series in study.series:
        for part in parts:
            verdict = judge(series, part.accept, looks)
            if isinstance(verdict, Fit):
                fits[part.role].append(candidate(verdict, part))
            else:
                misfits.setdefault(series.series_instance_uid, {})[part.role] = verdict
    for entries in fits.values():
        entries.sort(key=lambda entry: entry.rank)
    chosen = _best(parts, fits)
    losers = _losers(parts, fits, chosen) if chosen is not None else _stranded(parts, fits)
    reasons = {uid: _sentence(by_role) for uid, by_role in misfits.items() if len(by_role) == len(parts)}
    near = next((entries[0] for entries in fits.values() if entries), None)
    lacking = tuple(part for part in parts if not fits[part.role]) if near is not None else ()
    return Choice(chosen=chosen, reasons=reasons | losers, lacking=lacking, near=near)


def frame(fit: Fit) -> str:
    """Give the frame of reference of a series, empty where it names none. Ref: PS3.3 C.7.4.1."""
    return str(fit.instances[0].header.get("FrameOfReferenceUID") or "").strip()


def _best(parts: Sequence[InputPart], fits: By) -> dict[str, Candidate] | None:
    """Try the reference's candidates' frames of reference; give the combination with most points, the first of equal ones."""
    reference, best = parts[0], None
    frames = dict.fromkeys(frame(entry.fit) for entry in fits[reference.role])
    tied = any(part.same_frame for part in parts)
    for where in frames if tied else [None]:
        if where == "":
            continue
        # A role needs no more candidates than there are roles: the others can take but one each.
        open_to = [
            [entry for entry in fits[part.role] if where is None or not (part.same_frame or part.reference) or frame(entry.fit) == where]
            for part in parts
        ]
        found = _search(tuple(tuple(entries[: len(parts)]) for entries in open_to))
        if found is not None and (best is None or _key(found) < _key(best)):
            best = found
    return None if best is None else {part.role: entry for part, entry in zip(parts, best, strict=True)}


def _search(options: Sequence[Sequence[Candidate]]) -> tuple[Candidate, ...] | None:
    """Give the assignment with most points in which no image is used twice, the first of equal ones in the order of ranks."""
    most = [math.fsum(max((entry.points for entry in entries), default=0.0) for entries in options[at:]) for at in range(len(options) + 1)]
    return _extended(options, most, (), None)


def _extended(options: Sequence[Sequence[Candidate]], most: Sequence[float], taken: _Taken, best: _Taken | None) -> _Taken | None:
    """Try every series for the next role; `most` is what the roles from there on can earn, so that hopeless branches end early."""
    if best is not None and _points(taken) + most[len(taken)] <= _points(best) + SAME_POINTS:
        return best
    if len(taken) == len(options):
        return taken
    for entry in options[len(taken)]:
        if not any(_overlap(entry.fit, other.fit) for other in taken):
            best = _extended(options, most, (*taken, entry), best)
    return best


def _overlap(one: Fit, other: Fit) -> bool:
    """Tell whether two parts of series share an image: four views may come as one series."""
    if one.series.series_instance_uid != other.series.series_instance_uid:
        return False
    return not {image.sop_instance_uid for image in one.instances}.isdisjoint(image.sop_instance_uid for image in other.instances)


def _points(entries: Iterable[Candidate]) -> float:
    return math.fsum(entry.points for entry in entries)


def _key(found: Sequence[Candidate]) -> tuple[float, tuple[tuple[float, ...], ...], tuple[str, ...]]:
    ranks = [entry.rank for entry in found]
    return -_points(found), tuple(rank[:-1] for rank in ranks), tuple(rank[-1] for rank in ranks)


def _losers(parts: Sequence[InputPart], fits: By, chosen: Mapping[str, Candidate]) -> dict[str, str]:
    """Give each fitting series that no role took the roles it fitted and what it lacked there."""
    taken = {entry.fit.series.series_instance_uid for entry in chosen.values()}
    reference = chosen[parts[0].role]
    by_series: dict[str, dict[str, str]] = {}
    for part in parts:
        best = chosen[part.role]
        for entry in fits[part.role]:
            uid = entry.fit.series.series_instance_uid
            if uid in taken:
                continue
            if part.same_frame and frame(entry.fit) != frame(reference.fit):
                said = (
                    f"it does not lie in the frame of reference of {series_name(reference.fit)}, so the two cannot be laid over each other"
                )
            elif entry.rank < best.rank:
                said = f"{series_name(best.fit)} suits the model better together with the series of its other inputs"
            else:
                said = worse(entry, best)
            by_series.setdefault(uid, {})[part.role] = said
    return {uid: _joined(by_role) for uid, by_role in by_series.items()}


def _stranded(parts: Sequence[InputPart], fits: By) -> dict[str, str]:
    """Say to each fitting series which inputs stay empty."""
    empty = [part.role for part in parts if not fits[part.role]]
    if empty:
        why = f"no series fits the model's input {either(empty, 'and')}"
    elif any(part.same_frame for part in parts):
        why = "the series that fit its inputs do not lie in one frame of reference"
    else:
        why = "there are fewer fitting series than inputs"
    fitting: dict[str, list[str]] = {}
    for part in parts:
        for entry in fits[part.role]:
            fitting.setdefault(entry.fit.series.series_instance_uid, []).append(part.role)
    return {uid: f"it fits the input {either(roles)}, but {why}" for uid, roles in fitting.items()}


def _sentence(by_role: Mapping[str, Misfit]) -> str:
    """Say why a series fits no role, by the roles it came nearest to; one fact is told once, with all they would take."""
    far = max(misfit.far for misfit in by_role.values())
    by_role = {role: misfit for role, misfit in by_role.items() if misfit.far == far}
    facts: dict[str, list[str]] = {}
    for misfit in by_role.values():
        facts.setdefault(misfit.what, []).extend(misfit.takes)
    if len(facts) == 1:
        ((what, takes),) = facts.items()
        return Misfit(what=what, takes=tuple(dict.fromkeys(takes))).sentence
    return _joined({role: misfit.sentence for role, misfit in by_role.items()})


def _joined(by_role: Mapping[str, str]) -> str:
    roles: dict[str, list[str]] = {}
    for role, said in by_role.items():
        roles.setdefault(said, []).append(role)
    if len(roles) == 1:
        return next(iter(roles))
    return "; ".join(f"as {either(names)}: {said}" for said, names in roles.items())
