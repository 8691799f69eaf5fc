"""Models kept warm in this process, within a budget of memory on each device; the least recently used leaves."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from models.card import BadCard, ShelvedCard
from models.vocabulary import Model
from node import journal
from workers.gpu import memory

log = journal.get("gpu")
WARM_UP_S = 60.0
"""After this nothing more is loaded ahead: Celery's parent waits only so long for a process to start (workers.app)."""
MARK_S = 3600.0
"""For so long a model is not loaded ahead after a process died of it, or was killed meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Warm:
    """A loaded model, the card's name of it, and by how many bytes this process grew when it was loaded."""

    model: Model
    name: str
    size: int


_warm: OrderedDict[tuple[str, str], _Warm] = OrderedDict()
"""By (card digest, device), the least recently used first. One thread of a worker uses it."""


_engines = {"cpu": "torch"}
"""What runs networks on a kind of device."""


def choose(engine: str) -> None:
    """Say what runs networks on a processor from the next load on: "torch", or "fastest" where it gives the same."""
    _engines["cpu"] = engine


def warm(shelved: ShelvedCard, device: str, budget: int | None = None) -> Model:
    """Give the loaded model, from this process's memory when it has it; raises BadCard, and whatever says that memory ran out.

    budget  bytes that all warm models of this device may take (None: no bound). A model that alone takes more stays until the
            next one comes.
    """
    key = (shelved.digest, device)
    if key not in _warm:
        _warm[key] = _load(shelved, device)
        log.info("model.warm", model=_warm[key].name, device=device, mb=_warm[key].size >> 20)
    _warm.move_to_end(key)
    while budget is not None and total(device) > budget and evict(device, keep=shelved.digest):
        pass
    return _warm[key].model


def warm_up(shelf: Iterable[ShelvedCard], device: str, budget_gb: float | None, run_dir: Path) -> None:
    """Load models before the first job comes, while one more as large as the largest fits the budget, and for a minute.

    What cannot be loaded is journalled, and told by its job. A model under which the last process died is left to its job too:
    else it would take every process with it, and all models.
    """
    budget, until = memory.budget(device, budget_gb), time.monotonic() + WARM_UP_S
    for shelved in shelf:
        name = shelved.card.model.name
        largest = max((entry.size for (_digest, place), entry in _warm.items() if place == device), default=0)
        if (budget is not None and total(device) + largest > budget) or time.monotonic() > until:
            log.info("models.left_cold", device=device, first=name)
            return
        mark = run_dir / f"loading-{device.replace(':', '')}-{shelved.digest[:16]}"
        if _is_fresh(mark):
            log.error("model.left_cold", alert=True, model=name, reason="the last process died while it loaded this")
            continue
        _marked(mark, shelved, device, budget)


def _is_fresh(mark: Path) -> bool:
    with suppress(OSError):
        return time.time() - mark.stat().st_mtime < MARK_S
    return False


def _marked(mark: Path, shelved: ShelvedCard, device: str, budget: int | None) -> None:
    """Load with a mark on the disk, which only a process that died leaves there."""
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    name = shelved.card.model.name
    try:
        warm(shelved, device, budget)
    except BadCard as error:
        log.warning("model.not_loaded", model=name, reason=str(error))
    except Exception as error:  # noqa: BLE001 -- one model's fault must not keep the others from working
        reason = "no memory for it just now" if memory.ran_out(error) else f"unexpected {type(error).__name__}"
        log.warning("model.not_loaded", model=name, reason=reason)
    mark.unlink(missing_ok=True)


def _load(shelved: ShelvedCard, device: str) -> _Warm:
    """Load the model and see what it takes. Whatever makes a loaded model faster on this device belongs here, once a load."""
    from models import registry  # noqa: PLC0415 -- a runtime imports torch
    from models.networks import acceleration  # noqa: PLC0415 -- a runtime imports torch

    memory.give_back()
    before = memory.used(device)
    model = registry.load(shelved, device)
    if _engines.get(device) == "fastest":
        acceleration.accelerate(model)
    memory.give_back()  # of what loading took only the model is counted
    return _Warm(model=model, name=shelved.card.model.name, size=max(0, memory.used(device) - before))


def total(device: str) -> int:
    """Give the bytes of all warm models on a device."""
    return sum(entry.size for (_digest, place), entry in _warm.items() if place == device)


def names(device: str) -> tuple[str, ...]:
    """Name the warm models on a device, the least recently used first."""
    return tuple(entry.name for (_digest, place), entry in _warm.items() if place == device)


def evict(device: str, keep: str = "") -> bool:
    """Let the least recently used model of a device go, its memory too, unless it is the one of this card digest; False: none is left."""
    for digest, place in _warm:
        if place == device and digest != keep:
            gone = _warm.pop((digest, place))
            log.info("model.evicted", model=gone.name, device=device, mb=gone.size >> 20)
            del gone
            memory.give_back()
            return True
    return False
