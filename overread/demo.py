"""The one-command demo: a study through the whole path with real processes, and the archive's copy checked.

The witness reads the archive with pydicom alone; for the generated study it knows the truth from the generator's formulas.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from node import send
from node.archive.holdings import Holdings
from node.errors import Refused
from node.ledger import Ledger, open_ledger, parcels
from node.settings import Peer
from node.study import Instance
from overread import machine, pictures, readback, sample, verdict
from overread.commands import address
from overread.commands.status import show_study
from overread.progress import Follower
from workers import folder

MARK = ".overread-demo"
WAIT_S = 1800.0
CALLING_AE = "DEMO"
# What UCUM's signs are called where people read them.
UNITS = {"[hnsf'U]": "HU", "mm3": "mm\u00b3"}
# Nodules of the sizes that chest-ct's card claims to find; it often misses smaller ones, and the demo is no evaluation.
SAMPLE = sample.Scan(nodules_mm=(18.0, 12.0, 10.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for on the command line."""

    archive: str | None
    study: Path | None
    out: Path
    as_json: bool
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the archive holds and whether it is right."""

    facts: Mapping[str, Any]
    findings: tuple[Mapping[str, Any], ...]
    sentences: tuple[str, ...]
    checks: tuple[verdict.Check, ...]
    objects: tuple[str, ...]
    pictures: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Tell whether every check holds, and there was something to check."""
        return bool(self.checks) and all(check.holds for check in self.checks)


def main(wish: Wish) -> int:
    """Run the demo; exit code 0 only when the archive's own copy is right. Raises Refused, Retryable, Misconfigured."""
    console = Console(stderr=wish.as_json, highlight=False, soft_wrap=True)
    out = _fresh(wish.out)
    external = address.peer(wish.archive, name="archive").model_copy(update={"query": True}) if wish.archive else None
    truth = None
    if wish.study is None:
        with console.status("generating a chest CT with known lungs and nodules"):
            truth = sample.write(out / "study", seed=wish.seed, scan=SAMPLE)
    source = wish.study or out / "study"
    instances = folder.read(source)
    study = folder.studies(instances)[0].study_instance_uid
    ours = [entry for entry in instances if entry.study_instance_uid == study]
    console.print(f"study: {len(ours)} images in {source}")
    begin = time.perf_counter()
    with console.status("starting archive, broker, node and workers"), machine.run(machine.Plan(home=out, archive=external)) as site:
        console.print(f"node and archive run ({time.perf_counter() - begin:.1f} s); journal {site.log}")
        deliver_study(site, study, ours, console)
        ledger = open_ledger(site.settings)
        facts = Follower(console, ledger, study).follow(WAIT_S)
        held = _held(site, ledger, study, facts)
    outcome = _judge(facts, held, {entry.sop_instance_uid: Path(entry.path) for entry in ours}, (truth, out / "pictures"))
    _tell(console, outcome, wish)
    return 0 if outcome.holds else 1


