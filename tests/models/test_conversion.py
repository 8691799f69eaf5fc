"""Pickled checkpoints become safetensors, and code in them never runs."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load

from models.card import BadCard
from models.shelving import conversion
from tests.models import networks


class Trap:
    """Pickles as a call that makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_an_nnunet_like_checkpoint_gives_weights_and_plain_values(tmp_path: Path) -> None:
    """The network's tensors come out equal beside numpy's scalars; the optimiser's state is left out and named."""
    state = networks.network().state_dict()
    other = {
        "trainer_name": "nnUNetTrainer",
        "current_epoch": 1000,
        "_best_ema": np.float64(0.75),
        "inference_allowed_mirroring_axes": (0, 1, 2),
        "logging": {"mean_fg_dice": [np.float32(0.5), float("nan")]},
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01}]},
    }
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": state, **other}, path)
    assert conversion.is_pickled(path)
    read = conversion.convert(path)
    back = load(read.safetensors())
    assert read.found_at == "network_weights"
    assert {name: tensor.numpy().tobytes() for name, tensor in back.items()} == {n: t.numpy().tobytes() for n, t in state.items()}
    assert read.rest == {
        "trainer_name": "nnUNetTrainer",
        "current_epoch": 1000,
        "_best_ema": 0.75,
        "inference_allowed_mirroring_axes": [0, 1, 2],
        "logging": {"mean_fg_dice": [0.5, None]},
    }
    assert read.left_out == ("optimizer_state",)


def test_types_and_shared_tensors_are_kept_and_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    """Half precision and integers keep their types; two names of one tensor both come out; a second reading gives equal bytes."""
    shared = torch.arange(6, dtype=torch.float16).reshape(2, 3)
    path = tmp_path / "weights.pt"
    torch.save({"b": shared, "a": shared.T, "count": torch.tensor(3)}, path)
    first, second = conversion.convert(path).safetensors(), conversion.convert(path).safetensors()
    back = load(first)
    assert first == second
    assert (back["b"].dtype, back["count"].dtype) == (torch.float16, torch.int64)
    assert torch.equal(back["b"], shared)
    assert torch.equal(back["a"], shared.T)


def test_one_tensor_of_several_names_is_written_once_where_that_is_asked(tmp_path: Path) -> None:
    """Two names of one tensor take its room once for a runtime that ties them, and twice for all others; a part of it is its own."""
    tensor = torch.arange(6.0)
    path = tmp_path / "tied.pt"
    torch.save({"b": tensor, "a": tensor, "part": tensor[:3]}, path)
    read = conversion.convert(path)
    assert sorted(load(read.safetensors(once=True))) == ["a", "part"]
    assert sorted(load(read.safetensors())) == ["a", "b", "part"]
    assert torch.equal(load(read.safetensors())["b"], tensor)


def test_the_prefix_of_several_devices_goes(tmp_path: Path) -> None:
    """Names that all begin with "module." lose it, as the network without DataParallel has them."""
    path = tmp_path / "parallel.pt"
    torch.save({"state_dict": {"module.a": torch.ones(1), "module.b": torch.ones(1)}}, path)
    assert sorted(conversion.convert(path).tensors) == ["a", "b"]


@pytest.mark.parametrize("form", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "pickles"])
def test_code_in_a_pickle_is_named_and_not_run(tmp_path: Path, form: dict[str, bool]) -> None:
    """A pickle that would call a function is refused with the function's name, in both of torch's forms and as a bare pickle."""
    mark, path = tmp_path / "ran", tmp_path / "trap.pt"
    torch.save({"state_dict": {"a": torch.ones(1)}, "hook": Trap(mark)}, path, **form)  # type: ignore[arg-type]
    with pytest.raises(BadCard, match=r"code in it: it asks for posix\.mkdir"):
        conversion.convert(path)
    path.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(BadCard, match=r"trap\.pt"):
        conversion.convert(path)
    assert not mark.exists()


def test_a_whole_pickled_network_is_refused_with_its_class(tmp_path: Path) -> None:
    """A network saved as an object names its class, and what to save instead."""
    path = tmp_path / "whole.pt"
    torch.save(networks.network(), path)
    with pytest.raises(BadCard, match=r"monai\.networks\.nets\.unet\.UNet.*state_dict\(\)"):
        conversion.convert(path)


def test_an_ambiguous_checkpoint_asks_which(tmp_path: Path) -> None:
    """Two tables that both may be the network's are not guessed between; a key decides."""
    path = tmp_path / "two.pt"
    torch.save({"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.zeros(1)}}, path)
    with pytest.raises(BadCard, match="state_dict, model"):
        conversion.convert(path)
    assert conversion.convert(path, "model").tensors["a"].item() == 1
    with pytest.raises(BadCard, match="'ema' is no table of tensors"):
        conversion.convert(path, "ema")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x80\x02", b"\x08\x08no pickle"])
def test_broken_files_are_one_clear_error(tmp_path: Path, content: bytes) -> None:
    """What is no checkpoint is said to be none, whatever it is."""
    path = tmp_path / "broken.pt"
    path.write_bytes(content)
    with pytest.raises(BadCard, match="cannot be read as a checkpoint"):
        conversion.convert(path)
