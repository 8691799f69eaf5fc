"""MONAI's networks by name."""

from __future__ import annotations

import pytest
import torch
from monai.networks import nets

from models.networks import network


class Vast(torch.nn.Module):
    """Asks the device for more than it has, as torch says it on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96.00 GiB")


def test_no_room_on_the_device_is_no_fault_of_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network for which the device has no room just now is not called wrong: another model may leave first."""
    monkeypatch.setattr(nets, "Vast", Vast, raising=False)
    with pytest.raises(torch.OutOfMemoryError):
        network.build("Vast", {}, "cpu")


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("NoNet", {}, "has no network"),
        ("UNet", {"spatial_dims": 3}, "cannot be built"),
        ("UNet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [2], "strides": []}, "cannot be built"),
    ],
)
def test_wrong_words_in_a_card_are_told(name: str, arguments: dict[str, object], words: str) -> None:
    """A network that does not exist, or that its arguments do not fit, is a wrong card."""
    with pytest.raises(ValueError, match=words):
        network.build(name, arguments, "cpu")
