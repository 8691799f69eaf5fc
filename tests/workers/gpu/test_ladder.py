"""The ladder: each way in turn, until one fits."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from models import registry
from models.card import BadCard, ShelvedCard
from models.execution import PLAIN, Execution
from models.vocabulary import Broken, Grid, Prediction, Progress, Volume
from node.errors import Misconfigured, Retryable
from tests import planted, shelf
from workers.gpu import hardware, ladder, loaded, memory, watchdog

Series = dict[str, Volume]
GIB = memory.GIB


def run(tmp_path: Path, series: Series, device: str = "cuda:0", policy: ladder.Policy | None = None, **options: object) -> dict[str, str]:
    """Predict with a planted model; give the variant."""
    shelved = planted.put(tmp_path, "planted", **options)
    return dict(ladder.predict(shelved, series, device, policy or ladder.Policy()).variant)


def watched(shelved: ShelvedCard, device: str) -> list[Execution]:
    """Load a model and give the list of ways in which it will have been run."""
    model = loaded.warm(shelved, device)
    tried: list[Execution] = []
    original = model.predict

    def noting(volumes: Series, progress: Progress, execution: Execution) -> Prediction:
        tried.append(execution)
        return original(volumes, progress, execution)

    model.predict = noting  # type: ignore[method-assign, assignment]
    return tried


WAYS = {
    "": ("plain", "cuda:0", "4", "device", "float32"),
    "batch": ("one window", "cuda:0", "1", "device", "float32"),
    "host": ("host stitching", "cuda:0", "1", "host", "float32"),
    "float16": ("half precision", "cuda:0", "1", "host", "float16"),
    "cpu": ("processor", "cpu", "1", "device", "float32"),
}


@pytest.mark.parametrize("spared", WAYS)
def test_memory_that_runs_out_leads_to_the_next_way_and_the_variant_tells(
    tmp_path: Path, series: Series, cuda: memory.Room, spared: str
) -> None:
    """A real failed allocation under each way in turn: smaller batch, host, half precision, processor; what ran is recorded."""
    variant = run(tmp_path, series, fault="memory", spared=spared)
    assert tuple(variant[key] for key in ("way", "device", "batch", "stitch", "precision")) == WAYS[spared]


@pytest.mark.parametrize("words", ["CUDA out of memory.", "cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory"])
def test_memory_by_any_name_climbs(tmp_path: Path, series: Series, cuda: memory.Room, words: str) -> None:
    """What cuDNN, cuBLAS and the driver say of memory climbs too, and is not taken for a broken device."""
    assert run(tmp_path, series, fault=words, spared="host")["way"] == "host stitching"


def test_on_a_processor_there_is_one_way(tmp_path: Path, series: Series) -> None:
    """A processor has no half precision and no memory besides; what does not fit is told with its sizes, and nothing runs twice."""
    shelved = planted.put(tmp_path, "planted", fault="memory", spared="never")
    tried = watched(shelved, "cpu")
    with pytest.raises(Retryable, match="the memory does not suffice"):
        ladder.predict(shelved, series, "cpu", ladder.Policy())
    assert tried == [PLAIN]


def test_a_way_that_would_only_repeat_a_failed_one_is_not_tried(tmp_path: Path, series: Series, cuda: memory.Room) -> None:
    """A model that by its own estimate takes the same on every way of the device fails there once; then comes the processor."""
    shelved = planted.put(tmp_path, "planted", fault="memory", spared="cpu", alike=True)
    tried = watched(shelved, "cuda:0")
    assert ladder.predict(shelved, series, "cuda:0", ladder.Policy()).variant["way"] == "processor"
    assert tried == [Execution(batch=4)]


def test_every_way_of_a_shipped_format_takes_less_than_the_one_before(tmp_path: Path) -> None:
    """Of a network in windows no rung repeats the memory of another."""
    grids = {"ct": Grid(shape=(200, 300, 300), origin_mm=(0, 0, 0), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(1, 1, 1))}
    model = registry.load(planted.read(shelf.put(tmp_path) / "two-parts" / "card.toml"), "cpu")
    ways = [rung.execution for rung in ladder.rungs("cuda:0", "float32", half=True) if rung.device != "cpu"]
    needs = [model.need(grids, execution).device for execution in ways]
    assert len(ways) == 4
    assert all(later < need for need, later in pairwise(needs))


def test_the_next_series_of_that_size_starts_where_the_last_one_succeeded(tmp_path: Path, series: Series, cuda: memory.Room) -> None:
    """The way is remembered for the model and the size class: ways before it are not tried again, but are for a smaller series."""
    shelved = planted.put(tmp_path, "planted", fault="memory", spared="host")
    tried = watched(shelved, "cuda:0")
    half = replace(series["ct"], array=series["ct"].array[:6], grid=replace(series["ct"].grid, shape=(6, 16, 16)))
    ran = [_ran(shelved, given, tried) for given in (series, series, {"ct": half})]
    assert ran == [["device", "device", "host"], ["host"], ["device", "device", "host"]]


def test_the_best_way_is_asked_again_after_some_series_more_seldom_each_time_it_fails(
    tmp_path: Path, series: Series, cuda: memory.Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 200 series under a lasting shortage six ask the best way again, after 8, 16, 32, 64 and 64 that did not."""
    monkeypatch.setattr(memory, "give_back", lambda: None)  # 200 collections of all that the tests hold take two minutes
    shelved = planted.put(tmp_path, "planted", fault="memory", spared="host")
    tried = watched(shelved, "cuda:0")
    climbed = [number for number in range(200) if len(_ran(shelved, series, tried)) > 1]
    assert [later - number - 1 for number, later in pairwise(climbed)] == [8, 16, 32, 64, 64]


