"""nnU-Net v2 results folders as training leaves them, of small untrained networks, and what nnU-Net's own predictor says.

The networks are built by nnU-Net's own code from the plans, with seeded random weights whose classes all win somewhere.
"""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from models import drafts
from models.card import Card, ShelvedCard
from models.shelving import conversion, keys

LABELS: Mapping[str, Any] = {"background": 0, "liver": 1, "spleen": 2, "left_kidney": 3}
REGIONS: Mapping[str, Any] = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "centre": 3, "ignore": 4}
CODE = {"scheme": "SCT", "value": "91723000", "meaning": "Anatomical Structure"}


def configuration(patch: Sequence[int] = (16, 16, 16), spacing: Sequence[float] = (2.0, 1.5, 1.5), **other: Any) -> dict[str, Any]:
    """Give a configuration of plans.json as nnU-Net 2.8 writes it, of a network with two resolutions."""

    def way(order: int, *, seg: bool) -> dict[str, Any]:
        return {"is_seg": seg, "order": order, "order_z": 0, "force_separate_z": None}

    return {
        "data_identifier": "nnUNetPlans_x",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch),
        "spacing": list(spacing),
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": way(3, seg=False),
        "resampling_fn_seg_kwargs": way(1, seg=True),
        "resampling_fn_probabilities_kwargs": way(1, seg=False),
        "batch_dice": True,
        "architecture": _architecture(len(patch)),
        **other,
    }


def _architecture(dimension: int) -> dict[str, Any]:
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [4, 8],
            "conv_op": f"torch.nn.modules.conv.Conv{dimension}d",
            "kernel_sizes": [[3] * dimension] * 2,
            "strides": [[1] * dimension, [2] * dimension],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimension}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def residual(patch: Sequence[int] = (16, 16, 16)) -> dict[str, Any]:
    """Give a configuration with the residual encoder of nnU-Net's newer presets."""
    table = configuration(patch)
    arguments = table["architecture"]["arch_kwargs"]
    arguments["n_blocks_per_stage"] = arguments.pop("n_conv_per_stage")
    table["architecture"]["network_class_name"] = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    return table


