"""MONAI bundles made on the spot in the model-zoo's layout, their cards, and MONAI's own run of the same bundle from files."""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import decollate_batch, list_data_collate

from models import registry
from models.card import ShelvedCard, read
from models.execution import Execution
from models.vocabulary import Grid, Prediction, Volume
from tests.models.grids import ball, middle_mm

AIR, ONE, TWO = -900, 40, 300
"""Intensities of a scene in HU: outside, organ 1, organ 2."""
UNET = {
    "_target_": "UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8],
    "strides": [2],
    "num_res_units": 1,
}
POINT = {
    "_target_": "AutoEncoder",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4],
    "strides": [1],
    "norm": "batch",
    "act": "relu",
}
METADATA: dict[str, Any] = {
    "version": "0.3.1",
    "monai_version": "1.6.1",
    "pytorch_version": "2.8.0",
    "numpy_version": "2.0.0",
    "name": "Lines",
    "network_data_format": {
        "inputs": {"image": {"type": "image", "num_channels": 1, "spatial_shape": [32, 32, 32], "channel_def": {"0": "image"}}},
        "outputs": {
            "pred": {"type": "image", "num_channels": 3, "channel_def": {"0": "background", "1": "first organ", "2": "second organ"}}
        },
    },
}
INFERENCE: dict[str, Any] = {
    "imports": ["$import glob", "$import os"],
    "bundle_root": ".",
    "image_key": "image",
    "output_dir": "$os.path.join(@bundle_root, 'eval')",
    "dataset_dir": "/workspace/data",
    "datalist": "$list(sorted(glob.glob(@dataset_dir + '/*.nii.gz')))",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "spacing": [1.5, 1.5, 2.0],
    "network_def": UNET,
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "@image_key"},
            {"_target_": "EnsureChannelFirstd", "keys": "@image_key"},
            {"_target_": "Orientationd", "keys": "@image_key", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "@image_key", "pixdim": "@spacing", "mode": "bilinear"},
            {"_target_": "ScaleIntensityRanged", "keys": "@image_key", "a_min": -1000, "a_max": 400, "b_min": 0, "b_max": 1, "clip": True},
            {"_target_": "EnsureTyped", "keys": "@image_key"},
        ],
    },
    "dataset": {"_target_": "Dataset", "data": "$[{'image': i} for i in @datalist]", "transform": "@preprocessing"},
    "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "sw_batch_size": 4, "overlap": 0.5},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {
                "_target_": "Invertd",
                "keys": "pred",
                "transform": "@preprocessing",
                "orig_keys": "@image_key",
                "nearest_interp": False,
                "to_tensor": True,
            },
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
        ],
    },
    "handlers": [{"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'", "load_dict": {"model": "@network"}}],
    "evaluator": {
        "_target_": "SupervisedEvaluator",
        "device": "@device",
        "val_data_loader": "@dataloader",
        "network": "@network",
        "inferer": "@inferer",
        "postprocessing": "@postprocessing",
        "val_handlers": "@handlers",
        "amp": True,
    },
    "initialize": ["$monai.utils.set_determinism(seed=123)"],
    "run": ["$@evaluator.run()"],
}
SHAPE, SPACING_MM = (30, 44, 36), (2.0, 0.9, 1.2)
STEPS = INFERENCE["postprocessing"]["transforms"]
SOFTMAX, INVERT, ARGMAX, SAVE = STEPS
SIGMOID = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
CUT = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 0.5}
MASKS = ('kind = "labels"', 'kind = "masks"')
CARD = """
schema_version = 1
[model]
name = "lines"
version = "0.3.1"
title = "Lines"
licence = "Apache-2.0"
intended_use = "tests"
limits = ["tests only"]
[runtime]
format = "monai-bundle"
[runtime.files.metadata]
path = "configs/metadata.json"
sha256 = "METADATA"
[runtime.files.inference]
path = "configs/inference.json"
sha256 = "INFERENCE"
[runtime.files.weights]
path = "models/model.pt"
sha256 = "WEIGHTS"
[runtime.options]
INPUTS
[output]
kind = "labels"
inverse = "runtime"
LABELS
"""
ROLE = '[[inputs]]\nrole = "{role}"\nreference = {reference}\n[inputs.accept]\nmodality = ["{modality}"]\n'
LABEL = """
[[output.labels]]
index = {index}
label = "{label}"
kind = "organ"
category = {{ scheme = "SCT", value = "123037004", meaning = "Anatomical Structure" }}
type = {{ scheme = "SCT", value = "10200004", meaning = "Liver" }}
cielab = [1, 1, 1]
"""


