"""One prediction in the fastest way that the memory allows: a ladder of ways, each slower or coarser and smaller than the one before.

On a CUDA device: several windows at once; one; their scores put together in the host's memory; half precision, where the
hardware has it; then the processor, which has no other way.
A way is passed over when the model's own estimate says that it does not fit, even with every other model gone, or that it takes no
less than one under which memory ran out; it is left when memory runs out under it. What succeeded is recorded in the prediction,
and after memory ran out the next series of that size begin there: the first RESTS of them, then the best way is asked again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from models.card import ShelvedCard
from models.execution import PLAIN, Execution, Need, Precision
from models.vocabulary import Broken, Grid, Model, Prediction, Volume
from node import journal
from node.errors import Misconfigured, Retryable
from workers.gpu import hardware, loaded, memory, watchdog

log = journal.get("gpu")
WINDOWS_AT_ONCE = 4
RESTS, MOST_RESTS = 8, 64
"""So many series of a size begin lower after memory ran out; twice as many each time that it runs out again, and at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the site and the job say of a prediction.

    precision  [workers] precision: with "float32" half precision is only a rung of the ladder
    budget_gb  [workers] memory_budget_gb for warm models
    attempt    which try of the stage this is: each one after the first begins a rung higher, for the last may have killed the process
    progress   told 0..1
    """

    precision: hardware.Wanted = "float32"
    budget_gb: float | None = None
    attempt: int = 1
    progress: Callable[[float], None] = lambda _part: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One way to run; `name` is recorded with the prediction."""

    name: str
    device: str
    execution: Execution


@dataclass(frozen=True, slots=True, kw_only=True)
class _Missed:
    """A rung that did not do.

    need   what the model asked for; None: not even the model could be loaded
    never  it cannot fit this machine, whatever else runs
    ran    it was tried, and the memory ran out
    """

    rung: Rung
    need: Need | None
    never: bool = False
    ran: bool = False

    def rules_out(self, rung: Rung, need: Need) -> bool:
        """Tell whether another way would only repeat this one: by the model's own estimate it takes no less of the same memory."""
        if not self.ran or self.need is None or rung.device != self.rung.device:
            return False
        return need.device >= self.need.device and need.host >= self.need.host


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learned:
    """The rung that succeeded after another had failed, and those after it.

    left   how many series are still to begin there; at 0 the next one begins at the top
    rests  how many there were
    """

    ways: tuple[Rung, ...]
    left: int
    rests: int


_Key = tuple[str, str, str, int]
_ways: dict[_Key, _Learned] = {}
"""By card digest, device, precision and size class."""


def rungs(device: str, precision: Precision, *, half: bool) -> tuple[Rung, ...]:
    """List the ways on a device, the best first. `half`: the hardware computes in half precision."""
    if device == "cpu":
        return (Rung(name="plain", device="cpu", execution=PLAIN),)
    several = Execution(batch=WINDOWS_AT_ONCE, precision=precision)
    one = replace(several, batch=1)
    host = replace(one, stitch="host")
    halved = replace(host, precision="float16") if half else host
    ways = [
        Rung(name="plain", device=device, execution=several),
        Rung(name="one window", device=device, execution=one),
        Rung(name="host stitching", device=device, execution=host),
        Rung(name="half precision", device=device, execution=halved),
        Rung(name="processor", device="cpu", execution=PLAIN),
    ]
    return _different(ways)


def _different(ways: Sequence[Rung]) -> tuple[Rung, ...]:
    """Leave out what runs as one before it does."""
    kept = {(rung.device, rung.execution): rung for rung in reversed(ways)}
    return tuple(rung for rung in ways if kept[rung.device, rung.execution] is rung)


def predict(shelved: ShelvedCard, volumes: Mapping[str, Volume], device: str, policy: Policy) -> Prediction:
    """Run the model in the first way that does.

    Raises Unfit, Broken, BadCard, Poisoned; where no way does, Misconfigured if the machine is too small for it, else Retryable.
    """
    try:
        found = _climb(shelved, volumes, device, policy)
    except Exception as error:  # a card is at fault, says who loads a model on a lost device: the cause tells
        watchdog.raise_if_poisoned(error, device)
        raise
    memory.give_back()  # else glibc keeps what this series took, hundreds of MB that the next admission of any process counts as taken
    return found


def _climb(shelved: ShelvedCard, volumes: Mapping[str, Volume], device: str, policy: Policy) -> Prediction:
    grids = {role: volume.grid for role, volume in volumes.items()}
    key = (shelved.digest, device, policy.precision, _size_class(grids))
    todo = list(_start(key, policy))
    missed: list[_Missed] = []
    learned = False
    while todo:
        rung = todo.pop(0)
        outcome = _try(shelved, volumes, rung, (policy, missed))
        if isinstance(outcome, Prediction):
            # What was only passed over costs nothing to ask again, and other memory may be free then; nor is a GPU left for good.
            _learn(key, (rung, *todo) if learned and rung.device == device else (), policy)
            return replace(outcome, variant={**outcome.variant, "way": rung.name})
        if isinstance(outcome, Broken):
            if rung.execution.precision == "float32":
                raise outcome
            log.warning("model.broken", model=shelved.card.model.name, way=rung.name, reason=outcome.reason)
            todo, learned = list(_different([_full(entry) for entry in (rung, *todo)])), True
            continue
        log.warning("memory.short", model=shelved.card.model.name, device=rung.device, way=rung.name, never=outcome.never)
        missed.append(outcome)
        learned = learned or outcome.ran
        if outcome.need is None:  # not even the model could be loaded
            todo = [entry for entry in todo if entry.device != rung.device]
    raise _refusal(shelved, grids, device, missed)


