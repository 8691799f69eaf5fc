"""`overread models train`: the chest CT starter, fine-tuned on a site's own labelled scans."""

from __future__ import annotations

import datetime as dt
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models import card as cards
from models import whole
from models.card import ShelvedCard
from models.starter.chest_ct.lessons import SPACING_MM
from models.tuning import folder, parts, splitting
from models.tuning.course import Course
from models.tuning.folder import Tuned
from models.tuning.splitting import Split
from node.errors import Misconfigured, NoRoom
from node.settings import Settings
from overread.commands import models
from overread.evaluation import cases
from overread.evaluation.cases import Case
from overread.evaluation.reading import Study
from overread.tuning import comparison, places, report, site, training
from overread.tuning.report import Told
from overread.tuning.training import Job, Size
from workers import gpu

STOPPED = 130
SAY_EVERY = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The command's words."""

    base: str
    data: Path
    out: Path | None
    name: str | None
    steps: int
    minutes: float | None
    held_out: float
    seed: int
    skip: bool
    directory: Path | None


def main(settings: Settings, wish: Wish, *, as_json: bool) -> int:
    """Train, measure, write, tell; STOPPED after Ctrl-C. Raises BadCard, Misconfigured, Refused."""
    base = models.find(settings, wish.base, wish.directory)
    site.labels_of(base)
    if base.card.runtime.options["spacing_mm"] != SPACING_MM:
        raise Misconfigured(f"{wish.base}: its spacing_mm is not {SPACING_MM}, at which the recipe trains")
    taken = models.shelved(settings, wish.directory or settings.models.dir)
    name = places.name(wish.name or f"{base.card.model.name.removesuffix('-site')}-site", taken)
    out = wish.out or Path(f"training-{name}")
    places.prepare(out, name)
    console = Console(highlight=False, stderr=as_json)
    try:
        with _shown(console) as bars:
            told = _staged(_job(settings, wish, (base, out)), wish, (name, out), bars)
        if told is not None:
            _written(told, (name, out), console, as_json=as_json)
            return 0
    except KeyboardInterrupt:
        pass
    except NoRoom as error:
        raise Misconfigured(f"--out {out}: {error.reason}. {places.KEPT}") from None
    except OSError as error:
        raise Misconfigured(f"{error.filename or f'--out {out}'}: {error.strerror or error}. {places.KEPT}") from None
    console.print(f"Stopped. {places.KEPT}", markup=False)
    return STOPPED


def _staged(job: Job, wish: Wish, where: tuple[str, Path], bars: Bars) -> Told | None:
    """Look at the cases, share them out, and train; None where it was stopped."""
    good, patients = _looked(job, wish, bars)
    parted = _parted(patients, wish)
    training.require_room(job, _some(good, parted.training), _some(good, parted.held_out))
    return _trained(job, where, (parted, [case for case, _ in good]), bars)


def _written(told: Told, where: tuple[str, Path], console: Console, *, as_json: bool) -> None:
    """Finish the model's folder, write the report, tell."""
    name, out = where
    better = told.verdict == "better"
    limit = "" if better else f"Beside its base, on the cases held out: {told.verdict}. A draft, not for use."
    card = folder.finish(out / name, report.evaluation(told), better=better, limit=limit)
    text = json.dumps(report.as_facts(told, card), indent=2)
    whole.write_all(out, {"report.json": f"{text}\n".encode(), "report.png": report.draw(told)})
    if as_json:
        print(text)
        return
    report.show(told, console)
    kind = "Model" if better else "Draft, which no node reads"
    console.print(f"{kind}: {card}\nAll numbers: {out / 'report.json'}, {out / 'report.png'}", markup=False, soft_wrap=True)
    console.print(f"Next: overread models check {name} --dir {out}", markup=False, soft_wrap=True)


def _job(settings: Settings, wish: Wish, where: tuple[ShelvedCard, Path]) -> Job:
    base, out = where
    values = cases.values(wish.data, base.card) if wish.data.is_dir() else {}
    shared = Study(shelved=base, marking=None, kept=out / places.WORK / "predictions", values=values, settings=settings)
    return Job(
        base=base,
        shared=shared,
        work=out / places.WORK,
        device=gpu.devices(settings.workers.devices)[0],
        seed=wish.seed,
        steps=wish.steps,
        limit_s=wish.minutes * 60 if wish.minutes else None,
    )


def _looked(job: Job, wish: Wish, bars: Bars) -> tuple[list[tuple[Case, Size]], list[str]]:
    """Read every case; give the good ones and their patients. Raises Misconfigured where one is bad and that was not allowed."""
    found, bad = site.found_in(wish.data, job.base)
    good, worse = training.look(job, found, bars.counted("cases looked at", len(found)))
    bad |= worse
    words = "; ".join(f"{name}: {reason}" for name, reason in bad.items())
    if bad and not wish.skip:
        raise Misconfigured(f"--data {wish.data}: {words}. Mend them, or leave them out with --skip")
    if not good:
        raise Misconfigured(f"--data {wish.data}: no case could be read; {words}")
    for name, reason in bad.items():
        bars.say(f"left out {name}: {reason}")
    return good, site.patients(wish.data, [case for case, _ in good])


