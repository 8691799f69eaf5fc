"""What judges: the model with its card, as the node runs it, to marks that can be compared with a baseline's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import card, registry
from models.evaluation.froc import Mark
from models.vocabulary import Prediction, Volume

CARD = Path(__file__).parents[1] / "card.toml"
Said = tuple[NDArray[np.uint8], tuple[Mark, ...]]
Judge = Callable[[Volume], Said]
"""Gives lung labels on the volume's grid and marks; raises Unfit where the scan is declined."""


def model(shelved: card.ShelvedCard, device: str, **changes: Any) -> Judge:
    """Load the card's model with its threshold lowered to where it looks at all: marks below it are wanted for the FROC.

    `changes` replace options of its nodules.
    """
    raw = shelved.card.model_dump()
    options = raw["runtime"]["options"]["nodules"]
    options.update(changes)
    options["threshold"] = options["doubt"]
    for label in raw["output"]["labels"]:
        label["threshold"] = None
    loaded = registry.load(replace(shelved, card=card.Card.model_validate(raw)), device)

    def judge(volume: Volume) -> Said:
        prediction = loaded.predict({shelved.card.reference_role: volume}, lambda _share: None)
        return prediction.labels, marks_of(prediction)

    return judge


def marks_of(prediction: Prediction) -> tuple[Mark, ...]:
    """Give a prediction's findings as marks at the middle of their voxels."""
    if prediction.instances is None:
        return ()
    marks = []
    for finding in prediction.findings:
        box = tuple(slice(a, b) for a, b in zip(finding.box.low, finding.box.high, strict=True))
        centre = np.argwhere(prediction.instances[box] == finding.number).mean(axis=0) + np.array(finding.box.low)
        x, y, z = (float(value) for value in prediction.grid.to_world_mm(centre[None])[0])
        marks.append(Mark(centre_mm=(x, y, z), score=finding.score))
    return tuple(marks)
