"""The `overread` command. Bodies import lazily, so that `overread --help` is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from overread import __version__, options
from overread.cli_models import models
from overread.options import AsJson, Config

app = typer.Typer(
    name="overread",
    help="An AI node for a PACS: studies in over DICOM, segmentation and detection on workers, DICOM SEG and SR back to the archive.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
rules = typer.Typer(help="What the routing rules make of a study.", no_args_is_help=True)
ledger = typer.Typer(help="Looking after the ledger.", no_args_is_help=True)
held = typer.Typer(help="Studies that wait for a human's word.", no_args_is_help=True)
app.add_typer(rules, name="rules")
app.add_typer(models, name="models")
app.add_typer(ledger, name="ledger")
app.add_typer(held, name="held")

Parent = Annotated[int | None, typer.Option("--parent", hidden=True)]
By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who decides; it goes into the audit trail.")]
Because = Annotated[str, typer.Option("--because", metavar="TEXT", help="Why, without the patient's data: reasons are shown and logged.")]
StudyUID = Annotated[str, typer.Argument(metavar="STUDY_UID")]


@app.command()
def up(config: Config = None) -> None:
    """Run the whole node on this machine: broker, listener, dispatch, workers."""
    from overread import up as machine

    machine.up(options.settings(config), options.file(config))


@app.command()
def serve(config: Config = None) -> None:
    """Run the node's processes: listener and dispatch."""
    from overread import up as machine

    machine.serve(options.settings(config), options.file(config))


@app.command()
def worker(
    config: Config = None,
    queues: Annotated[str, typer.Option(help="Which queues to work on, separated by commas.")] = "gpu,cpu,io",
    parent: Parent = None,
) -> None:
    """Run workers, one Celery process a queue."""
    from overread import roles
    from overread import up as machine

    names = tuple(name.strip() for name in queues.split(",") if name.strip())
    settings = options.settings(config)
    machine.worker_roles(names, None)
    if len(names) == 1:
        raise typer.Exit(roles.worker(settings, options.file(config), names[0], parent))
    machine.workers(settings, names, options.file(config))


@app.command(hidden=True)
def broker(config: Config = None, parent: Parent = None) -> None:
    """Become the embedded broker."""
    from overread import roles

    roles.broker(options.settings(config), parent)


@app.command(hidden=True)
def listener(config: Config = None, parent: Parent = None) -> None:
    """Serve DICOM."""
    from overread import roles

    roles.listener(options.settings(config), parent)


@app.command(hidden=True)
def dispatch(config: Config = None, parent: Parent = None) -> None:
    """Assemble, route, submit, sweep."""
    from overread import roles

    roles.dispatch(options.settings(config), options.file(config), parent)


