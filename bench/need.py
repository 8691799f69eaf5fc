"""Estimates of memory: what each runtime says that a prediction takes (`Model.need`), beside its peak above the warmed process.

Each case runs in a process of its own: the model is loaded, a small volume goes through it, then one of the case's size. On a
processor both parts of the estimate are the host's. The networks are small and not trained; the estimate has to lie between 0.8
and 1.5 times the peak: below, a study is begun that does not fit, above, one is refused that does.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from monai.networks import nets
from safetensors.torch import save

from models import registry
from models.card import STARTERS, ShelvedCard, read
from models.execution import PLAIN
from models.vocabulary import Grid, Volume
from tests.models import programs, shelf, trained
from tests.models.runtimes import bundles
from workers.gpu import memory

SPACING_MM = (1.5, 0.8, 0.8)
SIZES = ((60, 192, 192), (120, 320, 320), (240, 512, 512))
BETWEEN = (0.8, 1.5)
WINDOW, CLASSES = (64, 64, 64), 6
UNET = {"spatial_dims": 3, "in_channels": 1, "out_channels": CLASSES, "channels": [16, 32, 64, 128], "strides": [2, 2, 2]}
OPTIONS = f"""
window = {list(WINDOW)}
spacing_mm = [2.0, 2.0, 2.0]
intensity = {{ low = -1000.0, high = 400.0 }}
organ_channels = {list(range(CLASSES))}
"""
OUTPUT = "labels\n" + shelf.labels(*["organ"] * (CLASSES - 1))


def unet() -> torch.nn.Module:
    """Give MONAI's UNet of 16 to 128 channels."""
    torch.manual_seed(0)
    return nets.UNet(**UNET).eval()  # type: ignore[no-any-return,arg-type]


def pipeline(format_name: str, make: Callable[[torch.nn.Module, torch.Tensor], programs.Files]) -> Callable[[Path], ShelvedCard]:
    """Give what writes the network in a format of the shared pipeline."""
    return lambda folder: shelf.shelve(folder, format_name, make(unet(), torch.zeros(1, 1, *WINDOW)), OPTIONS, OUTPUT)


def state_dict(folder: Path) -> ShelvedCard:
    """Write the network as a state dict."""
    files = {"weights": ("weights.safetensors", save(unet().state_dict()))}
    return shelf.shelve(folder, "state-dict", files, f'network = "UNet"\narguments = {_toml(UNET)}\n{OPTIONS}', OUTPUT)


def _toml(table: Mapping[str, object]) -> str:
    return "{ " + ", ".join(f"{key} = {value}" for key, value in table.items()) + " }"


def bundle(classes: int) -> Callable[[Path], ShelvedCard]:
    """Give what writes a MONAI bundle with that many classes and its own return to the source grid."""

    def write(folder: Path) -> ShelvedCard:
        network = {**bundles.UNET, "out_channels": classes, "channels": [16, 32, 64], "strides": [2, 2]}
        inference = bundles.changed(bundles.INFERENCE, network_def=network, inferer__roi_size=list(WINDOW), inferer__overlap=0.25)
        inference["spacing"] = [2.0, 2.0, 2.0]
        metadata = json.loads(json.dumps(bundles.METADATA))
        form = metadata["network_data_format"]
        form["inputs"]["image"]["spatial_shape"] = list(WINDOW)
        names = ["background", *(f"part {index}" for index in range(1, classes))]
        form["outputs"]["pred"] |= {"num_channels": classes, "channel_def": {str(index): name for index, name in enumerate(names)}}
        bundles.write(folder, inference, metadata)
        return bundles.card(folder, labels={index: f"part {index}" for index in range(1, classes)})

    return write


def nnunet(folder: Path, classes: int = CLASSES, order: int = 1) -> ShelvedCard:
    """Write a results folder of a network of 32 features as nnU-Net plans it."""
    table = trained.configuration(WINDOW, (2.0, 1.6, 1.6))
    table["resampling_fn_probabilities_kwargs"] = {**table["resampling_fn_probabilities_kwargs"], "order": order}
    table["architecture"]["arch_kwargs"] |= {"features_per_stage": [32, 64]}
    labels = {"background": 0, **{f"part {index}": index for index in range(1, classes)}}
    made = trained.train(trained.Training(configurations={"3d_fullres": table}, labels=labels, mirroring=None), folder / "results")
    return trained.adopt(made, folder / "card")


def totalsegmentator(folder: Path) -> ShelvedCard:
    """Write two of TotalSegmentator's parts with networks of 32 features."""
    parts = {"Dataset291_TotalSegmentator_part1_organs_1559subj": "liver", "Dataset293_TotalSegmentator_part3_cardiac_1559subj": "heart"}
    for name, organ in parts.items():
        table = trained.configuration(WINDOW, (1.5, 1.5, 1.5))
        table["architecture"]["arch_kwargs"] |= {"features_per_stage": [32, 64]}
        labels = {"background": 0, organ: 1}
        training = trained.Training(configurations={"3d_fullres": table}, labels=labels, mirroring=None, dataset_name=name)
        trained.train(training, folder / "results" / name)
    return trained.adopt(folder / "results", folder / "card")


