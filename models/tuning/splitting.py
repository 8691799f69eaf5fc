"""Which patients train, which set the probability, and which are held out: by patient, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

TUNING_FROM = 5
"""Patients left after holding out from which a fifth of them sets the probability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """Indices of cases. `tuning` may be empty: then generated blocks alone set the probability."""

    training: tuple[int, ...]
    tuning: tuple[int, ...]
    held_out: tuple[int, ...]


def split(patients: Sequence[str], share: float, seed: int) -> Split:
    """Share cases out, each patient's to one part alone; raises ValueError where a part would be empty.

    At least one patient is held out. The same patients in the same order, share and seed give the same parts.
    Example: ten patients, share 0.25: 2 held out; of the other 8 2 set the probability, 6 train.
    """
    names = list(dict.fromkeys(patients))
    if len(names) < 2:
        raise ValueError(f"{len(patients)} case(s) of one patient: at least two patients are needed, one to train on and one to hold out")
    order = [names[int(at)] for at in np.random.default_rng([seed, 31]).permutation(len(names))]
    out = min(max(1, round(share * len(names))), len(names) - 1)
    rest = len(names) - out
    set_by = max(1, round(rest / 5)) if rest >= TUNING_FROM else 0
    parts = (order[out + set_by :], order[out : out + set_by], order[:out])
    training, tuning, held_out = (tuple(at for at, name in enumerate(patients) if name in part) for part in parts)
    return Split(training=training, tuning=tuning, held_out=held_out)
