"""The feature extractor of MONAI's RetinaNet, without torchvision, whose getter of layers MONAI's own needs.

Weights have the same names, and the same layers run in the same order.
Ref: monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor, torchvision.models._utils.IntermediateLayerGetter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool
from monai.networks.nets.resnet import ResNet

CHANNELS = 256
"""Of every level, fixed by MONAI."""


class Layers(torch.nn.ModuleDict):
    """A backbone's children up to the last layer whose output is wanted; what lies behind it is left out, as are its weights."""

    def __init__(self, backbone: torch.nn.Module, wanted: Sequence[str]) -> None:
        children = dict(backbone.named_children())
        last = max(list(children).index(name) for name in wanted)
        super().__init__(dict(list(children.items())[: last + 1]))
        self._wanted = tuple(wanted)

    def forward(self, seen: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give the outputs of the wanted layers, by their place in the order in which they were named."""
        found = {}
        for name, layer in self.items():
            seen = layer(seen)
            if name in self._wanted:
                found[str(self._wanted.index(name))] = seen
        return found


class Extractor(torch.nn.Module):
    """A backbone's layers and the pyramid over them: (batch, channels, *) to maps of CHANNELS, the finest first."""

    def __init__(self, backbone: ResNet, spatial_dims: int, returned_layers: Sequence[int]) -> None:
        super().__init__()
        pyramid: Any = FeaturePyramidNetwork  # its arguments are typed narrower than what it takes
        first = backbone.in_planes // 8
        self.body = Layers(backbone, [f"layer{number}" for number in returned_layers])
        self.fpn = pyramid(
            spatial_dims=spatial_dims,
            in_channels_list=[first * 2 ** (number - 1) for number in returned_layers],
            out_channels=CHANNELS,
            extra_blocks=LastLevelMaxPool(spatial_dims),
        )
        self.out_channels = CHANNELS

    def forward(self, seen: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give the maps by the names of their levels."""
        found: dict[str, torch.Tensor] = self.fpn(self.body(seen))
        return found


def feature_extractor(
    backbone: ResNet,
    spatial_dims: int,
    pretrained_backbone: bool = False,  # noqa: FBT001, FBT002 -- MONAI's own signature
    returned_layers: Sequence[int] = (1, 2, 3),
    trainable_backbone_layers: int | None = None,  # noqa: ARG001 -- only of training
) -> Extractor:
    """Build what MONAI's function of the same arguments builds; raises ValueError for weights of another place."""
    if pretrained_backbone:
        raise ValueError("pretrained_backbone: the card's file of weights is all that is loaded")
    return Extractor(backbone, spatial_dims, returned_layers)
