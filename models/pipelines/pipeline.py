"""The one way from volumes to a prediction for every format whose card says what the network sees and gives.

A format's own module gives a program from files whose hash was checked; everything else is here and in the rooms below:
preparation, windows, heads and outcome, ensembles, and two networks one after the other (cascade).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from models import registry
from models.card import Card, ShelvedCard
from models.execution import PLAIN, Execution, Need
from models.pipelines import cascade, stages
from models.vocabulary import Grid, Prediction, Progress, Volume


def load(shelved: ShelvedCard, device: str, kind: type[stages.Stage], opened: stages.Open) -> Pipeline:
    """Read the options, check the weights' hashes, open them, and prove that they fit the card; raises BadCard."""
    with registry.options_at_fault(shelved):
        both, wanted = stages_of(shelved.card, kind)
        members = stages.members_of(shelved, [stage for stage, _ in wanted])
        opening = (opened, device)
        loaded = [stages.open_stage(card, stage, files, opening) for (stage, card), files in zip(wanted, members, strict=True)]
    return Pipeline(shelved, loaded, both)


def stages_of(card: Card, kind: type[stages.Stage]) -> tuple[cascade.Cascade[Any] | None, list[tuple[stages.Stage, Card]]]:
    """Read a card's options, of one network or of two, each with the card as it has to fit it; raises ValueError."""
    raw = card.runtime.options
    if "first" not in raw and "second" not in raw:
        stage = kind.model_validate(raw)
        stage.agree(card)
        return None, [(stage, card)]
    both = cascade.Cascade[kind].model_validate(raw)  # type: ignore[valid-type]
    wanted = list(zip((both.first, both.second), both.cards(card), strict=True))
    for stage, own in wanted:
        stage.agree(own)
    return both, wanted


class Pipeline:
    """A card's networks, warm on their device."""

    def __init__(self, shelved: ShelvedCard, loaded: Sequence[stages.Loaded], both: cascade.Cascade[Any] | None) -> None:
        self._card, self._loaded, self._both, self._key = shelved.card, tuple(loaded), both, shelved.digest

    def accelerate(self) -> None:
        """Let each network run by what is fastest on this processor with the same results (models.networks.acceleration)."""
        self._loaded = tuple(stages.accelerated(loaded, f"{self._key} {place}") for place, loaded in enumerate(self._loaded))

    def need(self, grids: Mapping[str, Grid], execution: Execution) -> Need:
        """Estimate the larger of the stages."""
        each = [stages.need(loaded, grids[self._card.reference_role], execution) for loaded in self._loaded]
        return Need(device=max(need.device for need in each), host=max(need.host for need in each))

    def predict(self, volumes: Mapping[str, Volume], progress: Progress, execution: Execution = PLAIN) -> Prediction:
        """Analyse one volume a role; raises Unfit, Broken."""
        last = self._loaded[-1]
        if self._both is None:
            prediction = stages.run(last, volumes, lambda part: progress(0.05 + 0.9 * part), execution)
            more: dict[str, str] = {}
        else:
            prediction, more = cascade.predict(self._loaded, self._both, volumes, (progress, execution))
        progress(1.0)
        for which, loaded in zip(("first ", "second ") if self._both else ("",), self._loaded, strict=True):
            told = loaded.ensemble.facts() if loaded.ensemble else {}
            told |= {name: fact for name, fact in loaded.program.facts.items() if name == "engine"}
            more |= {which + name: fact for name, fact in told.items()}
        ran = {**execution.facts(), "scores": "in slabs"} if last.stage.windowed else PLAIN.facts()
        place = {"device": torch.device(last.program.device).type, **ran}
        return replace(prediction, variant={**place, **last.program.facts, **more})
