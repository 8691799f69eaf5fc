"""A state dict in safetensors and the name of a MONAI network: nothing in the card or the weights is code."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from models.card import ShelvedCard
from models.networks import network
from models.networks.program import Program, outputs_of
from models.pipelines import pipeline, stages


class Stage(stages.Stage):
    """The card's [runtime.options]: those of every format, and a class of monai.networks.nets with its keyword arguments."""

    network: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$")
    arguments: dict[str, Any]


def load(shelved: ShelvedCard, device: str) -> pipeline.Pipeline:
    """Build the networks, prove that they fit the card, and fill them with the checked weights; raises BadCard."""
    return pipeline.load(shelved, device, Stage, program)


def program(asked: stages.Asked) -> Program:
    """Build one network, run it without memory or weights, and fill it; raises ValueError."""
    if len(asked.files) != 1:
        raise ValueError("a state dict is one file")
    stage: Stage = asked.stage
    built, hollow = (network.build(stage.network, stage.arguments, place) for place in (asked.device, "meta"))
    facts = network.facts("state-dict")
    stages.prove(stage, Program(run=lambda windows: outputs_of(hollow(windows)), device="meta", facts=facts), asked.roles)
    network.fill(built, next(iter(asked.files.values())))
    taken = network.forward_bytes(hollow, stage.probe, asked.roles)
    return Program(
        run=lambda windows: outputs_of(built(windows)), device=asked.device, facts=facts, proved=True, window_bytes=taken, module=built
    )
