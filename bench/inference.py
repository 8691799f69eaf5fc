"""Inference: from files in the page cache to labels on the source grid, beside the bare forward on the same windows.

    forward   the network alone: right after each window of ours the same network runs on the same window again, outside of our
              time, so that what else the machine does meets both
    prepare   workers.load of native CT slices, 16 bits, to a volume
    infer     the volume to the model's grid, windows, scores put together, labels back on the source grid
    compose   SEG, presentation state, summary page and SR in the default profile, measured and checked
    files     the work files between the stages, beside the goals

The network is MONAI's UNet of 16 to 128 channels on windows of 96 voxels, overlap 0.25, 1.5 mm in plane and the slices as they
are. It is not trained: bands of intensity are added to its scores, so that the labels are areas, as a trained one's are. On a
GPU its busy share is printed: the bare forward's part of infer. What memory it takes: bench/memory.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from monai.networks import nets
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from bench.results import organs, request_for
from models.execution import Execution
from models.networks import acceleration, program
from models.pipelines import pipeline, stages
from models.runtimes import state_dict
from node.profiles import Profile
from tests.workers.results import scans
from workers import load, results, workspace

ORGANS = 5
LOW_HU, BAND_HU = -1000, 250
# ours over the bare forward, at most
GOALS = {"cpu": {"prepare + infer": 1.25, "with compose": 1.35}, "cuda": {"prepare + infer": 1.5}}


class Banded(torch.nn.Module):
    """A network whose scores are moved to bands of the input's intensity.

    Each class is a line; the next one's is steeper and crosses it where its band begins, so that the highest names the band.
    """

    def __init__(self, network: torch.nn.Module, classes: int) -> None:
        super().__init__()
        self.network = network
        begins = (torch.arange(classes, dtype=torch.float32) - 0.5).clamp(min=0) / classes
        self.slopes = torch.nn.Parameter(40 * torch.arange(classes, dtype=torch.float32).view(-1, 1, 1, 1))
        self.starts = torch.nn.Parameter(-40 * begins.cumsum(0).view(-1, 1, 1, 1))

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Give (batch, classes, *window)."""
        scores: torch.Tensor = self.network(seen)
        return scores.mul_(1e-2).add_(self.starts).addcmul_(self.slopes, seen)


class Clock:
    """Adds up wall and CPU seconds of blocks."""

    def __init__(self) -> None:
        self.spent = np.zeros(2)

    def __enter__(self) -> None:
        self._begin = now()

    def __exit__(self, *_: object) -> None:
        self.spent += now() - self._begin


def unet(classes: int, residual_units: int) -> torch.nn.Module:
    """Give MONAI's UNet of 16 to 128 channels."""
    torch.manual_seed(0)
    return nets.UNet(  # type: ignore[no-any-return]
        spatial_dims=3,
        in_channels=1,
        out_channels=classes,
        channels=(16, 32, 64, 128),
        strides=(2, 2, 2),
        num_res_units=residual_units,
    )


