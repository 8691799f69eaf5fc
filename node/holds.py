"""Hold a revision until a human has looked: who the patient is, changed images, two senders. Release or drop it, with a trail.

Looking may read files and ask archives, so the dispatch loop lets a thread do it; `suspicious` tells from the ledger alone
which revisions need it. What was released is never held again for the same. Dates of a modality decide nothing:
one in the future is a warning on the revision, unless the site wants it held; all times of ours are the ledger's.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from node import audit, demographics, differences, journal, patients, query
from node.demographics import Word, key
from node.differences import Kind
from node.errors import OverreadError, Refused
from node.ledger import Ledger, instances, jobs, revisions
from node.ledger import holds as rows
from node.ledger.holds import Ending, Finding, Sent
from node.ledger.revisions import Revision
from node.patients import Identity
from node.settings import Settings
from node.study import Instance, Series, Study

log = journal.get("holds")

OWN_MANUFACTURER = "Overread"
DAY_S = 86400
DATES = ("StudyDate", "SeriesDate", "ContentDate")
WORDS_MAX = 500
BY_MAX = 64
_HARMLESS = frozenset({Kind.REMARKS, Kind.PATIENT})  # the patient is judged by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What speaks against analysing a revision as it is, and what is only odd."""

    findings: tuple[Finding, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """What came of a revision: first bytes by series, (other, first) pairs of one UID, and who sent what. Our own results are left out."""

    series: tuple[Series, ...]
    conflicts: tuple[tuple[Instance, Instance | None], ...]
    sent: tuple[Sent, ...]

    @property
    def identities(self) -> list[Identity]:
        """Give every identity that came, each once, in a fixed order."""
        every = [entry for series in self.series for entry in series.instances] + [other for other, _ in self.conflicts]
        found = {tuple(sorted(identity.items())): identity for identity in (patients.identity_of(entry.header) for entry in every)}
        return [found[name] for name in sorted(found)]


def received(ledger: Ledger, revision: Revision, study: Study) -> Images:
    """Read what a judgement needs from the ledger."""
    theirs = [
        Series(series_instance_uid=series.series_instance_uid, instances=kept)
        for series in study.series
        if (kept := tuple(entry for entry in series.instances if entry.header.get("Manufacturer") != OWN_MANUFACTURER))
    ]
    uid = revision.study_instance_uid
    return Images(
        series=tuple(theirs),
        conflicts=tuple(instances.conflicts(ledger, uid, revision.number)),
        sent=tuple(rows.sent(ledger, uid, revision.number)),
    )


def suspicious(images: Images) -> bool:
    """Tell, without files and network, whether a revision needs `judge`."""
    identities = images.identities
    return bool(
        images.conflicts
        or not patients.keys_agree(map(patients.key_of, identities))
        or patients.contested(identities)
        or any(_several_senders(images.sent).values())
    )


def judge(settings: Settings, ledger: Ledger, revision: Revision, images: Images, *, looking: bool = True) -> Judgement:
    """Give what speaks against a revision and note what is odd; `looking` reads files and asks archives, the clock needs neither.

    What was released before is left out. Raises Retryable while the ledger is away.
    """
    found = _look(settings, ledger, revision, images) if looking else Judgement()
    ahead = clock_warnings(images, ledger.clock())
    judgement = replace(found, warnings=(*found.warnings, *ahead))
    if ahead and settings.assembly.on_future_date == "hold":
        wrong = Finding(kind="clock", key=key("clock", ahead), reason=f"{ahead[0]}; correct the clock, then release the study as it is")
        if wrong.key not in rows.released_keys(ledger, revision.study_instance_uid):
            judgement = replace(found, findings=(*found.findings, wrong))
    if judgement.warnings:
        rows.warn(ledger, revision, judgement.warnings)
    return judgement


def _look(settings: Settings, ledger: Ledger, revision: Revision, images: Images) -> Judgement:
    word = demographics.ask(settings, revision.study_instance_uid)
    findings, warnings = _patients(images.identities, word)
    changed, remarks = _changed(settings, images.conflicts)
    senders, shares = _senders(images, _counted(settings, revision))
    released = rows.released_keys(ledger, revision.study_instance_uid)
    fresh = tuple(finding for finding in (*findings, *changed, *senders) if finding.key not in released)
    return Judgement(findings=fresh, warnings=(*warnings, *remarks, *shares))


def broken(error: Exception) -> Finding:
    """Give the finding for a study whose headers break our own code."""
    name = type(error).__name__
    reason = f"routing cannot read this study's headers ({name}); please report it"
    return Finding(kind="routing", key=key("routing", name), reason=reason)


def clock_warnings(images: Images, now: float) -> tuple[str, ...]:
    """Name the series that a modality dates later than tomorrow."""
    latest = dt.datetime.fromtimestamp(now + DAY_S, dt.UTC).strftime("%Y%m%d")
    ahead = [
        str(series.instances[0].header.get("SeriesNumber") or series.series_instance_uid)
        for series in images.series
        if any(_date(entry.header, keyword) > latest for entry in series.instances for keyword in DATES)
    ]
    return (f"series {', '.join(ahead)} is dated in the future: the modality's clock is wrong",) if ahead else ()


def hold(ledger: Ledger, revision: Revision, findings: Sequence[Finding], evidence: Mapping[str, Any] | None = None) -> bool:
    """Stop a revision with its findings; False when it has moved on meanwhile. `evidence` as in the ledger's hold."""
    event = _event("study held", revision.study_instance_uid, rows.reason_of(findings), revision.number)
    done = rows.hold(ledger, revision, findings, _noted(ledger, event), evidence)
    if done:
        log.warning("revision.held", alert=True, reason=event.reason, kinds=[entry.kind for entry in findings], **_names(revision))
    return done


def note_received(ledger: Ledger, revision: Revision, images: Images) -> None:
    """Leave in the audit trail that a revision of a study came, from whom, and of how many images."""
    senders = tuple(sorted({sender for entry in images.sent for sender in entry.senders if sender.strip()}))
    event = _event("study received", revision.study_instance_uid, "", revision.number)
    audit.note(ledger.data_dir, replace(event, peers=senders, objects=len(images.sent)), ledger.clock())


def stop(ledger: Ledger, claim: jobs.Claim, finding: Finding) -> bool:
    """Stop a planned revision at one of its jobs: its results may not be written as things are. False when the claim was lost."""
    event = _event("study held", claim.job.study_instance_uid, finding.reason, claim.job.revision)
    done = rows.stop(ledger, claim, [finding], _noted(ledger, event))
    if done:
        names = {"study": claim.job.study_instance_uid, "revision": claim.job.revision, "job": claim.job.job_id}
        log.warning("revision.held", alert=True, reason=finding.reason, kinds=[finding.kind], **names)
    return done


def release(ledger: Ledger, study_uid: str, by: str, because: str) -> Revision:
    """Let a held study go on as it is; raises Refused when none is held, or when the words quote the patient's data."""
    return _end(ledger, study_uid, Ending(outcome="RELEASED", by=by.strip(), because=because.strip()), "hold released")


def drop(ledger: Ledger, study_uid: str, by: str, because: str) -> Revision:
    """Decline a held study for good: files stay until retention takes them. Raises as `release` does."""
    return _end(ledger, study_uid, Ending(outcome="DROPPED", by=by.strip(), because=because.strip()), "study dropped")


def _end(ledger: Ledger, study_uid: str, ending: Ending, action: str) -> Revision:
    _require_words(ledger, study_uid, ending)

    def record(revision: Revision) -> None:
        event = _event(action, study_uid, ending.because, revision.number)
        audit.require(ledger.data_dir, audit.by(event, ending.by), ledger.clock())

    try:
        revision = rows.end(ledger, study_uid, ending, record)
    except OSError as error:
        raise Refused(f"the audit trail under {ledger.data_dir / audit.FOLDER} cannot be written, so nothing was changed") from error
    if revision is None:
        raise Refused("no revision of this study is held; overread held list shows those that are")
    log.info("hold.ended", outcome=ending.outcome, **_names(revision))
    return revision


def _require_words(ledger: Ledger, study_uid: str, ending: Ending) -> None:
    """Take no word that is not there, and none that carries a patient's data into reasons and trail."""
    for option, text, most in (("--by", ending.by, BY_MAX), ("--because", ending.because, WORDS_MAX)):
        if not text or len(text) > most or not text.isprintable():
            raise Refused(f"{option} needs 1 to {most} printable characters")
    known = revisions.of_study(ledger, study_uid)
    number = known[-1].number if known else 0
    every = [entry for series in instances.study(ledger, study_uid, number).series for entry in series.instances]
    every += [other for other, _ in instances.conflicts(ledger, study_uid, number)]
    quoted = patients.quoted(ending.because, [patients.identity_of(entry.header) for entry in every])
    if quoted is not None:
        raise Refused(f"--because quotes the patient's data ({quoted}); say it without: reasons are shown and logged")


def _patients(identities: Sequence[Identity], word: Word) -> tuple[list[Finding], list[str]]:
    """Refuse to guess whose results they would be; the archive's word settles it where it can. Ref: PS3.3 C.7.1.1."""
    keys = sorted({patients.key_of(entry) for entry in identities})
    findings = [] if len(word.known) < 2 else demographics.against([], word)
    if not patients.keys_agree(keys):
        if word.patient is not None and all(patients.belongs(entry, word.patient) for entry in keys):
            return findings, [f"images carry several patient IDs, merged into one by the word of {word.peer}"]
        count = max(len({ident for ident, _ in keys if ident}), len({issuer for _, issuer in keys if issuer}))
        reason = f"the study holds images of {count} patient IDs ({word.said}); correct it in the PACS and send it again"
        return [*findings, Finding(kind="patients", key=key("patients", keys), reason=reason)], []
    contested = patients.contested(identities)
    words = " and ".join(patients.IN_WORDS[keyword] for keyword in contested)
    if not contested:
        return findings, []
    if word.patient is not None and all(patients.confirms(word.patient, keyword, identities) for keyword in contested):
        return findings, [f"images of one patient ID differ in {words}; {word.peer} confirms one of them"]
    facts = sorted({patients.normal(name, entry.get(name, "")) for name in contested for entry in identities})
    reason = f"images of one patient ID differ in {words}, and the archive confirms none ({word.said}); correct it in the PACS"
    return [*findings, Finding(kind="demographics", key=key("demographics", facts), reason=reason)], []


def _changed(settings: Settings, conflicts: Sequence[tuple[Instance, Instance | None]]) -> tuple[list[Finding], list[str]]:
    """Compare the kept files of each image that came twice; what is only a remark holds nothing."""
    touched: dict[str, frozenset[Kind]] = {}
    remarks = 0
    for other, first in conflicts:
        if first is None:
            continue
        kinds = differences.between(settings.data_dir / first.path, settings.data_dir / other.path)
        if kinds - _HARMLESS:
            touched[f"{other.sop_instance_uid} {other.sha256}"] = kinds - _HARMLESS
        else:
            remarks += 1
    warnings = [f"{_images(remarks)} a second time with other remarks; the first is analysed"] if remarks else []
    if not touched:
        return [], warnings
    what = ", ".join(kind for kind in Kind if any(kind in kinds for kinds in touched.values()))
    reason = (
        f"{_images(len(touched))} a second time under the same SOP Instance UID with another {what}; "
        "release the study to analyse the first, or send a corrected one"
    )
    return [Finding(kind="changed", key=key("changed", sorted(touched)), reason=reason)], warnings


def _several_senders(sent: Sequence[Sent]) -> dict[str, dict[str, set[str]]]:
    """Give, for each series that more than one sent, which images each of them sent."""
    by_series: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for entry in sent:
        for sender in entry.senders:
            by_series[entry.series_instance_uid][sender].add(entry.sop_instance_uid)
    return {uid: dict(shares) for uid, shares in by_series.items() if len(shares) > 1}


def _senders(images: Images, counted: Callable[[str], int | None]) -> tuple[list[Finding], list[str]]:
    """Judge series that two sent: whole from one is well, shares that only together are whole need the archive's count.

    The same places under other UIDs from the second sender are held always: the series would be twice in one.
    """
    findings, warnings = [], []
    by_uid = {series.series_instance_uid: series for series in images.series}
    for uid, shares in sorted(_several_senders(images.sent).items()):
        every = set().union(*shares.values())
        named = " and ".join(f"{sender.split(' ')[0]} ({len(share)})" for sender, share in sorted(shares.items()))
        number = _number(by_uid.get(uid), uid)
        facts = key("senders", [uid, *sorted(f"{sender} {sorted(share)}" for sender, share in shares.items())])
        if _same_places(by_uid.get(uid)):
            reason = f"series {number} came from {named} with the same positions under different UIDs; keep one sender, then send it again"
            findings.append(Finding(kind="senders", key=facts, reason=reason))
        elif every in shares.values():
            if any(share != every for share in shares.values()):
                warnings.append(f"series {number} came from {named}: one of them sent all of it")
        elif not _apart(shares) and counted(uid) != len(every):
            reason = f"series {number} came from {named}: none sent all of its {len(every)} images, and no archive's count confirms them"
            findings.append(Finding(kind="senders", key=facts, reason=reason))
        else:
            warnings.append(f"series {number} came from {named} in shares")
    return findings, warnings


def _apart(shares: Mapping[str, set[str]]) -> bool:
    """Tell whether no image came from two: a PACS of several nodes splits a study so."""
    return sum(len(share) for share in shares.values()) == len(set().union(*shares.values()))


def _same_places(series: Series | None) -> bool:
    """Tell whether two senders' images lie at the same place under different UIDs."""
    if series is None:
        return False
    senders_at: dict[str, set[str]] = defaultdict(set)
    for entry in series.instances:
        place = entry.header.get("ImagePositionPatient")
        if place is None:
            continue
        names = (
            "ImageOrientationPatient",
            "AcquisitionNumber",
            "TemporalPositionIdentifier",
            "EchoNumbers",
            "ImageType",
            "DiffusionBValue",
        )
        senders_at[repr([place, *(entry.header.get(name) for name in names)])].add(f"{entry.calling_ae} {entry.peer_host}")
    return any(len(senders) > 1 for senders in senders_at.values())


def _counted(settings: Settings, revision: Revision) -> Callable[[str], int | None]:
    """Give a function from a series to an archive's count, asked at most once."""
    known: dict[str, int | None] = {}
    asked: list[bool] = []

    def count(series_uid: str) -> int | None:
        if not asked:
            asked.append(True)
            for peer in settings.peers:
                if not peer.query:
                    continue
                try:
                    known.update(query.series_counts(settings, peer, revision.study_instance_uid))
                except OverreadError as error:
                    log.warning("peer.does_not_count", peer=peer.name, reason=error.reason)
        return known.get(series_uid)

    return count


def _noted(ledger: Ledger, event: audit.Event) -> Callable[[], None]:
    return lambda: audit.note(ledger.data_dir, event, ledger.clock())


def _event(action: str, study_uid: str, reason: str, number: int) -> audit.Event:
    return audit.Event(action=action, study_instance_uid=study_uid, reason=reason, details={"revision": number})


def _date(header: Mapping[str, Any], keyword: str) -> str:
    text = str(header.get(keyword) or "").replace(".", "").strip()
    return text if len(text) == 8 and text.isdigit() else ""


def _number(series: Series | None, uid: str) -> str:
    return uid if series is None else str(series.instances[0].header.get("SeriesNumber") or uid)


def _images(count: int) -> str:
    return "1 image came" if count == 1 else f"{count} images came"


def _names(revision: Revision) -> dict[str, Any]:
    return {"study": revision.study_instance_uid, "revision": revision.number}