@app.command()
def demo(
    archive: Annotated[str | None, typer.Option(metavar="AET@HOST:PORT", help="Your archive; without it a small one of ours.")] = None,
    study: Annotated[Path | None, typer.Option(help="A folder of DICOM files; without it a generated chest CT.")] = None,
    out: Annotated[Path, typer.Option(help="Where everything goes: study, archive, pictures, logs.")] = Path("overread-demo"),
    seed: Annotated[int, typer.Option(help="Which patient is generated; the model may miss another one's nodules.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Show the whole path on a sample study: in over DICOM, analysed, and back in the archive, checked against the truth."""
    from overread import demo as show

    raise typer.Exit(show.main(show.Wish(archive=archive, study=study, out=out, as_json=as_json, seed=seed)))


@app.command()
def send(
    folder: Path,
    to: Annotated[str, typer.Argument(metavar="AET@HOST:PORT")],
    calling: Annotated[str, typer.Option(help="Our own AE title.")] = "OVERREAD-SEND",
) -> None:
    """Send a folder of DICOM files to an AE."""
    from overread.commands import send as command

    raise typer.Exit(command.main(folder, to, calling))


@app.command()
def status(
    config: Config = None,
    study: Annotated[str | None, typer.Option(metavar="UID")] = None,
    accession: Annotated[str | None, typer.Option(metavar="NUMBER")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what became of studies: states, reasons, stage times, deliveries."""
    from overread.commands import status as command

    raise typer.Exit(command.main(options.settings(config), study or accession, as_json=as_json))


@app.command()
def retry(study: Annotated[str, typer.Argument(metavar="STUDY_UID")], config: Config = None, as_json: AsJson = False) -> None:
    """Try a study's FAILED jobs and FAILED deliveries again, once their cause is mended."""
    from overread.commands import retry as command

    raise typer.Exit(command.main(options.settings(config), study, as_json=as_json))


@app.command()
def fetch(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    study: Annotated[str, typer.Argument(metavar="STUDY_UID")],
    config: Config = None,
    series: Annotated[str | None, typer.Option(metavar="UID", help="Only this series.")] = None,
    peer: Annotated[str | None, typer.Option("--from", metavar="PEER", help="The peer's name; else the one that sent the study.")] = None,
    prior: Annotated[int, typer.Option(metavar="N", min=0, help="Not the study: the N newest earlier ones of its patient.")] = 0,
    modality: Annotated[str | None, typer.Option(metavar="CT", help="Only series of this modality.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is not here; fetch nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch from a peer what it has of a study, or of its priors, and this node has not."""
    from overread.commands import fetch as command

    wish = command.Wish(study=study, series=series, peer=peer, priors=prior, modality=modality, dry_run=dry_run, as_json=as_json)
    raise typer.Exit(command.main(options.settings(config), wish))


@app.command()
def purge(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    patient_id: Annotated[str, typer.Option(help="Whose data go.")],
    by: By,
    because: Because,
    config: Config = None,
    issuer: Annotated[str | None, typer.Option(help="Of which issuer, where several count alike.")] = None,
    force: Annotated[bool, typer.Option("--force", help="End unfinished work too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what is kept; remove nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove what is kept of a patient: images, work files, results, and what the ledger says of them; ids and states stay."""
    from node.purge import Wish
    from overread.commands import purge as command

    wish = Wish(patient_id=patient_id, issuer=issuer, by=by, because=because, force=force)
    raise typer.Exit(command.main(options.settings(config), wish, dry_run=dry_run, as_json=as_json))


@app.command()
def check(config: Config = None, as_json: AsJson = False) -> None:
    """Try everything the node needs; each failing line says what to do."""
    from overread.commands import check as command

    raise typer.Exit(command.main(options.settings(config), as_json=as_json))


@app.command()
def archive(
    directory: Annotated[Path, typer.Option("--dir", help="Folder of its files.")],
    ae_title: Annotated[str, typer.Option("--ae-title")] = "ARCHIVE",
    port: int = 0,
    peer: Annotated[list[str] | None, typer.Option(metavar="AET@HOST:PORT")] = None,
) -> None:
    """Run the small archive of the demo and the tests; no product."""
    from node.archive import __main__ as small

    arguments = ["--dir", str(directory), "--ae-title", ae_title, "--port", str(port)]
    raise typer.Exit(small.main([*arguments, *(word for entry in peer or [] for word in ("--peer", entry))]))


@held.command("list")
def held_list(config: Config = None, as_json: AsJson = False) -> None:
    """List what is held, and why."""
    from overread.commands import held as command

    command.show(options.settings(config), as_json=as_json)


@held.command("release")
def held_release(study: StudyUID, by: By, because: Because, config: Config = None, as_json: AsJson = False) -> None:
    """Let a held study go on as it is."""
    from overread.commands import held as command

    command.end(options.settings(config), study, (by, because), release=True, as_json=as_json)


@held.command("drop")
def held_drop(study: StudyUID, by: By, because: Because, config: Config = None, as_json: AsJson = False) -> None:
    """Decline a held study; its files stay until retention takes them."""
    from overread.commands import held as command

    command.end(options.settings(config), study, (by, because), release=False, as_json=as_json)


@rules.command("explain")
def rules_explain(
    source: Annotated[str, typer.Argument(metavar="FOLDER|STUDY_UID", help="A folder of DICOM files, or a study that came to this node.")],
    config: Config = None,
    as_json: AsJson = False,
    descriptions: Annotated[bool, typer.Option("--descriptions", help="Show the series' descriptions too: free text.")] = False,
) -> None:
    """Say of every series and every model whether it is taken, or why not; of a stored study also what was decided then."""
    from overread.commands import explain as command

    raise typer.Exit(command.main(options.settings(config), source, as_json=as_json, descriptions=descriptions))


@ledger.command("rebuild")
def ledger_rebuild(config: Config = None) -> None:
    """Read the instance index again from the image files; states of work are kept."""
    from overread.commands import ledger as command

    command.rebuild(options.settings(config))


def _version(asked: bool) -> None:  # noqa: FBT001 -- typer's callback
    if asked:
        print(f"overread {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    _version_asked: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Overread."""


def main() -> None:
    """Run the command; an error that was raised on purpose is one line and exit code 2. A server sets its own journal up after this."""
    from node import journal

    journal.configure(process="overread", level="WARNING")  # what a command prints is its answer alone
    try:
        app()
    except Exception as error:
        from models.card import BadCard
        from models.vocabulary import Broken, Unfit
        from node.errors import OverreadError

        if not isinstance(error, OverreadError | BadCard | Unfit | Broken):
            raise
        print(f"overread: {error}", file=sys.stderr)
        raise SystemExit(2) from None