def now() -> np.ndarray[Any, np.dtype[np.float64]]:
    """Give wall and CPU seconds, when the device has done what it was told."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return np.array([time.perf_counter(), time.process_time()])


def write(folder: Path, volume: np.ndarray[Any, np.dtype[np.int16]], spacing_mm: tuple[float, float, float]) -> list[Path]:
    """Write native CT slices with as many elements as a scanner's."""
    folder.mkdir()
    paths = []
    for index, header in enumerate(scans.Scan(shape=volume.shape, spacing_mm=spacing_mm).sources()):
        file = FileDataset(None, header, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.file_meta.MediaStorageSOPClassUID, file.file_meta.MediaStorageSOPInstanceUID = file.SOPClassUID, file.SOPInstanceUID
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
        file.RescaleSlope, file.RescaleIntercept = 1, 0
        block = file.private_block(0x0009, "OVERREAD BENCH", create=True)
        for element in range(80):
            block.add_new(element, "LO", f"value {element}")
        file.PixelData = volume[index].tobytes()
        paths.append(folder / f"{index:04d}.dcm")
        file.save_as(paths[-1], enforce_file_format=True)
    return paths


def scene(count: int, shape: tuple[int, int, int], band_hu: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Draw that many organs, each in its band of intensity, with a little noise."""
    labels = organs(count, shape)
    noise = np.random.default_rng(0).normal(scale=band_hu / 10, size=shape[1:])
    return np.stack([np.rint(LOW_HU + band_hu * plane.astype(np.float32) + noise).astype(np.int16) for plane in labels])


def model(network: torch.nn.Module, count: int, device: str, band_hu: int) -> pipeline.Pipeline:
    """Give the runtime for state dicts with this network in it."""
    shelved = request_for(count, (2, 64, 64)).card
    # Scores are interpolated linearly on the way back, which most models' own runners do, and costs more than labels do.
    output = shelved.card.output.model_copy(update={"inverse": "scores-linear"})
    shelved = replace(shelved, card=shelved.card.model_copy(update={"output": output}))
    stage = state_dict.Stage.model_validate({
        "network": "UNet", "arguments": {}, "spacing_mm": (1.0, 1.5, 1.5), "orientation": "SPL", "window": (96, 96, 96), "overlap": 0.25,
        "intensity": {"low": LOW_HU, "high": LOW_HU + band_hu * (count + 1)}, "organ_channels": tuple(range(count + 1)),
    })  # fmt: skip
    network.to(device).eval()
    run = program.Program(run=lambda seen: (network(seen),), device=device, facts={}, module=network)
    return pipeline.Pipeline(shelved, [stages.Loaded(card=shelved.card, stage=stage, program=run, ensemble=None, activated=False)], None)


def beside(runtime: pipeline.Pipeline, network: torch.nn.Module, clock: Clock) -> None:
    """Let the bare network run on every window after the runtime's own run of it, by a clock of its own."""
    (loaded,) = runtime._loaded  # noqa: SLF001 -- between its windows is where the bare forward has to run

    def run(seen: torch.Tensor) -> program.Outputs:
        found = loaded.program.run(seen)
        with clock:
            network(seen)
        return found

    runtime._loaded = (replace(loaded, program=replace(loaded.program, run=run)),)  # noqa: SLF001


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Wall and CPU seconds of one study, stage by stage."""

    forward: Any
    prepare: Any
    infer: Any
    compose: Any
    files: Any


def measure(paths: Sequence[Path], ready: tuple[pipeline.Pipeline, Clock], execution: Execution) -> Round:
    """Take one study through the stages."""
    runtime, forward_clock = ready
    stages = {name: Clock() for name in ("prepare", "infer", "compose", "files")}
    with stages["prepare"]:
        loaded = load.load(paths)
    forward_clock.spent[:] = 0
    with stages["infer"]:
        prediction = runtime.predict({"ct": loaded.volume}, lambda _: None, execution)
    forward = forward_clock.spent.copy()
    with tempfile.TemporaryDirectory() as temporary, stages["files"]:
        shelf = workspace.Shelf(root=Path(temporary), job_id="bench", generation=1, fence=1)
        workspace.save_volumes(shelf, {"ct": loaded.volume}, loaded.origin)
        workspace.save_prediction(shelf, prediction)
        workspace.load_volumes(shelf)
        workspace.load_prediction(shelf)
    with stages["compose"]:
        request = request_for(ORGANS, (2, 64, 64))
        results.compose(
            replace(
                request,
                job=scans.job(loaded.sources),
                prediction=prediction,
                volume=loaded.volume,
                sources=loaded.sources,
                profile=Profile(name="default"),
            )
        )
    spent = {name: clock.spent for name, clock in stages.items()}
    return Round(forward=forward, prepare=spent["prepare"], infer=spent["infer"] - forward, compose=spent["compose"], files=spent["files"])


def main() -> int:
    """Print the table or the object; exit code 0 when the goals hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--size", type=int, default=512, help="rows and columns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--residual-units", type=int, default=0, help="of the UNet; MONAI's own models have 2")
    parser.add_argument("--engine", choices=("torch", "fastest"), default="fastest", help="fastest: OpenVINO where it gives the same")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    gc.collect()
    gc.freeze()  # as a worker's process does
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = Banded(unet(ORGANS + 1, options.residual_units), ORGANS + 1)
    runtime, clock = model(network, ORGANS, device, BAND_HU), Clock()
    if options.engine == "fastest":
        acceleration.accelerate(runtime)
    beside(runtime, network, clock)
    ready = runtime, clock
    with tempfile.TemporaryDirectory(prefix="overread-inference-") as temporary:
        shape = (options.slices, options.size, options.size)
        paths = write(Path(temporary) / "ct", scene(ORGANS, shape, BAND_HU), (1.0, 0.7, 0.7))
        execution = Execution(batch=options.batch)
        measure(paths[: max(3, options.slices // 10)], ready, execution)  # warm
        rounds = [measure(paths, ready, execution) for _ in range(options.rounds)]
    engine = runtime._loaded[0].program.facts.get("engine", "torch")  # noqa: SLF001
    return report(rounds, (device, engine), as_json=options.json)


def report(rounds: Sequence[Round], ran: tuple[str, str], *, as_json: bool) -> int:
    """Print the medians and the ratios of wall times; CPU seconds beside."""
    device, engine = ran
    middle = {name: np.median([getattr(entry, name) for entry in rounds], axis=0) for name in Round.__slots__}
    within = {
        "prepare + infer": [(entry.prepare + entry.infer) / entry.forward for entry in rounds],
        "with compose": [(entry.prepare + entry.infer + entry.compose) / entry.forward for entry in rounds],
        "with work files": [(entry.prepare + entry.infer + entry.compose + entry.files) / entry.forward for entry in rounds],
    }
    ratios = {name: np.median(each, axis=0) for name, each in within.items()}
    goals = GOALS[device]
    holds = all(ratios[name][0] <= goal for name, goal in goals.items())
    busy = float(middle["forward"][0] / middle["infer"][0])
    if as_json:
        told = {name: seconds.tolist() for name, seconds in middle.items()}
        wall = {name: float(ratio[0]) for name, ratio in ratios.items()}
        facts = {"device": device, "engine": engine, "busy": busy, "seconds": told}
        print(json.dumps({"name": "inference", "ratios": wall, "goals": goals, "holds": holds, **facts}))
        return 0 if holds else 1
    print(f"{device:<18} {'wall s':>8} {'CPU s':>8}   {engine}")
    for name, seconds in middle.items():
        print(f"{name:<18} {seconds[0]:8.2f} {seconds[1]:8.2f}")
    for name, ratio in ratios.items():
        print(f"{name:<18} {ratio[0]:8.2f} {ratio[1]:8.2f}   {f'goal {goals[name]}' if name in goals else ''}")
    print(f"the bare forward takes {busy:.0%} of infer's time; goals {'hold' if holds else 'fail'}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
