"""A detection bundle in the model-zoo's layout, untrained, and MONAI's own run of it from files.

MONAI's extractor of features needs torchvision, so the reference takes the maps from the backbone's own forward, by hooks.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.bundle import ConfigParser
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from monai.networks.nets.resnet import ResNet

from models.vocabulary import Volume
from tests.models.runtimes import bundles

WINDOW, OVERLAP = (32, 32, 16), 0.25
BACKBONE = "spatial_dims=3,n_input_channels=1,conv1_t_stride=[4,4,2],conv1_t_size=[7,7,7]"
PLACES = {"box_keys": "box", "box_ref_image_keys": "image"}
INFERENCE: dict[str, Any] = {
    "whether_raw_luna16": False,
    "whether_resampled_luna16": "$(not @whether_raw_luna16)",
    "imports": ["$import glob", "$import os"],
    "bundle_root": ".",
    "output_dir": "$@bundle_root + '/eval'",
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "amp": True,
    "infer_patch_size": list(WINDOW),
    "anchor_generator": {
        "_target_": "monai.apps.detection.utils.anchor_utils.AnchorGeneratorWithAnchorShape",
        "feature_map_scales": [1, 2, 4],
        "base_anchor_shapes": [[6, 8, 4], [8, 6, 5], [10, 10, 6]],
    },
    "backbone": f"$monai.networks.nets.resnet.resnet10({BACKBONE})",
    "feature_extractor": "$monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor(@backbone,3,False,[1,2],None)",
    "network_def": {
        "_target_": "RetinaNet",
        "spatial_dims": 3,
        "num_classes": 1,
        "num_anchors": 3,
        "feature_extractor": "@feature_extractor",
        "size_divisible": [32, 32, 16],
    },
    "network": "$@network_def.to(@device)",
    "detector": {"_target_": "RetinaNetDetector", "network": "@network", "anchor_generator": "@anchor_generator", "debug": False},
    "detector_ops": [
        "$@detector.set_target_keys(box_key='box', label_key='label')",
        "$@detector.set_box_selector_parameters(score_thresh=0.02,topk_candidates_per_level=1000,nms_thresh=0.22,detections_per_img=300)",
        "$@detector.set_sliding_window_inferer(roi_size=@infer_patch_size,overlap=0.25,sw_batch_size=1,mode='constant',device='cpu')",
    ],
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "_disabled_": "@whether_raw_luna16"},
            {
                "_target_": "LoadImaged",
                "keys": "image",
                "reader": "itkreader",
                "affine_lps_to_ras": True,
                "_disabled_": "@whether_resampled_luna16",
            },
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1.1, 1.0, 1.5], "_disabled_": "@whether_resampled_luna16"},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": -1024, "a_max": 300, "b_min": 0, "b_max": 1, "clip": True},
            {"_target_": "EnsureTyped", "keys": "image"},
        ],
    },
    "dataset": {"_target_": "Dataset", "data": "$@test_datalist", "transform": "@preprocessing"},
    "inferer": {"_target_": "scripts.detection_inferer.RetinaNetInferer", "detector": "@detector"},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "ClipBoxToImaged", **PLACES, "label_keys": ["label", "label_scores"], "remove_empty": True},
            {"_target_": "AffineBoxToWorldCoordinated", **PLACES, "image_meta_key_postfix": "meta_dict", "affine_lps_to_ras": True},
            {"_target_": "ConvertBoxModed", "box_keys": "box", "src_mode": "xyzxyz", "dst_mode": "cccwhd"},
            {"_target_": "DeleteItemsd", "keys": ["image"]},
        ],
    },
    "handlers": [
        {"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'", "load_dict": {"model": "@network"}},
        {
            "_target_": "scripts.detection_saver.DetectionSaver",
            "output_dir": "@output_dir",
            "output_transform": "$lambda x: [@postprocessing({**xx['pred'],'image':xx['image']}) for xx in x]",
        },
    ],
    "evaluator": {
        "_target_": "scripts.evaluator.DetectionEvaluator",
        "_requires_": "@detector_ops",
        "network": "@network",
        "inferer": "@inferer",
        "val_handlers": "@handlers",
    },
    "evaluating": ["$setattr(torch.backends.cudnn, 'benchmark', True)", "$@evaluator.run()"],
}
METADATA: dict[str, Any] = {
    "version": "0.6.0",
    "monai_version": "1.6.1",
    "pytorch_version": "2.8.0",
    "numpy_version": "2.0.0",
    "name": "Lung nodule CT detection",
    "intended_use": "This is an example, not to be used for diagnostic purposes",
    "network_data_format": {
        "inputs": {
            "image": {"modality": "CT", "num_channels": 1, "spatial_shape": ["16*n", "16*n", "8*n"], "channel_def": {"0": "image"}},
        },
        "outputs": {"pred": {"type": "object", "format": "dict", "num_channels": 1, "spatial_shape": ["n", "n", "n"]}},
    },
}
RAW = "overrides = { whether_raw_luna16 = true }"
NODULE = (
    ('kind = "labels"', 'kind = "boxes"'),
    ('kind = "organ"', 'kind = "finding"\nthreshold = 0.3'),
    ("[runtime.options]", f"[runtime.options]\n{RAW}"),
)


class OfMonai(torch.nn.Module):
    """MONAI's backbone as it runs by itself, its layers' outputs taken by hooks, and MONAI's pyramid over them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = ResNet(
            "basic", [1, 1, 1, 1], [64, 128, 256, 512], spatial_dims=3, n_input_channels=1, conv1_t_size=[7, 7, 7], conv1_t_stride=[4, 4, 2]
        )
        self.fpn = FeaturePyramidNetwork(3, [64, 128], 256, extra_blocks=LastLevelMaxPool(3))
        self.out_channels = 256
        self._found: dict[str, torch.Tensor] = {}
        for place, layer in enumerate((self.body.layer1, self.body.layer2)):
            layer.register_forward_hook(lambda _layer, _given, made, place=place: self._found.__setitem__(str(place), made))

    def forward(self, seen: torch.Tensor) -> Any:
        """Give the maps, the finest first."""
        self.body(seen)
        return self.fpn(dict(sorted(self._found.items())))