def _start(key: _Key, policy: Policy) -> tuple[Rung, ...]:
    """Give the rungs to try: from the one that did last time, or higher on a later attempt, yet no coarser and no slower for that."""
    device, learned = key[1], _ways.get(key)
    if learned is not None and learned.left > 0:
        ways = learned.ways
    else:
        ways = rungs(device, hardware.precision(device, policy.precision), half=hardware.has_half(device))
    skip = 0
    while skip < policy.attempt - 1 and skip + 1 < len(ways) and _as_good(ways[skip + 1], ways[0]):
        skip += 1
    return ways[skip:]


def _learn(key: _Key, ways: tuple[Rung, ...], policy: Policy) -> None:
    """Remember where the next series of this size begin. `ways`: what did after memory had run out; none: what was tried did at once."""
    known = _ways.get(key)
    if ways:
        rests = RESTS if known is None else min(MOST_RESTS, known.rests * (1 if known.left else 2))
        _ways[key] = _Learned(ways=ways, left=rests, rests=rests)
    elif known is not None and known.left:
        _ways[key] = replace(known, left=known.left - 1)
    elif policy.attempt == 1:  # the top does again
        _ways.pop(key, None)


def _as_good(rung: Rung, first: Rung) -> bool:
    return rung.device == first.device and rung.execution.precision == first.execution.precision


def _full(rung: Rung) -> Rung:
    """Give the same way in full precision."""
    if rung.execution.precision == "float32":
        return rung
    return replace(rung, name=f"{rung.name}, full precision", execution=replace(rung.execution, precision="float32"))


def _try(
    shelved: ShelvedCard, volumes: Mapping[str, Volume], rung: Rung, so_far: tuple[Policy, Sequence[_Missed]]
) -> Prediction | Broken | _Missed:
    """Run one way; whatever it left on the device is given back before another is tried."""
    policy, missed = so_far
    need: Need | None = None
    failure: Exception
    try:
        model = _loaded(shelved, rung.device, policy)
        need = model.need({role: volume.grid for role, volume in volumes.items()}, rung.execution)
        if any(entry.rules_out(rung, need) for entry in missed):
            return _Missed(rung=rung, need=need)
        if not _made_room(shelved, rung.device, need):
            return _Missed(rung=rung, need=need, never=not memory.whole(rung.device).holds(need, rung.device))
        return model.predict(volumes, policy.progress, rung.execution)
    except Broken as error:
        failure = error
    except Exception as error:
        if not memory.ran_out(error):
            raise
        failure = error
    memory.let_go(failure)
    memory.give_back()
    return failure if isinstance(failure, Broken) else _Missed(rung=rung, need=need, ran=need is not None)


def _loaded(shelved: ShelvedCard, device: str, policy: Policy) -> Model:
    """Give the warm model; where there is no memory to load it, others leave first."""
    while True:
        try:
            return loaded.warm(shelved, device, memory.budget(device, policy.budget_gb))
        except Exception as error:
            if not memory.ran_out(error):
                raise
            memory.let_go(error)
            if not loaded.evict(device):
                raise


def _made_room(shelved: ShelvedCard, device: str, need: Need) -> bool:
    """Let other warm models go until the need fits; False: it does not even so."""
    while not memory.free(device).holds(need, device):
        if not (loaded.evict(device, keep=shelved.digest) or loaded.evict("cpu", keep=shelved.digest)):
            return False
    return True


def _size_class(grids: Mapping[str, Grid]) -> int:
    """Put series of about one size together, by the power of two above their voxels.

    Example: 300 x 512 x 512 are 78.6 million voxels, class 27; 512 x 512 x 512 are 2**27, class 28.
    """
    return sum(math.prod(grid.shape) for grid in grids.values()).bit_length()


def _refusal(shelved: ShelvedCard, grids: Mapping[str, Grid], device: str, missed: Sequence[_Missed]) -> Exception:
    """Say the sizes: what is needed at the least, what there is, and what to do."""
    series = " and ".join(" x ".join(map(str, grid.shape)) for grid in grids.values())
    needs = [entry.need.device + entry.need.host for entry in missed if entry.need is not None]
    takes = f"at the least {memory.gigabytes(min(needs))} is needed" if needs else "the model itself does not fit"
    free, whole = memory.free(device), memory.whole(device)
    there = [f"this host has {memory.gigabytes(free.host)} free of {memory.gigabytes(whole.host)}"]
    if device != "cpu":
        there.insert(0, f"{device} has {memory.gigabytes(free.device)} free of {memory.gigabytes(whole.device)}")
    reason = f"the memory does not suffice for {shelved.card.model.name} on this series ({series} voxels): {takes}, {', '.join(there)}"
    if all(entry.never for entry in missed):
        return Misconfigured(f"{reason}; run it on a machine with more memory, or switch the model off for such series by a rule")
    return Retryable(f"{reason}; let less run beside it, or give the worker more memory")
