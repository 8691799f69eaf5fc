"""Scores become labels as nnU-Net's own export makes them, also where classes are level or nearly so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from numpy.typing import NDArray

from models.nnunet import labelling, plans, resampling
from models.nnunet.scores import Slab

SHAPES = [((7, 9, 8), (15, 20, 17)), ((12, 9, 8), (5, 9, 30)), ((6, 6, 6), (12, 12, 12)), ((1, 9, 9), (4, 20, 9))]
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "centre": 3}


def slabs(scores: NDArray[np.float16], sizes: list[int]) -> list[Slab]:
    """Cut scores into slabs of these planes, the rest in one."""
    found, start = [], 0
    while start < scores.shape[1]:
        size = sizes.pop(0) if sizes else scores.shape[1] - start
        found.append(Slab(start=start, scores=torch.from_numpy(scores[:, start : start + size])))
        start += size
    return found


@pytest.mark.parametrize("unit", [2.0**-24, 2.0**-6, 1.0], ids=["least halves", "next halves", "whole numbers"])
@pytest.mark.parametrize("regions", [False, True], ids=["classes", "regions"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (6.0, 1.0, 1.0), (1.0, 1.0, 6.0)], ids=["together", "z apart", "x apart"])
def test_labels_are_those_of_the_export_wherever_classes_are_level(spacing: tuple[float, ...], *, regions: bool, unit: float) -> None:
    """On random scores, many of them equal, every voxel gets the label that resampling all classes and the argmax give."""
    random = np.random.default_rng(4)
    heads = plans.heads(
        {"labels": REGIONS if regions else {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4}} | {"regions_class_order": [1, 2, 3]}
    )
    manager = LabelManager(REGIONS if regions else {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4}, [1, 2, 3] if regions else None)
    resampler = plans.Resampler(order=1, force_separate_z=None)
    for small, large in SHAPES:
        steps = random.integers(-2, 3, size=(len(heads.values), *small))
        scores = (steps * unit + (30 if unit == 2.0**-6 and not regions else 0)).astype(np.float16)
        exported = resample_data_or_seg_to_shape(scores, large, spacing, spacing, is_seg=False, order=1, order_z=0, force_separate_z=None)
        expected = np.asarray(manager.convert_logits_to_segmentation(exported))
        way = resampling.Way(resampler=resampler, shape=large, axis=resampling.apart(resampler, spacing, spacing))
        for sizes in ([], [1] * 20, [2, 1, 3]):
            found = labelling.label(slabs(scores, list(sizes)), small, way, heads)
            assert len(np.unique(expected)) > 2
            assert np.count_nonzero(found != expected) == 0