def changed(config: Mapping[str, Any], **parts: Any) -> dict[str, Any]:
    """Give a copy of a configuration with entries replaced by their ids, :: written __; None removes one."""
    parser = ConfigParser(copy.deepcopy(dict(config)))
    for key, value in parts.items():
        where = key.replace("__", "::")
        if value is None:
            parent, _, last = where.rpartition("::")
            del (parser[parent] if parent else parser.config)[last]
        else:
            parser.set(value, where)
    return {key: part for key, part in parser.config.items() if key != "_meta_"}


def network(config: Mapping[str, Any] = INFERENCE, seed: int = 5) -> torch.nn.Module:
    """Build a bundle's network with weights of a seed."""
    torch.manual_seed(seed)
    built: torch.nn.Module = ConfigParser(copy.deepcopy(dict(config))).get_parsed_content("network_def")
    return built.eval()


def lines(inference: Mapping[str, Any], slopes: Sequence[tuple[float, float]], channel: int = 0) -> torch.nn.Module:
    """Give the POINT network of a bundle: score k of a voxel is slope * intensity + start, of one input channel in that voxel alone."""
    built = network(inference)
    state = {name: torch.zeros_like(tensor) if "conv" in name else tensor for name, tensor in built.state_dict().items()}
    state["encode.encode_0.conv.weight"][0, channel, 1, 1, 1] = 1
    for index, (slope, start) in enumerate(slopes):
        state["decode.decode_0.conv.conv.weight"][0, index, 1, 1, 1] = slope
        state["decode.decode_0.conv.conv.bias"][index] = start
    built.load_state_dict(state)
    return built


def write(
    folder: Path,
    inference: Mapping[str, Any] = INFERENCE,
    metadata: Mapping[str, Any] = METADATA,
    weights: torch.nn.Module | bytes | None = None,
) -> Path:
    """Write a bundle's files; without weights its network's own, from a seed."""
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "configs/inference.json").write_text(json.dumps(inference))
    (folder / "configs/metadata.json").write_text(json.dumps(metadata))
    if isinstance(weights, bytes):
        (folder / "models/model.pt").write_bytes(weights)
    else:
        torch.save((weights or network(inference)).state_dict(), folder / "models/model.pt")
    return folder


def card(
    folder: Path,
    *replaced: tuple[str, str],
    labels: Mapping[int, str] | None = None,
    roles: Sequence[tuple[str, str]] = (("ct", "CT"),),
) -> ShelvedCard:
    """Write and read the card of a bundle on disk, its files pinned, parts of its text replaced."""
    inputs = "".join(
        ROLE.format(role=role, reference=str(index == 0).lower(), modality=modality) for index, (role, modality) in enumerate(roles)
    )
    marks = labels if labels is not None else {1: "First organ", 2: "Second organ"}
    text = CARD.replace("INPUTS", inputs).replace(
        "LABELS", "".join(LABEL.format(index=index, label=label) for index, label in marks.items())
    )
    for old, new in replaced:
        assert old in text, old
        text = text.replace(old, new)
    for name in ("metadata", "inference", "weights"):
        path = (
            folder / next(line for line in text.split(f"[runtime.files.{name}]")[1].splitlines() if line.startswith("path")).split('"')[1]
        )
        text = text.replace(f'"{name.upper()}"', f'"{hashlib.sha256(path.read_bytes()).hexdigest()}"')
    (folder / "card.toml").write_text(text)
    return read(folder / "card.toml")


