"""One network of a card, or an ensemble: its options, its files opened and proved, one run of it from volumes to a prediction."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from pydantic import field_validator

from models import registry
from models.answers import boxes, outcome
from models.answers.heads import Heads, thresholds
from models.card import Card, ShelvedCard
from models.execution import PLAIN, Execution, Need
from models.grids import cells, windows
from models.networks import acceleration, program
from models.pipelines import preparation
from models.pipelines.ensemble import Ensemble
from models.vocabulary import Broken, Grid, Prediction, Progress, Unfit, Volume


class Stage(preparation.Preparation, Heads):
    """The card's [runtime.options] of one network: what it sees, and what its outputs are.

    weights  names of runtime.files; several are an ensemble, whose probabilities are averaged
    """

    weights: tuple[str, ...] = ("weights",)

    @field_validator("weights", mode="before")
    @classmethod
    def _one_file_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @property
    def windowed(self) -> bool:
        """Tell whether windows' scores are put together; else the network runs one by one and in float32, whatever is asked for."""
        return not (self.scores or self.rows)

    def agree(self, card: Card) -> None:
        """Check every key against the card; raises ValueError."""
        self.roles_agree(card)
        self.labels_agree(card)
        if self.scores and self.window:
            raise ValueError("a network that scores the whole input sees it at once: size or multiple_of, not window")
        if not self.weights or len(set(self.weights)) != len(self.weights):
            raise ValueError("weights must name different files")
        if self.rows and len(self.weights) > 1:
            raise ValueError("boxes that networks give themselves have no mean: rows take one file of weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a format opens: the stage it is for, the files by the names they have on disk, the device, the number of roles."""

    stage: Any
    files: Mapping[str, bytes]
    device: str
    roles: int


Open = Callable[[Asked], program.Program]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """One network or an ensemble of them, with what the card says of it.

    activated  its outputs are probabilities
    """

    card: Card
    stage: Stage
    program: program.Program
    ensemble: Ensemble | None
    activated: bool

    def first(self, windows: torch.Tensor) -> torch.Tensor:
        """Give the network's first output, which holds its scores."""
        return self.program(windows)[0]


def members_of(shelved: ShelvedCard, stages: Sequence[Stage]) -> list[list[dict[str, bytes]]]:
    """Read the card's files once and give, for each stage and member, its own by their names on disk; raises BadCard.

    A member is the file of its name, and those called NAME-... beside it (an ONNX graph's weights): "fold0", "fold0-data".
    """
    known, members = shelved.card.runtime.files, [name for stage in stages for name in stage.weights]
    if len(set(members)) != len(members):
        raise ValueError("two weights are one file")
    owners = {member: [member] for member in members}
    for name in sorted(known):
        owner = max((member for member in members if name.startswith(f"{member}-")), key=len, default=None)
        if owner is not None and name not in owners:
            owners[owner].append(name)
    content = registry.weights(shelved, tuple(name for names in owners.values() for name in names))
    return [
        [{PurePosixPath(known[name].path).name: content[name] for name in owners[member]} for member in stage.weights] for stage in stages
    ]


def open_stage(card: Card, stage: Stage, members: Sequence[Mapping[str, bytes]], opening: tuple[Open, str]) -> Loaded:
    """Open every member of a stage and prove that it fits the card; raises ValueError."""
    opened, device = opening
    programs = []
    for files in members:
        found = opened(Asked(stage=stage, files=files, device=device, roles=len(card.inputs)))
        if not found.proved:
            prove(stage, found, len(card.inputs))
        programs.append(found)
    activated = stage.outputs == "probabilities"
    if len(programs) == 1:
        return Loaded(card=card, stage=stage, program=programs[0], ensemble=None, activated=activated)
    ensemble = Ensemble(programs, stage, activated=activated)
    return Loaded(card=card, stage=stage, program=replace(programs[0], run=ensemble, single=False), ensemble=ensemble, activated=True)


def accelerated(loaded: Loaded, key: str) -> Loaded:
    """Let a stage's networks run by what is fastest here with the same results; those that see no fixed window stay."""
    stage = loaded.stage
    if stage.rows or stage.multiple_of is not None:
        return loaded
    shape = (1, len(loaded.card.inputs), *stage.probe)

    def activate(scores: torch.Tensor) -> torch.Tensor:
        return scores if stage.outputs == "probabilities" else outcome.activate(stage, scores)

    def swap(found: program.Program, place: int) -> program.Program:
        return acceleration.fastest(acceleration.Network(key=f"{key} {place}", program=found, shape=shape, activate=activate))

    if loaded.ensemble is None:
        return replace(loaded, program=swap(loaded.program, 0))
    loaded.ensemble.swap(swap)
    return loaded


def prove(stage: Stage, found: program.Program, roles: int) -> None:
    """Run one window of zeros and compare what comes out with what the labels need; raises ValueError."""
    outputs = program.probe(found, roles, stage.probe)
    if stage.scores:
        program.prove_vector(outputs, stage.scores.channels)
        _activation_is_told(stage, outputs[0], range(outputs[0].shape[1]) if stage.scores.activation == "softmax" else ())
        _is_unbounded(stage, found, roles, range(outputs[0].shape[1]))
    elif stage.rows:
        wanted = max(stage.rows.boxes, stage.rows.scores, stage.rows.classes or 0)
        if len(outputs) <= wanted:
            raise ValueError(f"the network gives {len(outputs)} outputs, rows names output {wanted}")
        try:
            stage.rows.decode(outputs, [(0, math.inf)] * max(1, len(stage.rows.class_numbers)), (0, 0, 0))
        except Broken as error:
            raise ValueError(error.reason) from None
    else:
        program.prove_dense(outputs, len(stage.channels), stage.probe)
        graded = [channel for channel in stage.channels if channel not in stage.size_channels]
        _activation_is_told(stage, outputs[0][:, graded], stage.softmax_channels)
        _is_unbounded(stage, found, roles, graded)


def _activation_is_told(stage: Stage, scores: torch.Tensor, shared: Sequence[int]) -> None:
    """Compare what `outputs` says with what came out of the zeros (batch, channels, ...); raises ValueError.

    A softmax of probabilities keeps the classes' order and flattens them; a threshold on logits means nothing.
    """
    if scores.device.type == "meta":
        return
    low, high = float(scores.min()), float(scores.max())
    within = low >= -boxes.SLACK and high <= 1 + boxes.SLACK
    if stage.outputs == "probabilities" and not within:
        raise ValueError(f'outputs = "probabilities", but the network gives {low:g} to {high:g}: these are logits')
    sums = scores[:, list(shared)].sum(dim=1) if len(shared) > 1 else None
    if stage.outputs == "logits" and within and sums is not None and bool(((sums - 1).abs() < boxes.SLACK).all()):
        raise ValueError('the network gives probabilities already, a softmax that sums to 1: say outputs = "probabilities"')


def _is_unbounded(stage: Stage, found: program.Program, roles: int, graded: Sequence[int]) -> None:
    """Show a network whose card says logits zeros and noise; raises ValueError where all it gives lies in 0..1, as of a sigmoid.

    Put through a second sigmoid, probabilities from 0 to 1 would lie from 0.5 to 0.73: a threshold finds everything or nothing.
    """
    if stage.outputs != "logits" or found.device == "meta":
        return
    random = torch.Generator().manual_seed(0)
    low, high = math.inf, -math.inf
    for scale in (0.0, 1.0, 10.0):
        seen = scale * torch.randn((1, roles, *stage.probe), generator=random)
        with torch.inference_mode():
            scores = found(seen.to(found.device))[0][:, list(graded)]
        low, high = min(low, float(scores.min())), max(high, float(scores.max()))
        if low < 0 or high > 1:
            return
    if low < high:
        raise ValueError(
            f'the network gives {low:g} to {high:g} whatever it is shown, as with a sigmoid of its own: say outputs = "probabilities"'
        )


def run(loaded: Loaded, volumes: Mapping[str, Volume], progress: Progress, execution: Execution) -> Prediction:
    """Prepare, run and read one stage, without saying what made it; raises Unfit, Broken."""
    stage, card = loaded.stage, loaded.card
    if loaded.ensemble:
        loaded.ensemble.begin()
    prepared = preparation.prepare(volumes, card, stage, loaded.program.device)
    layout = layout_of(stage, prepared.plan.model.shape)
    source = prepared.plan.source
    if stage.scores:
        scores = outcome.of_vector(card, stage, _whole(loaded, prepared.tensor, layout))
        return Prediction(grid=source, labels=np.zeros(source.shape, dtype=np.uint8), scores=scores)
    if stage.rows:
        candidates = _rows(loaded, prepared.tensor, layout, progress)
        found = outcome.of_boxes(stage, candidates, prepared.plan)
        return Prediction(grid=source, labels=np.zeros(source.shape, dtype=np.uint8), findings=found)
    reader = outcome.Outcome(card, stage, prepared.plan, activated=loaded.activated)
    forward = windows.planar(loaded.first) if stage.flat else loaded.first
    graded = [channel for channel in stage.channels if channel not in stage.size_channels]
    for piece in windows.pieces(forward, prepared.tensor, layout, execution, progress):
        if stage.outputs == "probabilities":
            _are_probabilities(piece.scores[graded] if stage.size_channels else piece.scores)
        reader.take(piece)
    with torch.inference_mode():
        return reader.finish()


def layout_of(stage: Stage, shape: Sequence[int]) -> windows.Layout:
    """Lay the windows over a volume on the network's grid."""
    return windows.regular(shape, stage.window_on(shape), stage.overlap, "gaussian")


def _whole(loaded: Loaded, tensor: torch.Tensor, layout: windows.Layout) -> torch.Tensor:
    """Give the probabilities (channels,) of a volume that the network sees at once, the rest around it 0; raises Unfit, Broken."""
    if layout.count != 1:
        raise Unfit("The series has several images, and this model reads one picture.")
    with windows.running(tensor.device, "float32"):
        seen = windows.padded(tensor, layout)[None]
        vector = loaded.program((seen[:, :, 0] if loaded.stage.flat else seen).clone())[0].float()
        if not bool(torch.isfinite(vector).all()):
            raise Broken("The network gave scores that are no finite numbers.")
        if loaded.activated:
            _are_probabilities(vector)
        return (vector if loaded.activated else outcome.activate(loaded.stage, vector))[0]


def _are_probabilities(scores: torch.Tensor) -> None:
    """Look that scores are what their card says; zeros, with which a network is proved, may not show it. Raises Broken."""
    if not (float(scores.min()) >= -boxes.SLACK and float(scores.max()) <= 1 + boxes.SLACK):
        raise Broken("The network gave scores that are no probabilities, which its card says they are.")


def _rows(loaded: Loaded, tensor: torch.Tensor, layout: windows.Layout, progress: Progress) -> list[boxes.Candidate]:
    """Give the boxes of every window, on the grid of the whole; what several windows saw is thinned out later."""
    stage = loaded.stage
    assert stage.rows is not None
    wanted = thresholds(loaded.card.output.labels)
    whole, found = windows.padded(tensor, layout), []
    for number, start in enumerate(product(*layout.starts), start=1):
        z, y, x = (slice(at, at + size) for at, size in zip(start, layout.window, strict=True))
        with windows.running(tensor.device, "float32"):
            seen = whole[None, :, z, y, x]
            outputs = loaded.program((seen[:, :, 0] if stage.flat else seen).clone())  # a network may change what it is given
        moved = [at - before for at, before in zip(start, layout.before, strict=True)]
        found += [candidate.moved(moved) for candidate in stage.rows.decode(outputs, wanted, layout.window)]
        progress(number / layout.count)
    return found


def need(loaded: Loaded, grid: Grid, execution: Execution) -> Need:
    """Estimate a stage's roles on the network's grid, its windows and scores, whole maps, and the labels on the source grid.

    Where the network's own memory is not known it is taken for a hundred channels of the window.
    """
    stage = loaded.stage
    execution = execution if stage.windowed else PLAIN
    if "precision" in loaded.program.facts:  # the file has its own, whatever is asked for
        execution = replace(execution, precision="float32")
    layout = layout_of(stage, stage.plan(grid).model.shape)
    voxels, roles = math.prod(layout.shape), len(loaded.card.inputs)
    taken = loaded.program.window_bytes * math.prod(layout.window) // math.prod(stage.probe) or 400 * math.prod(layout.window)
    run = windows.need(layout, (roles, len(stage.channels)), execution, taken)
    maps = len(stage.findings) + len(stage.probabilities)
    maps += len(stage.centres.channels) + len(stage.size_channels) if stage.centres else 0
    if loaded.card.output.inverse == "scores-linear" and stage.windowed:
        between = cells.most_bytes(math.prod(grid.shape), len(stage.channels))
        run = Need(device=run.device + between, host=run.host) if execution.stitch == "device" else replace(run, host=run.host + between)
    each = 4 + len(stage.mask_channels) + len(stage.probabilities) + 2 * bool(stage.findings)
    return Need(device=run.device + 4 * voxels * (roles + maps), host=run.host + each * math.prod(grid.shape))
