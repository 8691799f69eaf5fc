"""The windows of nnU-Net: what they tell while they run."""

from __future__ import annotations

import torch
from torch import nn

from models.execution import Execution
from models.nnunet.scores import Passes, slabs


def test_progress_is_told_with_every_batch_of_windows() -> None:
    """One slab of many windows takes long on a processor; a watchdog must see that it goes on."""
    passes = Passes(networks=(nn.Conv3d(1, 2, 1),), outputs=2, patch=(4, 4, 4), step=0.5, axes=())
    told: list[float] = []
    assert len(list(slabs(torch.zeros((1, 4, 12, 12)), passes, Execution(batch=5), told.append))) == 1
    assert told == [5 / 25, 10 / 25, 15 / 25, 20 / 25, 1.0]
