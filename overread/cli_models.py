"""`overread models ...`. Bodies import lazily, so that `overread --help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from overread import options
from overread.options import AsJson, Config

models = typer.Typer(help="The models on the shelf, and those a site brings.", no_args_is_help=True)
Directory = Annotated[Path | None, typer.Option("--dir", help="Where a site's models lie; default: \\[models] dir.")]


@models.command("list")
def models_list(directory: Directory = None, config: Config = None, as_json: AsJson = False) -> None:
    """List the models, and the drafts that wait to be filled in."""
    from overread.commands import models as command

    command.show_all(options.settings(config), directory, as_json=as_json)


@models.command("show")
def models_show(name: str, directory: Directory = None, config: Config = None, as_json: AsJson = False) -> None:
    """Show one model's card; of a draft what is missing."""
    from overread.commands import models as command

    raise typer.Exit(command.show(options.settings(config), name, directory, as_json=as_json))


@models.command("add")
def models_add(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    path: Annotated[Path, typer.Argument(help="A file or folder: MONAI bundle, nnU-Net results, TorchScript, .pt2, ONNX, weights.")],
    name: Annotated[str | None, typer.Option(help="What to call it; default: made of the path's name.")] = None,
    directory: Directory = None,
    values: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Fill in a key of the card, as TOML.")] = None,
    codes: Annotated[Path | None, typer.Option(help="A TOML file: a table for each label's name, with kind, category, type ...")] = None,
    confirm: Annotated[bool, typer.Option("--confirm-codes", help="Take the codes that were proposed: you have read them.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write a draft again whose files have changed.")] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Bring a model: read what can be read, pin its files, write a card's draft, say what is missing. Nothing of it is run."""
    from overread.commands import models_add as command

    wish = command.Wish(path=path, name=name, directory=directory, values=tuple(values or ()), codes=codes, confirm=confirm, force=force)
    command.main(options.settings(config), wish, as_json=as_json)


@models.command("check")
def models_check(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    name: str,
    shelve: Annotated[bool, typer.Option("--shelve", help="If all holds, put the draft on the shelf.")] = False,
    within_s: Annotated[float, typer.Option("--within", min=1, metavar="SECONDS", help="Stop what takes longer.")] = 300,
    directory: Directory = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Load a model and run it on made-up images, so that faults show before the first patient."""
    from overread.commands import models_check as command

    wish = command.Wish(name=name, directory=directory, shelve=shelve, within_s=within_s)
    raise typer.Exit(command.main(options.settings(config), wish, as_json=as_json))


@models.command("run")
def models_run(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    what: Annotated[tuple[str, Path], typer.Argument(metavar="NAME FOLDER", help="The model, and the images.")],
    out: Annotated[Path, typer.Option(help="Where the objects go.")],
    profile: Annotated[str | None, typer.Option(help="Viewer profile; default: that of the results section.")] = None,
    directory: Directory = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Run one model on a folder of DICOM files, without a node: SEG, SR, pictures, and NIfTI on the images' grid."""
    from overread.commands import models_run as command

    name, folder = what
    wish = command.Wish(name=name, source=folder, out=out, profile=profile, directory=directory)
    raise typer.Exit(command.main(options.settings(config), wish, as_json=as_json))


@models.command("evaluate")
def models_evaluate(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    name: str,
    data: Annotated[Path, typer.Option(help="A folder with a folder for each case: image and truth (docs/bring-your-model.md).")],
    out: Annotated[Path | None, typer.Option(help="Where figures, plots and predictions go; default: evaluation-NAME.")] = None,
    skip: Annotated[bool, typer.Option("--skip", help="Exit with 0 although cases were left out.")] = False,
    directory: Directory = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model against a truth: Dice, surface distance, volumes, FROC, with intervals; a table, plots, a block for the card."""
    from overread.commands import models_evaluate as command

    wish = command.Wish(name=name, data=data, out=out, skip=skip, directory=directory)
    raise typer.Exit(command.main(options.settings(config), wish, as_json=as_json))


@models.command("train")
def models_train(  # noqa: PLR0913, PLR0917 -- each is an option of the command
    base: Annotated[str, typer.Argument(metavar="NAME", help="What to start from: chest-ct, or a model trained from it.")],
    data: Annotated[Path, typer.Option(help="A folder with a folder for each case: image and labels (docs/train.md).")],
    out: Annotated[Path | None, typer.Option(help="Where model, report and checkpoints go; default: training-NAME.")] = None,
    name: Annotated[str | None, typer.Option(help="What to call the new model; default: NAME-site.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps for each of the networks.")] = 400,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="End earlier than that; then the end depends on the machine.")] = None,
    held_out: Annotated[float, typer.Option(min=0.01, max=0.9, help="Share of the patients never trained on.")] = 0.25,
    seed: Annotated[int, typer.Option(min=0, max=1000, help="Which are held out, and every throw of the dice.")] = 0,
    skip: Annotated[bool, typer.Option("--skip", help="Leave out cases that cannot be read.")] = False,
    directory: Directory = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Fine-tune the chest CT starter on your own labelled scans; tell how good it is before and after, on patients held out."""
    from overread.commands import models_train as command

    wish = command.Wish(
        base=base,
        data=data,
        out=out,
        name=name,
        steps=steps,
        minutes=minutes,
        held_out=held_out,
        seed=seed,
        skip=skip,
        directory=directory,
    )
    raise typer.Exit(command.main(options.settings(config), wish, as_json=as_json))
