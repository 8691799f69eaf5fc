"""Models kept warm in this process, within a budget of memory on each device; the least recently used leaves."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from models.card import BadCard, ShelvedCard
from models.vocabulary import Model
from node import journal
from workers.gpu import memory

log = journal.get("gpu")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Warm:
    """A loaded model, the card's name of it, and by how many bytes this process grew when it was loaded."""

    model: Model
    name: str
    size: int


_warm: OrderedDict[tuple[str, str], _Warm] = OrderedDict()
"""By (card digest, device), the least recently used first. One thread of a worker uses it."""


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


def warm_up(shelf: Iterable[ShelvedCard], device: str, budget_gb: float | None) -> None:
    """Load models before the first job comes, while one more as large as the largest fits the budget.

    What cannot be loaded is journalled, and told by its job.
    """
    budget = memory.budget(device, budget_gb)
    for shelved in shelf:
        largest = max((entry.size for (_digest, place), entry in _warm.items() if place == device), default=0)
        if budget is not None and total(device) + largest > budget:
            log.info("models.left_cold", device=device)
            return
        try:
            warm(shelved, device, budget)
        except BadCard as error:
            log.warning("model.not_loaded", model=shelved.card.model.name, reason=str(error))
        except Exception as error:
            if not memory.ran_out(error):
                raise
            log.warning("model.not_loaded", model=shelved.card.model.name, reason="no memory for it just now")


def _load(shelved: ShelvedCard, device: str) -> _Warm:
    """Load the model and see what it takes. Whatever makes a loaded model faster on this device belongs here, once a load."""
    from models import registry  # noqa: PLC0415 -- a runtime imports torch

    memory.give_back()
    before = memory.used(device)
    model = registry.load(shelved, device)
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
