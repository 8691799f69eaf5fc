"""Detection bundles give MONAI's own boxes and scores, where MONAI's own transform puts them in the patient."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import drafts, registry
from models.card import BadCard
from models.runtimes.monai_bundle import detecting, pyramid
from models.runtimes.monai_bundle import detectors as reading_of
from models.vocabulary import Grid, Volume
from tests.models.grids import grid
from tests.models.runtimes import bundles, detectors
from tests.models.runtimes.bundles import changed
from tests.models.runtimes.detectors import INFERENCE, METADATA, NODULE

SHAPE, SPACING_MM = (20, 26, 20), (2.0, 0.9, 1.2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an untrained detection bundle."""
    return detectors.write(tmp_path_factory.mktemp("detector"))


def corners_mm(of: Grid, edges: np.ndarray, diagonal: tuple[int, int, int]) -> np.ndarray:
    """Give the box around two opposite corners of boxes (n, 6) of edges, low z, y, x then high: (n, 6) in LPS, as MONAI does."""
    low, high = edges[:, :3] - 0.5, edges[:, 3:] - 0.5
    first = of.to_world_mm(np.where(diagonal, high, low))
    second = of.to_world_mm(np.where(diagonal, low, high))
    return np.concatenate([np.minimum(first, second), np.maximum(first, second)], axis=1)


@pytest.mark.parametrize("name", ["sagittal", "oblique"])
def test_boxes_are_monais_own(folder: Path, name: str) -> None:
    """On flipped and on oblique series scores equal MONAI's to 1e-5, and boxes to the nearest voxel, where its own transform puts them."""
    volume: Volume = bundles.scene(grid(name, SHAPE, SPACING_MM))[0]
    wanted = detectors.of_monai(folder, volume)
    edges = detecting.edges(wanted.indices, wanted.affine, volume.grid)
    # MONAI's box around two corners is one of four, for axes that are turned; which one is the same for every box.
    diagonals = list(itertools.product((0, 1), repeat=2))
    off = [np.abs(corners_mm(volume.grid, edges, (0, *each)) - wanted.world_mm).max() for each in diagonals]
    assert min(off) < 1e-3

    found = bundles.predict(bundles.card(folder, *NODULE, labels={1: "Nodule"}), volume).findings
    kept = wanted.scores >= 0.3
    assert 3 <= kept.sum() < len(kept)
    by_score = sorted(found, key=lambda entry: -entry.score)
    order = [index for index in np.argsort(-wanted.scores, kind="stable") if kept[index]]
    assert np.allclose([entry.score for entry in by_score], wanted.scores[order], atol=1e-5)
    for entry, row in zip(by_score, edges[order], strict=True):
        shape = np.array(volume.grid.shape)
        low, high = np.clip(row[:3], 0, shape), np.clip(row[3:], 0, shape)
        assert np.abs(np.array(entry.box.low) - np.minimum(low, shape - 1)).max() <= 0.5 + 1e-3  # the last voxel at the most
        assert np.abs(np.array(entry.box.high) - high).max() <= 1.0 + 1e-3  # a box within one voxel is one voxel wide


def test_index_three_is_the_middle_of_voxel_three() -> None:
    """Indices count from voxel centres: a box from 1 to 3 along x, on an image twice as coarse and flipped, lies where it was put."""
    source = Grid(shape=(10, 10, 10), origin_mm=(0, 0, 0), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(1, 1, 1))
    # Index x of the image lies at LPS x = 9 - 2 x, so at RAS -9 + 2 x; y and z as in the source (RAS y = -y).
    affine = np.array([[2.0, 0, 0, -9.0], [0, -1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
    edges = detecting.edges(np.array([[1.0, 2.0, 3.0, 3.0, 4.0, 5.0]]), affine, source)
    assert np.allclose(edges, [[3.5, 2.5, 3.5, 5.5, 4.5, 7.5]], atol=1e-6)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"detector_ops": ["$@detector.set_atss_matcher(num_candidates=4)"]}, "detector_ops::0.*cannot be honoured"),
        ({"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8, 8]}}, "inferer: must be the model zoo's RetinaNetInferer"),
        (
            {"feature_extractor": "$monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor(@backbone,3,True)"},
            "pretrained",
        ),
        ({"detector_ops": ["$@detector.set_target_keys(box_key=__import__('os').name, label_key='label')"]}, "__import__"),
    ],
)
def test_what_cannot_be_honoured_is_named(tmp_path: Path, parts: dict[str, Any], said: str) -> None:
    """Another inferer, settings of training, fetched weights and expressions that reach out are refused when the card is loaded."""
    bundles.write(tmp_path, changed(INFERENCE, **parts), METADATA, weights=b"never read")
    with pytest.raises(BadCard, match=said):
        registry.load(bundles.card(tmp_path, *NODULE, labels={1: "Nodule"}), "cpu")


def test_a_detector_that_does_not_resample_is_refused(folder: Path) -> None:
    """The zoo's bundle takes images that somebody resampled before; anchors count voxels, so the card must switch its Spacingd on."""
    with pytest.raises(BadCard, match="whether_raw_luna16 = true"):
        registry.load(bundles.card(folder, *NODULE[:2], labels={1: "Nodule"}), "cpu")


def test_a_draft_asks_for_what_a_detector_does_not_tell(tmp_path: Path) -> None:
    """The draft is of boxes, one finding a class; the zoo names no class, so name, codes and threshold are asked for."""
    bundles.write(tmp_path, INFERENCE, METADATA, weights=b"never read")
    draft = drafts.inspect(tmp_path)
    assert draft.card["output"] == {"kind": "boxes", "inverse": "runtime", "labels": [{"index": 1, "kind": "finding"}]}
    assert {"output.labels.1.label", "output.labels.1.type", "output.labels.1.threshold"} <= {entry.key for entry in draft.missing}
    assert draft.notes == ("1 channels in; a detector of 1 classes, whose boxes become findings",)


def test_the_pyramid_is_a_table_before_it_is_built() -> None:
    """A call in an expression becomes a target with arguments by name; references stay references."""
    made, faults = reading_of.prepared(INFERENCE)
    assert not faults
    assert made["feature_extractor"] == {
        "_target_": reading_of.EXTRACTOR,
        "backbone": "$@backbone",
        "spatial_dims": 3,
        "pretrained_backbone": False,
        "returned_layers": [1, 2],
        "trainable_backbone_layers": None,
    }
    assert made["detector_ops"]["set_sliding_window_inferer"]["roi_size"] == "$@infer_patch_size"
    assert pyramid.CHANNELS == 256
