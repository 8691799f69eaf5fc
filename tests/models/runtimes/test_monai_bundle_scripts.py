"""A bundle's own Python runs only where the card pins every file of it and an administrator has allowed it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from models import registry
from models.card import BadCard, ShelvedCard
from tests.models.grids import grid
from tests.models.runtimes import bundles
from tests.models.runtimes.bundles import INFERENCE, SHAPE, SPACING_MM, changed, predict, scene

NET = """
from monai.networks.nets import UNet

from scripts.parts.sizes import CHANNELS


class Own(UNet):
    def __init__(self, out_channels):
        super().__init__(3, 1, out_channels, channels=CHANNELS, strides=(2,), num_res_units=1)
"""
SIZES = "CHANNELS = (4, 8)\n"
ALLOWED = ("[runtime.options]", "[runtime.options]\nallow_scripts = true")


def brought(
    folder: Path, *replaced: tuple[str, str], pinned: tuple[str, ...] = ("scripts/net.py", "scripts/parts/sizes.py")
) -> ShelvedCard:
    """Write a bundle whose network is a class of its own, with the weights of the plain one, and pin some of its files."""
    bundles.write(folder, changed(INFERENCE, network_def={"_target_": "scripts.net.Own", "out_channels": 3}), weights=bundles.network())
    (folder / "scripts/parts").mkdir(parents=True)
    (folder / "scripts/net.py").write_text(NET)
    (folder / "scripts/parts/sizes.py").write_text(SIZES)
    pins = "".join(
        f'[runtime.files.script_{number}]\npath = "{path}"\nsha256 = "{hashlib.sha256((folder / path).read_bytes()).hexdigest()}"\n'
        for number, path in enumerate(pinned)
    )
    return bundles.card(folder, ("[runtime.options]", f"{pins}[runtime.options]"), *replaced)


def test_pinned_and_allowed_code_builds_the_network(tmp_path: Path) -> None:
    """A class of the bundle's own, which uses another of its files, gives what the same network of MONAI gives; nothing stays behind."""
    volume, _ = scene(grid("axial", SHAPE, SPACING_MM))
    labels = predict(brought(tmp_path / "own", ALLOWED), volume).labels
    expected = predict(bundles.card(bundles.write(tmp_path / "plain")), volume).labels
    assert np.array_equal(labels, expected)
    assert not [name for name in sys.modules if name.partition(".")[0] == "scripts"]


@pytest.mark.parametrize(
    ("replaced", "pinned", "reason"),
    [
        (
            (),
            ("scripts/net.py", "scripts/parts/sizes.py"),
            r"runtime\.files\.script_0: is code of the bundle's own; set allow_scripts = true",
        ),
        ((), (), r"network_def: scripts\.net\.Own is the bundle's own code: pin its file"),
        ((ALLOWED,), (), r"network_def: scripts\.net\.Own is the bundle's own code: pin its file"),
        ((ALLOWED,), ("scripts/net.py",), r"ModuleNotFoundError: scripts\.parts is not pinned in the card"),
        ((ALLOWED,), ("configs/metadata.json",), "a bundle's own code lies in its folder scripts"),
    ],
)
def test_code_that_is_not_pinned_or_not_allowed_is_refused(
    tmp_path: Path, replaced: tuple[tuple[str, str], ...], pinned: tuple[str, ...], reason: str
) -> None:
    """Every file must be pinned, also one that another imports, and the card must allow it."""
    with pytest.raises(BadCard, match=reason):
        registry.load(brought(tmp_path, *replaced, pinned=pinned), "cpu")
    assert not [name for name in sys.modules if name.partition(".")[0] == "scripts"]


def test_code_that_changed_is_not_run(tmp_path: Path) -> None:
    """One line more in a pinned script is found by its hash, before it runs."""
    shelved = brought(tmp_path, ALLOWED)
    mark = tmp_path / "mark"
    (tmp_path / "scripts/net.py").write_text(NET + f"open({str(mark)!r}, 'w').close()\n")
    with pytest.raises(BadCard, match="has sha256"):
        registry.load(shelved, "cpu")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["UNet", "CHANNELS", "Missing"])
def test_only_what_a_file_defines_is_a_target(tmp_path: Path, name: str) -> None:
    """What a script has imported, or a number in it, is no target: the card's reader would look for it in that file."""
    shelved = brought(tmp_path, ALLOWED)
    inference = changed(INFERENCE, network_def={"_target_": f"scripts.net.{name}"})
    (tmp_path / "configs/inference.json").write_text(bundles.json.dumps(inference))
    text = (tmp_path / "card.toml").read_text()
    pinned = shelved.card.runtime.files["inference"].sha256
    new = hashlib.sha256((tmp_path / "configs/inference.json").read_bytes()).hexdigest()
    (tmp_path / "card.toml").write_text(text.replace(pinned, new))
    with pytest.raises(BadCard, match="is no class or function of that file"):
        registry.load(bundles.read(tmp_path / "card.toml"), "cpu")
