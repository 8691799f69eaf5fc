"""A runtime whose models fail as their card says, in ways a network cannot be made to: the faults of tests/planted.py."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from models import registry
from models.card import ShelvedCard
from models.execution import PLAIN, Execution, Need
from models.networks import program
from models.vocabulary import Broken, Grid, Prediction, Progress, Volume

GIB = 1024**3


def load(shelved: ShelvedCard, device: str) -> Planted:
    """Take the options as they are; a device that is not there is no hindrance."""
    return Planted(shelved, device)


class Planted:
    """A model that holds some memory, needs what it is told to need, and fails where it is told to fail.

    options  fault     what happens in `predict`
             spared    the fault is left out where the execution is at least so sparing: "batch", "host", "float16", "cpu"
             proved    the same faults, while the network runs its trial window
             dies_loading  true: the process does
             holds_mb  of ballast, for as long as it is loaded
             needs_gb  on its device, by the same words; "" for any other execution. A more sparing one always takes a little less,
                       unless `alike` is true: then all take the same, as of a model that heeds none
    """

    def __init__(self, shelved: ShelvedCard, device: str) -> None:
        self._options: Mapping[str, Any] = shelved.card.runtime.options
        self._reference = shelved.card.reference_role
        self._device = device
        if self._options.get("dies_loading"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault := str(self._options.get("proved", "")):
            with registry.options_at_fault(shelved):
                program.probe(program.Program(run=lambda _window: self._told(fault), device="cpu", facts={}), 1, (2, 2, 2))
        self._ballast = np.ones(int(self._options.get("holds_mb", 0)) << 20, dtype=np.uint8)

    def need(self, grids: Mapping[str, Grid], execution: Execution) -> Need:
        """Give what the card says, else what the volume takes."""
        given = self._options.get("needs_gb", {})
        words = [word for word in given if word in self._sparing(execution)]
        device = given[words[-1]] if words else given.get("", 0)
        more = 0 if self._options.get("alike") else 4 - len(self._sparing(execution) & {"batch", "host", "float16"})
        return Need(device=int(device * GIB) + more, host=math.prod(grids[self._reference].shape))

    def predict(self, volumes: Mapping[str, Volume], progress: Progress, execution: Execution = PLAIN) -> Prediction:
        """Fail, or label a block."""
        progress(0.1)
        if self._options.get("spared") not in self._sparing(execution):
            self._fail(str(self._options.get("fault", "")), execution)
        progress(1.0)
        grid = volumes[self._reference].grid
        labels = np.zeros(grid.shape, dtype=np.uint8)
        labels[2:6, 4:12, 4:12] = 1
        return Prediction(grid=grid, labels=labels, variant={"runtime": "planted", "device": self._device, **execution.facts()})

    def _sparing(self, execution: Execution) -> set[str]:
        facts = {
            "": True,
            "batch": execution.batch == 1,
            "host": execution.stitch == "host",
            "float16": execution.precision == "float16",
            "float32": execution.precision == "float32",
            "cpu": self._device == "cpu",
        }
        return {word for word, holds in facts.items() if holds}

    def _told(self, fault: str) -> program.Outputs:
        self._fail(fault, PLAIN)
        return ()

    def _fail(self, fault: str, execution: Execution) -> None:
        if fault == "memory":
            beside = np.ones(64 << 20, dtype=np.uint8)
            torch.empty(2**60 + beside.size)
        elif fault == "nan":
            raise Broken(f"scores are no numbers, in {execution.precision}")
        elif fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "hang":
            _hang()
        elif fault:
            raise RuntimeError(fault)


def _hang() -> None:
    """Loop for ever inside torch, where no signal and no exception reaches."""
    endless = torch.jit.CompilationUnit(  # type: ignore[no-untyped-call]
        """
        def endless(x: Tensor) -> Tensor:
            while bool(x.sum() < 1):
                x = x * 0
            return x
        """
    )
    endless.endless(torch.zeros(8))