def nifti(path: Path, volume: Volume) -> Path:
    """Write a volume as NIfTI by its definition: voxel (x, y, z) at (-x, -y, z) of LPS."""
    corners = volume.grid.to_world_mm(np.array([[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]], dtype=float)) * [-1, -1, 1]
    matrix = np.eye(4)
    matrix[:3, 3] = corners[0]
    matrix[:3, :3] = (corners[1:] - corners[0]).T
    nibabel.save(nibabel.Nifti1Image(np.transpose(volume.array, (2, 1, 0)), matrix), path)
    return path


def reference(folder: Path, images: Mapping[str, Any], inference: Mapping[str, Any]) -> Any:
    """Give what MONAI makes of files with the bundle's own configuration, savers apart: (channels, x, y, z).

    images  key -> path or list of paths, as a data list has them
    """
    config = copy.deepcopy(dict(inference))
    config["device"] = "cpu"
    config["network"] = "$@network_def.to(@device)"
    config["postprocessing"]["transforms"] = [
        step for step in config["postprocessing"]["transforms"] if "SaveImage" not in step["_target_"]
    ]
    config = {
        name: part
        for name, part in config.items()
        if name not in {"imports", "output_dir", "datalist", "dataset", "dataloader", "evaluator", "handlers", "initialize", "run"}
    }
    parser = ConfigParser(config)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        preprocessing, inferer, postprocessing = (
            parser.get_parsed_content(name) for name in ("preprocessing", "inferer", "postprocessing")
        )
    built = parser.get_parsed_content("network_def")
    built.load_state_dict(torch.load(folder / "models/model.pt", weights_only=True))
    batch = list_data_collate([preprocessing(dict(images))])
    with torch.no_grad():
        batch["pred"] = inferer(inputs=batch["image"], network=built.eval())
    return postprocessing(decollate_batch(batch)[0])["pred"]


def organs(of: Grid, truth: Mapping[str, np.ndarray]) -> Volume:
    """Draw two organs with a texture, so that a network with any weights sees something everywhere."""
    array = np.full(of.shape, AIR, dtype=np.int16)
    for name, value in (("one", ONE), ("two", TWO)):
        array[truth[name]] = value
    array += np.random.default_rng(3).integers(-60, 60, of.shape, dtype=np.int16)
    return Volume(array=array, grid=of, unit="HU", modality="CT")


def scene(of: Grid) -> tuple[Volume, dict[str, np.ndarray]]:
    """Draw two organs beside each other at places fixed in the patient."""
    middle, along = np.array(middle_mm(of)), np.array(of.axes[1])
    truth = {"one": ball(of, tuple(middle - 10 * along), 9.0), "two": ball(of, tuple(middle + 10 * along), 8.0)}
    return organs(of, truth), truth


def predict(shelved: ShelvedCard, *volumes: Volume, execution: Execution | None = None) -> Prediction:
    """Load a model and run it on a volume a role, in the card's order."""
    given = dict(zip((entry.role for entry in shelved.card.inputs), volumes, strict=True))
    return registry.load(shelved, "cpu").predict(given, lambda _: None, execution or Execution())


def of_monai(folder: Path, volume: Volume, inference: Mapping[str, Any]) -> np.ndarray:
    """Give MONAI's own result of a volume's file, (channels, z, y, x)."""
    found = reference(folder, {"image": str(nifti(folder / "image.nii", volume))}, inference)
    return np.transpose(np.asarray(found), (0, 3, 2, 1))


def metadata(**parts: Any) -> dict[str, Any]:
    """Give the metadata with entries replaced."""
    return changed(METADATA, **parts)
