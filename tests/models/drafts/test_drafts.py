"""What a site's files tell of themselves becomes a draft, and what they cannot tell is asked for."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import onnx
import pytest
import torch

from models import drafts
from models.card import BadCard
from models.shelving import keys
from tests.models import networks

FORMATS = {
    ".ts": "torchscript",
    ".pt2": "exported-program",
    ".onnx": "onnx",
    ".safetensors": "state-dict",
    ".pt": "state-dict",
    ".pth": "state-dict",
}


@pytest.mark.parametrize(("ending", "name"), FORMATS.items())
def test_each_format_is_recognised_as_a_file_and_as_the_one_of_a_folder(tmp_path: Path, ending: str, name: str) -> None:
    """A file and a folder with it and a text give the same draft, whose missing keys no file can tell."""
    file = networks.save(tmp_path / f"net{ending}")
    (tmp_path / "README.md").write_text("words")
    draft = drafts.inspect(file)
    assert draft.format == draft.card["runtime"]["format"] == name
    assert drafts.inspect(tmp_path) == draft
    assert [source.path for source in draft.files.values()] == [file]
    assert draft.files["weights"].pickled == (ending in {".pt", ".pth"})
    wanted = [entry.key for entry in draft.missing]
    assert len(set(wanted)) == len(wanted)
    assert {"model.licence", "model.intended_use", "inputs", "output.labels", "runtime.options.spacing_mm"} <= set(wanted)
    assert all(keys.value(draft.card, key) is None for key in wanted)


@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
def test_shapes_are_read_where_the_file_tells_them(tmp_path: Path, ending: str) -> None:
    """An exported program and an ONNX file tell the window, and their notes the channels."""
    draft = drafts.inspect(networks.save(tmp_path / f"net{ending}"))
    assert draft.card["runtime"]["options"]["window"] == list(networks.WINDOW)
    assert "runtime.options.window" not in [entry.key for entry in draft.missing]
    assert "[1, 1, 16, 16, 16] -> " in draft.notes[0]
    assert "[1, 3, 16, 16, 16]" in draft.notes[0]


def test_an_onnx_file_names_tensors_and_opset(tmp_path: Path) -> None:
    """The names of input and output and the opset are told as the file has them."""
    assert drafts.inspect(networks.save(tmp_path / "net.onnx")).notes[0].startswith("image [1, 1, 16, 16, 16] -> scores")


def test_a_torchscript_file_tells_its_forward(tmp_path: Path) -> None:
    """The class and forward's signature are read from the source in the file; a second input is refused."""
    assert "network UNet: forward(x: Tensor) -> Tensor" in drafts.inspect(networks.save(tmp_path / "net.ts")).notes[0]

    class Two(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    two = tmp_path / "two.ts"
    torch.jit.trace(Two(), (torch.zeros(1), torch.zeros(1))).save(str(two))  # type: ignore[no-untyped-call]
    with pytest.raises(BadCard, match="takes 2 inputs"):
        drafts.inspect(two)


def test_a_checkpoint_says_where_its_weights_were(tmp_path: Path) -> None:
    """The key of the weights and what was left out stand in the notes."""
    path = tmp_path / "last.pth"
    torch.save({"state_dict": networks.network().state_dict(), "optimizer": {"m": [torch.zeros(1)]}}, path)
    notes = " ".join(drafts.inspect(path).notes)
    assert "'state_dict'" in notes
    assert "optimizer" in notes
    assert "(4, 1, 3, 3, 3)" in notes


def test_nothing_and_several_are_clear_errors(tmp_path: Path) -> None:
    """An empty folder, a text, two formats in one folder and a missing path are each said so."""
    with pytest.raises(BadCard, match="no format this node reads"):
        drafts.inspect(tmp_path)
    text = tmp_path / "notes.txt"
    text.write_text("words")
    with pytest.raises(BadCard, match="no format"):
        drafts.inspect(text)
    networks.save(tmp_path / "a.ts")
    networks.save(tmp_path / "a.safetensors")
    with pytest.raises(BadCard, match="may be state_dict or torchscript"):
        drafts.inspect(tmp_path)
    with pytest.raises(BadCard, match="no such file"):
        drafts.inspect(tmp_path / "absent")


@pytest.mark.parametrize("ending", [".onnx", ".safetensors", ".pt"])
def test_broken_files_are_one_clear_error(tmp_path: Path, ending: str) -> None:
    """Half a file is refused with its name, not with a traceback of a library."""
    whole = networks.save(tmp_path / f"whole{ending}")
    half = tmp_path / f"half{ending}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(BadCard, match=f"half{ending}"):
        drafts.inspect(half)


def test_onnx_weights_beside_the_file_are_pinned_and_elsewhere_refused(tmp_path: Path) -> None:
    """Weights in a file of their own become a pinned file; a location outside the folder is an error."""
    model = onnx.load(str(networks.save(tmp_path / "net.onnx")))
    (tmp_path / "out").mkdir()
    onnx.save(model, str(tmp_path / "out" / "net.onnx"), save_as_external_data=True, location="net.weights", size_threshold=0)
    draft = drafts.inspect(tmp_path / "out")
    assert [source.place for source in draft.files.values()] == ["network.onnx", "net.weights"]
    shutil.copy(tmp_path / "out" / "net.onnx", tmp_path / "net.onnx")
    with pytest.raises(BadCard, match=r"net\.weights"):
        drafts.inspect(tmp_path / "net.onnx")


def test_no_file_is_run_by_being_looked_at(tmp_path: Path) -> None:
    """A checkpoint that would make a folder when unpickled is refused and makes none."""

    class Trap:
        def __reduce__(self) -> object:
            return os.mkdir, (str(tmp_path / "ran"),)

    path = tmp_path / "net.pth"
    path.write_bytes(pickle.dumps({"state_dict": Trap()}))
    with pytest.raises(BadCard, match=r"net\.pth"):
        drafts.inspect(path)
    assert not (tmp_path / "ran").exists()


def test_a_file_that_was_copied_in_part_is_called_so(tmp_path: Path) -> None:
    """Of a zip without its end it is said that it ends early, not that its format is unknown."""
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "whole.pt")
    (tmp_path / "part.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:2000])
    with pytest.raises(BadCard, match="ends early"):
        drafts.inspect(tmp_path / "part.pt")
