"""What `overread check` says of devices."""

from __future__ import annotations

import os

import pytest

from node.errors import OverreadError
from node.settings import Settings
from overread.commands import check
from workers import gpu


def test_the_line_names_device_precision_and_budget() -> None:
    """Of each device: its name, in which precision networks run, and what warm models may take of what there is."""
    device = gpu.devices(("auto",))[0]
    told = check._device(Settings.model_validate({"workers": {"memory_budget_gb": 1.5}}))
    assert told.startswith(device)
    assert ": float32, warm models take up to 1.5 GB of " in told
    assert "; one process each; torch " in told


def test_half_precision_that_is_not_there_fails_the_line() -> None:
    """Where the setting insists on half precision and the device has none the check says so before a study does."""
    settings = Settings.model_validate({"workers": {"devices": ["cpu"], "precision": "float16"}})
    line = check._try("device", lambda: check._device(settings), "")
    assert not line.holds
    assert "does not compute in half precision" in line.detail


def test_a_gpu_that_torch_cannot_use_fails_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an NVIDIA device node and a torch without CUDA would run everything on the processor: that is told."""
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/dev/nvidia0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(OverreadError, match=r"torch .* cannot use it"):
        check._device(Settings())