def weights() -> dict[str, torch.Tensor]:
    """Give random weights of a seed, by the names that the model zoo's file has, so that some places are sure to be marked."""
    torch.manual_seed(3)
    net = RetinaNet(3, 1, 3, OfMonai(), (32, 32, 16))
    state = net.state_dict()
    state["classification_head.cls_logits.weight"] = torch.randn_like(state["classification_head.cls_logits.weight"]) * 0.025
    state["classification_head.cls_logits.bias"] = torch.full((3,), -1.0)
    state["regression_head.bbox_reg.weight"] = torch.randn_like(state["regression_head.bbox_reg.weight"]) * 0.004
    behind = ("layer3", "layer4", "avgpool", "fc")
    return {name: part for name, part in state.items() if not name.startswith(tuple(f"feature_extractor.body.{word}" for word in behind))}


def write(folder: Path, inference: dict[str, Any] = INFERENCE, metadata: dict[str, Any] = METADATA) -> Path:
    """Write the bundle."""
    bundles.write(folder, inference, metadata, weights=b"")
    torch.save(weights(), folder / "models/model.pt")
    return folder


@dataclass(frozen=True, kw_only=True)
class Found:
    """MONAI's answer: boxes in the image's indices and in LPS mm, both (n, 6) as corners; scores; the image's affine to RAS."""

    indices: np.ndarray
    world_mm: np.ndarray
    scores: np.ndarray
    affine: np.ndarray


def of_monai(folder: Path, volume: Volume) -> Found:
    """Let MONAI read the volume's file, detect, clip and bring to the world, by the bundle's own steps and settings."""
    config = {key: copy.deepcopy(INFERENCE[key]) for key in ("whether_resampled_luna16", "preprocessing", "postprocessing")}
    del config["preprocessing"]["transforms"][1]  # the raw variant's reader; NIfTI has one of its own, of the same axes
    parser = ConfigParser({**config, "whether_raw_luna16": True})
    parser["preprocessing::transforms::0::_disabled_"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = parser.get_parsed_content("preprocessing")({"image": str(bundles.nifti(folder / "image.nii", volume))})
    net = RetinaNet(3, 1, 3, OfMonai(), (32, 32, 16))
    assert not net.load_state_dict(torch.load(folder / "models/model.pt", weights_only=True), strict=False).unexpected_keys
    detector = RetinaNetDetector(net, AnchorGeneratorWithAnchorShape((1, 2, 4), ((6, 8, 4), (8, 6, 5), (10, 10, 6))))
    detector.set_target_keys(box_key="box", label_key="label")
    detector.set_box_selector_parameters(score_thresh=0.02, topk_candidates_per_level=1000, nms_thresh=0.22, detections_per_img=300)
    detector.set_sliding_window_inferer(roi_size=WINDOW, overlap=OVERLAP, sw_batch_size=1, mode="constant")
    detector.eval()
    image = data["image"]
    with torch.no_grad():
        pred: Any = detector([image.as_tensor()], use_inferer=image[0].numel() >= np.prod(WINDOW))[0]
    clip = ConfigParser(INFERENCE["postprocessing"]["transforms"][0]).get_parsed_content()
    clipped = clip({**pred, "image": image})
    placed = parser.get_parsed_content("postprocessing")({**pred, "image": image})
    middle, size = np.split(placed["box"].numpy(), 2, axis=1)
    return Found(
        indices=clipped["box"].numpy().astype(float),
        world_mm=np.concatenate([middle - size / 2, middle + size / 2], axis=1),
        scores=clipped["label_scores"].numpy(),
        affine=image.affine.numpy(),
    )