def _parted(patients: Sequence[str], wish: Wish) -> Split:
    try:
        return splitting.split(patients, wish.held_out, wish.seed)
    except ValueError as error:
        raise Misconfigured(f"--data {wish.data}: {error}") from None


def _trained(job: Job, where: tuple[str, Path], what: tuple[Split, list[Case]], bars: Bars) -> Told | None:
    """Run the stages; None where it was stopped."""
    (name, out), (parted, found) = where, what
    held_out = [found[at] for at in parted.held_out]
    training_cases = [found[at] for at in parted.training]
    given, keys = training.lessons(job, training_cases, bars.counted("lessons", len(training_cases)))
    before = training.seen(job, held_out, job.base, bars.counted("held out, before", len(held_out)))
    networks = training.begun(job, given)
    with _stopping() as stopped:
        courses = training.train(job, networks, keys, (bars.stepped(job), stopped))
    if not all(course.ended for course in courses.values()):
        return None
    content = training.weights(job, networks)
    fitted, marks, right = None, 0, 0
    if "nodules" in networks:
        bars.say("fitting the probability")
        fitted, marks, right = training.calibration(job, content["nodules"], [found[at] for at in parted.tuning])
    history: dict[str, float | str] = {
        "base": f"{job.base.card.model.name} {job.base.card.model.version}",
        "base_digest": job.base.digest,
        "cases_training": len(parted.training),
        "cases_for_the_probability": len(parted.tuning),
        "cases_held_out": len(parted.held_out),
        "seed": job.seed,
        "generated_share": 1 - parts.SITE_SHARE,
        "marks_for_the_probability": f"{marks}, {right} right{'' if fitted else ': the base has been kept'}",
        **{f"steps_{part}": course.done for part, course in courses.items()},
    }
    limits = (f"Fine-tuned on {len(parted.training)} scans of one site: what it does on scans of others was not measured.",)
    tuned = Tuned(name=name, base=job.base, weights=content, calibration=fitted, limits=limits, history=history)
    shelved = cards.read(folder.write(out / name, tuned))
    after = training.seen(job, held_out, shelved, bars.counted("held out, after", len(held_out)))
    thresholds = (_threshold(job.base), _threshold(shelved))
    rows = comparison.rows(before, after, thresholds)
    verdict, why = comparison.verdict(rows, list(networks))
    when = dt.datetime.now(tz=dt.UTC).date().isoformat()
    return Told(name=name, rows=rows, before=before, after=after, courses=courses, history=history, verdict=verdict, why=why, when=when)


def _threshold(shelved: ShelvedCard) -> float:
    return float(shelved.card.runtime.options["nodules"]["threshold"])


def _some(good: Sequence[tuple[Case, Size]], indices: Sequence[int]) -> list[Size]:
    return [good[at][1] for at in indices]


class Bars:
    """What is seen of the work: a bar a stage on a terminal, a line now and then in a log."""

    def __init__(self, console: Console, bars: Progress) -> None:
        self._console = console
        self._bars = bars

    def say(self, words: str) -> None:
        """Print a line."""
        self._console.print(words, markup=False, soft_wrap=True)

    def counted(self, words: str, total: int) -> Callable[[], None]:
        """Begin a stage; give what counts it on."""
        task = self._bars.add_task(words, total=total)
        if not self._console.is_terminal:
            self.say(f"{words}: {total}")
        return lambda: self._bars.advance(task)

    def stepped(self, job: Job) -> Callable[[str, Course], None]:
        """Give what is told of each step of a part."""
        tasks = {}

        def told(part: str, at: Course) -> None:
            if part not in tasks:
                tasks[part] = self._bars.add_task(part, total=100)
            plan_share = max(at.done / job.steps, 1.0 if at.ended else 0.0)
            recent = sum(at.losses[-SAY_EVERY:]) / len(at.losses[-SAY_EVERY:])
            self._bars.update(tasks[part], completed=100 * plan_share, description=f"{part}, loss {recent:.3f}")
            if not self._console.is_terminal and (at.done % SAY_EVERY == 0 or at.ended):
                self.say(f"{part}: step {at.done}/{job.steps}, loss {recent:.3f}, {at.spent_s:.0f} s")

        return told


@contextmanager
def _shown(console: Console) -> Iterator[Bars]:
    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        yield Bars(console, bars)


@contextmanager
def _stopping() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C end the training after its step, with a checkpoint; a second one ends the process at once."""
    asked: list[int] = []

    def stop(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
