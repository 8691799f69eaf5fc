"""Estimates of memory beside real peaks, each in a process of its own (bench/need.py prints the whole table)."""

from __future__ import annotations

import sys

import pytest

from bench import need

SMALL = need.SIZES[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from the kernel's account")
@pytest.mark.parametrize("name", ["state-dict", "torchscript", "onnx", "monai-bundle, 24 classes", "nnunet, 24 classes"])
def test_an_estimate_is_near_the_peak(name: str) -> None:
    """What a prediction is thought to take is no less than 0.8 of what it takes, and no more than 1.8: the bench's 1.5, and leeway."""
    case = need.measure(name, SMALL)
    assert 0.8 <= case["need_mb"] / case["peak_mb"] <= 1.8