CASES: dict[str, Callable[[Path], ShelvedCard]] = {
    "state-dict": state_dict,
    "torchscript": pipeline("torchscript", programs.traced),
    "exported-program": pipeline("exported-program", programs.exported_for_one),
    "onnx": pipeline("onnx", programs.onnx_for_one),
    "monai-bundle, 3 classes": bundle(3),
    "monai-bundle, 24 classes": bundle(24),
    "nnunet, 6 classes": nnunet,
    "nnunet, 24 classes": lambda folder: nnunet(folder, 24),
    "nnunet, cubic scores": lambda folder: nnunet(folder, order=3),
    "totalsegmentator, 2 parts": totalsegmentator,
    "lung-nodules": lambda _folder: read(STARTERS / "chest_ct" / "card.toml"),
    "deepbet": lambda _folder: read(STARTERS / "brain_mr" / "card.toml"),
}


def volume(shape: tuple[int, int, int], modality: str, spacing_mm: tuple[float, float, float] = SPACING_MM) -> Volume:
    """Draw a body in air with two lungs in it, all a little uneven; in MR the bright ball of a head. Smooth, so that labels are areas."""
    grid = Grid(shape=shape, origin_mm=(0, 0, 0), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=spacing_mm)
    z, y, x = np.ogrid[tuple(slice(-1, 1, complex(0, count)) for count in shape)]
    array = (20 * np.sin(5 * z) * np.cos(4 * y) + 10 * x).astype(np.int16)
    if modality == "MR":
        array += np.where(z**2 + y**2 + x**2 < 0.6, np.int16(800), np.int16(100))
        return Volume(array=array, grid=grid, unit="1", modality="MR")
    array += np.where(y**2 + x**2 < 0.9, np.int16(40), np.int16(-1000))
    for side in (-1, 1):
        lung = (z / 0.85) ** 2 + (y / 0.6) ** 2 + ((x - 0.42 * side) / 0.3) ** 2 < 1
        array[lung] -= 890
    return Volume(array=array, grid=grid, unit="HU", modality="CT")


def child(name: str, shape: tuple[int, int, int]) -> None:
    """Write and load the model, warm up, take a volume through, and print what was said and what it took."""
    with tempfile.TemporaryDirectory(prefix="overread-need-") as temporary:
        shelved = CASES[name](Path(temporary))
        model = registry.load(shelved, "cpu")
    entry = shelved.card.inputs[0]
    modality = entry.accept.modality[0]
    scale = 240 / shape[0] if shelved.card.runtime.format == "lung-nodules" else 1.0
    spacing_mm = (SPACING_MM[0] * scale, SPACING_MM[1] * scale, SPACING_MM[2] * scale)
    if shelved.card.runtime.format == "deepbet":
        spacing_mm = tuple(200 / count for count in shape)  # type: ignore[assignment]
    small = (48, 96, 96)
    first = volume(small, modality, tuple(step * count / less for step, count, less in zip(spacing_mm, shape, small, strict=True)))  # type: ignore[arg-type]
    given = volume(shape, modality, spacing_mm)
    model.predict({entry.role: first}, lambda _part: None)
    memory.give_back()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory._meminfo("VmRSS", Path("/proc/self/status"))  # noqa: SLF001 -- the account is the kernel's
    need = model.need({entry.role: given.grid}, PLAIN)
    model.predict({entry.role: given}, lambda _part: None)
    peak = memory._meminfo("VmHWM", Path("/proc/self/status"))  # noqa: SLF001
    if before is None or peak is None:
        raise RuntimeError("the kernel does not account for this process: VmRSS and VmHWM are needed")
    print(json.dumps({"need_mb": (need.device + need.host) / 1e6, "peak_mb": (peak - before) / 1e6}))


def measure(name: str, shape: tuple[int, int, int]) -> dict[str, float]:
    """Measure one case in a process of its own; gives need_mb and peak_mb."""
    command = [sys.executable, __file__, "--child", name, *map(str, shape)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> int:
    """Print the table or the object; exit code 0 when every estimate lies between the bounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="*", choices=list(CASES), default=list(CASES))
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many of the sizes, the smallest first")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        z, y, x = map(int, options.child[1:])
        child(options.child[0], (z, y, x))
        return 0
    ratios = {}
    for name in options.case:
        for shape in SIZES[: options.sizes]:
            case = measure(name, shape)
            key = f"{name}, {' x '.join(map(str, shape))}"
            ratios[key] = case["need_mb"] / case["peak_mb"]
            if not options.json:
                print(f"{key:45} need {case['need_mb']:7.0f} MB, peak {case['peak_mb']:7.0f} MB, {ratios[key]:.2f}", flush=True)
    holds = all(BETWEEN[0] <= ratio <= BETWEEN[1] for ratio in ratios.values())
    if options.json:
        print(json.dumps({"name": "need", "ratios": ratios, "goals": BETWEEN, "holds": holds}))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