def test_a_shortage_that_has_passed_is_forgotten(
    tmp_path: Path, series: Series, cuda: memory.Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the best way does again it stays the first, and the next shortage begins to count anew."""
    shelved = planted.put(tmp_path, "planted", fault="memory", spared="host")
    tried = watched(shelved, "cuda:0")
    model = loaded.warm(shelved, "cuda:0")
    _ran(shelved, series, tried)
    monkeypatch.setattr(model, "_options", {})
    assert [_ran(shelved, series, tried) for _ in range(10)] == [["host"]] * 8 + [["device"]] * 2
    assert ladder._ways == {}


def _ran(shelved: ShelvedCard, given: Series, tried: list[Execution]) -> list[str]:
    """Predict, and say where each way that was tried put its scores together."""
    tried.clear()
    ladder.predict(shelved, given, "cuda:0", ladder.Policy())
    return [execution.stitch for execution in tried]


def test_a_passing_shortage_and_the_processor_are_not_remembered(
    tmp_path: Path, series: Series, cuda: memory.Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What did not fit by its estimate is asked again and runs as ever when memory is free; one series on the processor binds no other."""
    shelved = planted.put(tmp_path, "planted", needs_gb={"": 18, "float16": 4})
    assert ladder.predict(shelved, series, "cuda:0", ladder.Policy()).variant["way"] == "half precision"
    monkeypatch.setattr(memory, "free", lambda _device: memory.Room(device=24 * GIB, host=8 * GIB))
    assert ladder.predict(shelved, series, "cuda:0", ladder.Policy()).variant["way"] == "plain"
    run(tmp_path / "other", series, fault="memory", spared="cpu")
    assert ladder._ways == {}


def test_what_the_model_says_it_needs_is_asked_first(tmp_path: Path, series: Series, cuda: memory.Room) -> None:
    """A way that by the estimate does not fit is passed over without being run: with 16 GiB free, 15 do not fit and 12 do."""
    needs = {"": 40, "host": 15, "float16": 12}
    variant = run(tmp_path, series, fault="CUDA error: it was run", spared="float16", needs_gb=needs)
    assert variant["way"] == "half precision"


def test_other_models_leave_before_a_slower_way_is_taken(
    tmp_path: Path, series: Series, cuda: memory.Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Warm models are let go, the least recently used first, only as far as the need asks; the plain way then fits."""
    for name in ("one", "two", "three"):
        loaded.warm(planted.put(tmp_path, name), "cuda:0")
    free = {3: 4, 2: 8, 1: 20, 0: 24}
    others = lambda: len([name for name in loaded.names("cuda:0") if name != "planted"])  # noqa: E731
    monkeypatch.setattr(memory, "free", lambda _device: memory.Room(device=free[others()] * GIB, host=8 * GIB))
    assert run(tmp_path, series, needs_gb={"": 10})["way"] == "plain"
    assert loaded.names("cuda:0") == ("three", "planted")


def test_a_series_too_large_for_the_machine_is_refused_with_the_sizes(tmp_path: Path, series: Series, cuda: memory.Room) -> None:
    """Where no way can ever fit the job fails at once; the reason names need, what is there, and what to do."""
    with pytest.raises(Misconfigured) as refused:
        run(tmp_path, series, needs_gb={"": 400, "float16": 31, "cpu": 40})
    assert refused.value.reason == (
        "the memory does not suffice for planted on this series (12 x 16 x 16 voxels): at the least 31.0 GB is needed, "
        "cuda:0 has 16.0 GB free of 24.0 GB, this host has 8.0 GB free of 12.0 GB; "
        "run it on a machine with more memory, or switch the model off for such series by a rule"
    )


def test_memory_that_others_use_just_now_is_waited_for(tmp_path: Path, series: Series, cuda: memory.Room) -> None:
    """What would fit the machine when less ran beside it is tried again later, with the sizes as the reason."""
    with pytest.raises(Retryable, match=r"at the least 20.0 GB is needed, cuda:0 has 16.0 GB free of 24.0 GB.*let less run beside it"):
        run(tmp_path, series, needs_gb={"": 20})


def test_memory_that_runs_out_on_every_way_is_told(tmp_path: Path, series: Series) -> None:
    """A model whose estimate is wrong ends with the sizes too, and may be tried again."""
    with pytest.raises(Retryable, match=r"the memory does not suffice for planted on this series \(12 x 16 x 16 voxels\)"):
        run(tmp_path, series, "cpu", fault="memory", spared="never")


def test_a_model_that_cannot_be_loaded_makes_others_leave_and_then_says_so(tmp_path: Path, series: Series) -> None:
    """No memory for the weights themselves: all other models go, each device is tried once, and the reason says it."""
    loaded.warm(planted.put(tmp_path, "other"), "cpu")
    with pytest.raises(Retryable, match="the model itself does not fit"):
        run(tmp_path, series, "cpu", holds_mb=1 << 40)
    assert loaded.names("cpu") == ()


def test_no_numbers_in_half_precision_are_computed_again_in_full(tmp_path: Path, series: Series, cuda: memory.Room) -> None:
    """NaN under half precision leads to the same way in float32, which is remembered; NaN in float32 is the model's."""
    policy = ladder.Policy(precision="auto")
    variant = run(tmp_path, series, policy=policy, fault="nan", spared="float32")
    assert (variant["precision"], variant["way"], variant["batch"]) == ("float32", "plain, full precision", "4")
    with pytest.raises(Broken, match="in float32"):
        run(tmp_path / "always", series, policy=policy, fault="nan", spared="never")


def test_half_precision_that_memory_asked_for_gives_way_to_the_processor(tmp_path: Path, series: Series, cuda: memory.Room) -> None:
    """Memory forces half precision, that gives NaN, the same in float32 does not fit: then the processor, not half precision again."""
    needs = {"": 40, "float16": 12, "cpu": 5}
    variant = run(tmp_path, series, fault="nan", spared="float32", needs_gb=needs)
    assert (variant["way"], variant["precision"], variant["device"]) == ("processor", "float32", "cpu")


def test_a_later_attempt_begins_higher_but_never_coarser(tmp_path: Path, series: Series, cuda: memory.Room) -> None:
    """A try that killed the process left no word: the next begins a way higher, within the same device and precision."""
    assert run(tmp_path, series, policy=ladder.Policy(attempt=2))["way"] == "one window"
    ladder._ways.clear()
    assert run(tmp_path, series, policy=ladder.Policy(attempt=9))["way"] == "host stitching"
    assert run(tmp_path, series, "cpu", policy=ladder.Policy(attempt=2))["way"] == "plain"


@pytest.mark.parametrize("words", ["CUDA error: device-side assert triggered", "CUDA error: an illegal memory access was encountered"])
def test_a_broken_device_ends_the_climb(tmp_path: Path, series: Series, cuda: memory.Room, words: str) -> None:
    """After a fault of the device nothing else is tried in this process."""
    with pytest.raises(watchdog.Poisoned, match="cuda:0 failed"):
        run(tmp_path, series, fault=words)


def test_a_device_that_is_lost_already_is_known_before_anything_runs(
    tmp_path: Path, series: Series, cuda: memory.Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of an earlier call shows in the next question to the device, whatever is asked."""

    def fails(_device: str) -> memory.Room:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(memory, "free", fails)
    with pytest.raises(watchdog.Poisoned):
        run(tmp_path, series)
    monkeypatch.setattr(hardware, "has_half", fails)
    with pytest.raises(watchdog.Poisoned):
        run(tmp_path, series)


def test_an_error_of_the_model_passes(tmp_path: Path, series: Series) -> None:
    """What is neither memory nor the device is the caller's to judge."""
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run(tmp_path, series, "cpu", fault="mat1 and mat2 shapes cannot be multiplied")


def test_what_an_out_of_memory_held_is_free_before_the_next_try(
    tmp_path: Path, series: Series, cuda: memory.Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arrays in the frames of the error are gone when the next way starts."""
    shelved = planted.put(tmp_path, "planted", fault="memory", spared="batch")
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []
    model = loaded.warm(shelved, "cuda:0")
    original = model.predict

    def holding(volumes: Series, progress: Progress, execution: Execution) -> Prediction:
        alive.extend(entry() is not None for entry in held)
        block = torch.zeros(1 << 20)
        held.append(weakref.ref(block))
        return original(volumes, progress, execution)

    monkeypatch.setattr(model, "predict", holding)
    gc.collect()
    ladder.predict(shelved, series, "cuda:0", ladder.Policy())
    assert alive == [False]


def test_a_real_network_says_how_it_ran(tmp_path: Path, series: Series) -> None:
    """The state-dict runtime under the ladder: its scores are put together in slabs on any way, and the prediction says so."""
    shelved = planted.read(shelf.put(tmp_path) / "two-parts" / "card.toml")
    contents = np.random.default_rng(2).integers(-1000, 400, (12, 16, 16), dtype=np.int16)
    given = {"ct": replace(series["ct"], array=contents)}
    plain = ladder.predict(shelved, given, "cpu", ladder.Policy())
    assert [plain.variant[key] for key in ("way", "device", "batch", "precision", "scores")] == ["plain", "cpu", "1", "float32", "in slabs"]
    assert len(np.unique(plain.labels)) > 1


def test_memory_that_runs_out_while_a_network_is_proved_is_no_fault_of_its_card(tmp_path: Path, series: Series) -> None:
    """The trial window of a network takes memory too: the job waits for some, and does not fail for good as with a bad card."""
    with pytest.raises(Retryable, match="the memory does not suffice for planted"):
        run(tmp_path, series, "cpu", proved="memory")


def test_a_device_that_is_lost_while_a_network_is_proved_is_no_fault_of_its_card(tmp_path: Path, series: Series, cuda: memory.Room) -> None:
    """The process is to be replaced and the job given back; any other fault of the trial stays the card's."""
    with pytest.raises(watchdog.Poisoned, match=r"cuda:0 failed \(device-side assert\)"):
        run(tmp_path / "lost", series, proved="CUDA error: device-side assert triggered")
    with pytest.raises(BadCard, match="the network does not take"):
        run(tmp_path / "card", series, proved="expected 3 channels")