def first_plans(patch: Sequence[int] = (16, 16, 16)) -> dict[str, Any]:
    """Give a configuration as the first plans of v2 had it, TotalSegmentator's among them: no architecture."""
    table = configuration(patch)
    del table["architecture"]
    return table | {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "n_conv_per_stage_encoder": [1, 1],
        "n_conv_per_stage_decoder": [1],
        "num_pool_per_axis": [1] * len(patch),
        "pool_op_kernel_sizes": [[1] * len(patch), [2] * len(patch)],
        "conv_kernel_sizes": [[3] * len(patch)] * 2,
        "unet_max_num_features": 320,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What is trained: configurations by name, the last of them is the one that is used."""

    configurations: Mapping[str, dict[str, Any]] = field(default_factory=lambda: {"3d_fullres": configuration()})
    labels: Mapping[str, Any] = field(default_factory=lambda: LABELS)
    order: Sequence[int] | None = None
    channels: Sequence[str] = ("CT",)
    folds: int = 1
    mirroring: tuple[int, ...] | None = (0, 1, 2)
    forward: Sequence[int] = (0, 1, 2)
    reader: str = "SimpleITKIO"
    trainer: str = "nnUNetTrainer"
    dataset_name: str = "Dataset001_Small"
    seed: int = 0

    def plans(self) -> dict[str, Any]:
        """Give plans.json."""
        known = {
            "mean": 50.0,
            "std": 100.0,
            "percentile_00_5": -300.0,
            "percentile_99_5": 400.0,
            "median": 40.0,
            "min": -900.0,
            "max": 900.0,
        }
        return {
            "dataset_name": self.dataset_name,
            "plans_name": "nnUNetPlans",
            "transpose_forward": list(self.forward),
            "transpose_backward": [list(self.forward).index(axis) for axis in range(3)],
            "image_reader_writer": self.reader,
            "label_manager": "LabelManager",
            "experiment_planner_used": "ExperimentPlanner",
            "configurations": copy.deepcopy(dict(self.configurations)),
            "foreground_intensity_properties_per_channel": {str(index): known for index in range(len(self.channels))},
        }

    def dataset(self) -> dict[str, Any]:
        """Give dataset.json."""
        table = {"channel_names": {str(index): name for index, name in enumerate(self.channels)}, "labels": dict(self.labels)}
        return table | {"numTraining": 1, "file_ending": ".nii.gz"} | ({"regions_class_order": list(self.order)} if self.order else {})


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back nnU-Net's own warning that the first plans of v2 are old."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected old nnU-Net plans format", UserWarning)
        yield


@quiet()
def train(training: Training, folder: Path) -> Path:
    """Write the results folders of every configuration beside each other; give the last one's."""
    plans = PlansManager(training.plans())
    path = folder
    for number, name in enumerate(training.configurations):
        path = folder / f"{training.trainer}__nnUNetPlans__{name}"
        path.mkdir(parents=True)
        (path / "plans.json").write_text(json.dumps(training.plans()))
        (path / "dataset.json").write_text(json.dumps(training.dataset()))
        for fold in range(training.folds):
            network = _network(plans, training, name, training.seed + 10 * number + fold)
            (path / f"fold_{fold}").mkdir()
            torch.save(_checkpoint(network, training, name, fold), path / f"fold_{fold}" / "checkpoint_final.pth")
    return path


def _network(plans: PlansManager, training: Training, name: str, seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    table = plans.get_configuration(name)
    network: torch.nn.Module = get_network_from_plans(
        table.network_arch_class_name,
        table.network_arch_init_kwargs,
        table.network_arch_init_kwargs_req_import,
        determine_num_input_channels(plans, table, training.dataset()),
        plans.get_label_manager(training.dataset()).num_segmentation_heads,
        deep_supervision=True,
    )
    for label, parameter in network.named_parameters():
        if "seg_layers" in label and parameter.dim() > 1:
            torch.nn.init.normal_(parameter)
            parameter.data -= parameter.data.mean(dim=1, keepdim=True)
    return network


def _checkpoint(network: torch.nn.Module, training: Training, name: str, fold: int) -> dict[str, Any]:
    """Give what nnUNetTrainer.save_checkpoint saves, an optimiser's state, numpy scalars and the device among it."""
    optimiser = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
    arguments = {"plans": training.plans(), "configuration": name, "fold": fold, "dataset_json": training.dataset()}
    return {
        "network_weights": network.state_dict(),
        "optimizer_state": optimiser.state_dict(),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(0.25)], "epoch_end_timestamps": [1.0]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1,
        "init_args": {**arguments, "device": torch.device("cpu")},
        "trainer_name": training.trainer,
        "inference_allowed_mirroring_axes": training.mirroring,
    }


def adopt(path: Path, folder: Path, values: Mapping[str, Any] | None = None) -> ShelvedCard:
    """Make a card of a results folder as `overread models add` does: its draft, its files, and what a human says."""
    draft = drafts.inspect(path)
    folder.mkdir()
    table = copy.deepcopy(dict(draft.card)) | {"schema_version": 1}
    table["model"] = {
        "name": "small",
        "version": "1",
        "title": "Small",
        "licence": "Apache-2.0",
        "intended_use": "tests",
        "limits": ["tests"],
    }
    for label in table["output"]["labels"]:
        for key, value in {"kind": "organ", "category": CODE, "type": CODE, "cielab": [50, 1, label["index"]]}.items():
            label.setdefault(key, value)
    for part in table["inputs"]:
        part["accept"].setdefault("modality", ["MR"])
    table["runtime"]["files"] = {}
    for name, source in draft.files.items():
        content = (
            conversion.convert(source.path, "network_weights").safetensors(once=source.tied) if source.pickled else source.path.read_bytes()
        )
        (folder / source.place).write_bytes(content)
        table["runtime"]["files"][name] = {"path": source.place, "sha256": _sha256(content)}
    table["runtime"]["options"].setdefault("orientation", "as-stored")
    for key, value in (values or {}).items():
        keys.put(table, key, value)
    return ShelvedCard(card=Card.model_validate(table), folder=folder, digest="0" * 64)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@quiet()
def reference(path: Path, image: NDArray[np.float32], spacing_mm: Sequence[float], *, mirroring: bool = True) -> NDArray[np.uint8]:
    """Give the labels of nnU-Net's own predictor on an image (channels, z, y, x); of a cascade the first stage's run before."""
    plans = json.loads((path / "plans.json").read_text())
    before = plans["configurations"][path.name.split("__")[-1]].get("previous_stage")
    previous = None
    if before is not None:
        previous = reference(path.with_name("__".join([*path.name.split("__")[:-1], before])), image, spacing_mm, mirroring=mirroring)
    predictor = _predictor(path, mirroring=mirroring)
    seen = None if previous is None else previous[None].astype(np.float32)
    labels = predictor.predict_single_npy_array(image.copy(), {"spacing": list(spacing_mm)}, seen, None, save_or_return_probabilities=False)
    return np.asarray(labels)


@quiet()
def probabilities(path: Path, image: NDArray[np.float32], spacing_mm: Sequence[float]) -> NDArray[np.float32]:
    """Give nnU-Net's own probabilities (classes, z, y, x) of an image."""
    predictor = _predictor(path, mirroring=True)
    found = predictor.predict_single_npy_array(image.copy(), {"spacing": list(spacing_mm)}, None, None, save_or_return_probabilities=True)
    return np.asarray(found[1])


def _predictor(path: Path, *, mirroring: bool) -> nnUNetPredictor:
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=mirroring,
        perform_everything_on_device=False,
        device=torch.device("cpu"),
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(path), use_folds=None, checkpoint_name="checkpoint_final.pth")
    return predictor