def _fresh(out: Path) -> Path:
    """Give an empty folder; one that an earlier demo made is cleared, anything else is left alone. Raises Refused."""
    out = out.absolute()
    if out.exists() and any(out.iterdir()):
        if not (out / MARK).is_file():
            raise Refused(f"{out} is not empty and no demo made it; name another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).write_text("This folder is cleared by the next `overread demo`.\n", encoding="utf-8")
    return out


def deliver_study(site: machine.Machine, study: str, files: Sequence[Instance], console: Console) -> None:
    """Bring the study into the archive, which sends it on to the node as a PACS does; a strange archive gets it from us."""
    settings, own = site.settings, site.archive_dir is not None
    archive = site.archive.model_copy(update={"calling_ae": CALLING_AE})
    _all_stored(send.store(settings, archive, files), len(files), archive)
    if own:
        count = send.forward(settings, archive, study, machine.AE_TITLE)
        console.print(f"the archive took {len(files)} images and sent {count} of them on to the node")
        return
    _all_stored(send.store(settings, site.node, files), len(files), site.node)
    console.print(f"{archive.ae_title} and the node took {len(files)} images")


def _all_stored(sent: send.Sent, count: int, peer: Peer) -> None:
    if sent.stored != count:
        raise Refused(f"{peer.ae_title} stored {sent.stored} of {count} images: {sent.refused}")


def _held(site: machine.Machine, ledger: Ledger, study: str, facts: Mapping[str, Any]) -> dict[str, Path]:
    """Give the result objects by SOP Instance UID: the archive's own files, or of a strange archive what was sent there."""
    sent = {}
    for job in facts["jobs"]:
        for entry in (each for parcel in parcels.of_job(ledger, job["job_id"]) for each in parcel.objects):
            sent[entry.sop_instance_uid] = site.settings.data_dir / entry.path
    if site.archive_dir is None:
        return sent
    held = {entry.sop_instance_uid: entry.path for entry in Holdings(site.archive_dir).study(study)}
    return {uid: held[uid] for uid in sent if uid in held}


def _judge(
    facts: Mapping[str, Any], held: Mapping[str, Path], sources: Mapping[str, Path], with_: tuple[sample.Truth | None, Path]
) -> Outcome:
    """Read the results back and compare them with the truth where there is one, and with the images."""
    truth, pictures_dir = with_
    checks = [_ended(facts)]
    findings: list[Mapping[str, Any]] = []
    sentences: list[str] = []
    drawn: list[Path] = []
    segs = [path for path in held.values() if readback.kind(path) == "SEG"]
    reports = [path for path in held.values() if readback.kind(path) == "SR"]
    checks.append(verdict.Check(name="SR in the archive", holds=bool(reports), detail=f"{len(segs)} SEG, {len(reports)} SR"))
    segments = [segment for path in segs for segment in readback.segments(path)]
    for path in segs:
        checks += verdict.on_the_images(readback.segments(path), path, sources)
    for path in reports:
        report = readback.report(path)
        checks += verdict.report_agrees(report, segments, {*sources, *held})
        sentences += report.sentences
        findings += [_described(group, segments) for group in report.groups]
    if truth is not None:
        checks += verdict.against_truth(truth, segments)
    if segments:
        drawn = pictures.draw(segments, sources, pictures_dir)
    drawn += pictures.pages(held.values(), pictures_dir)
    return Outcome(
        facts=facts,
        findings=tuple(findings),
        sentences=tuple(sentences),
        checks=tuple(checks),
        objects=tuple(str(path) for path in held.values()),
        pictures=tuple(str(path) for path in drawn),
    )


def _ended(facts: Mapping[str, Any]) -> verdict.Check:
    """Check that the study's work ended well everywhere."""
    states = [f"{job['model']}: {job['state']}" for job in facts["jobs"]]
    states += [f"{entry['destination']}: {entry['state']}" for job in facts["jobs"] for entry in job["deliveries"]]
    good = {"WRITTEN", "COMMITTED", "ACCEPTED"}
    holds = bool(facts["jobs"]) and all(state.rsplit(" ", 1)[1] in good for state in states)
    return verdict.Check(name="analysed and delivered", holds=holds, detail=", ".join(states) or "no model took a series")


def _described(group: readback.Group, segments: Sequence[readback.Segment]) -> dict[str, Any]:
    place = next((segment.centroid_mm for segment in segments if segment.tracking_uid == group.tracking_uid), None)
    return {
        "name": group.tracking_identifier,
        "centroid_mm": None if place is None else [round(float(value), 1) for value in place],
        "numbers": [{"what": what, "value": value, "unit": unit} for what, value, unit in group.numbers],
    }


def _tell(console: Console, outcome: Outcome, wish: Wish) -> None:
    if wish.as_json:
        body = {"holds": outcome.holds, "findings": outcome.findings, "sentences": outcome.sentences, "objects": outcome.objects}
        body |= {"checks": [asdict(check) for check in outcome.checks], "pictures": outcome.pictures, "status": outcome.facts}
        print(json.dumps(body, indent=2))
        return
    show_study(console, outcome.facts)
    for sentence in outcome.sentences:
        console.print(f"[bold]{sentence}[/]")
    for finding in outcome.findings:
        numbers = ", ".join(f"{entry['what']} {entry['value']:g} {UNITS.get(entry['unit'], entry['unit'])}" for entry in finding["numbers"])
        console.print(f"  {finding['name']}: {numbers}; LPS {finding['centroid_mm']} mm", markup=False)
    for name, paths in (("objects in the archive", outcome.objects), ("pictures", outcome.pictures)):
        console.print(f"{name}:")
        for path in paths:
            console.print(f"  {path}", soft_wrap=True)
    for check in outcome.checks:
        console.print(f"{'[green]ok  [/]' if check.holds else '[red]FAIL[/]'} {check.name}: {check.detail}", soft_wrap=True)
    # A strange archive's files are not ours to read: there, what was sent is judged, and its word taken that it holds it.
    what = "The archive's copy is" if wish.archive is None else "What the archive took and says it holds is"
    console.print(f"[green]{what} right.[/]" if outcome.holds else f"[red]{what} not right.[/]")
