"""Exported programs: whatever in an archive torch would run as Python is refused, and is not run by refusing it."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from models import registry
from models.card import BadCard
from models.pipelines import stages
from models.runtimes import exported_program
from tests.models import programs
from tests.models.shelf import labels, shelve

OPTIONS = "window = [8, 8, 8]\norgan_channels = [0, 1]\n"


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def archive() -> bytes:
    """Give a good archive."""
    return programs.exported(programs.random(1, 2), torch.zeros(1, 1, 8, 8, 8))["weights"][1]


def changed(content: bytes, parts: dict[str, bytes]) -> bytes:
    """Give an archive with parts of it replaced or added, by their names below its root."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(buffer, "w") as after:
        root = before.namelist()[0].partition("/")[0]
        for name in before.namelist():
            after.writestr(name, parts.get(name.partition("/")[2], before.read(name)))
        for name in parts.keys() - {entry.partition("/")[2] for entry in before.namelist()}:
            after.writestr(f"{root}/{name}", parts[name])
    return buffer.getvalue()


def with_graph(content: bytes, old: str, new: str) -> bytes:
    """Give an archive whose graph says something else."""
    with zipfile.ZipFile(io.BytesIO(content)) as before:
        text = before.read(f"{before.namelist()[0].partition('/')[0]}/models/model.json").decode()
    assert old in text
    return changed(content, {"models/model.json": text.replace(old, new).encode()})


def pickled_weight(content: bytes) -> bytes:
    """Give an archive one of whose weights is said to be pickled."""
    name = "data/weights/model_weights_config.json"
    with zipfile.ZipFile(io.BytesIO(content)) as before:
        config = json.loads(before.read(f"{before.namelist()[0].partition('/')[0]}/{name}"))
    next(iter(config["config"].values()))["use_pickle"] = True
    return changed(content, {name: json.dumps(config).encode()})


def test_a_good_archive_holds_no_code() -> None:
    """What torch.export.save writes passes, also when the archive was packed again."""
    exported_program.without_code(archive())
    exported_program.without_code(changed(archive(), {"extra/note.txt": b"made here"}))


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ("data/sample_inputs/model.pt", "more than tensors"),
        ("data/constants/opaque_obj_0", "pickled objects"),
        ("data/constants/custom_obj_0", "pickled objects"),
        ("data/weights/model.pt", "pickled objects"),
        ("data/aotinductor/model/code.so", "compiled code"),
        ("models/second.json", "one program"),
    ],
)
def test_a_part_that_could_be_code_is_refused_and_not_run(tmp_path: Path, part: str, reason: str) -> None:
    """A pickle that would write a file: the card is bad, and no file is written."""
    trap = tmp_path / "sprung"
    content = changed(archive(), {part: pickle.dumps(Trap(trap))})
    with pytest.raises(BadCard, match=reason):
        registry.load(shelve(tmp_path, "exported-program", {"weights": ("w.pt2", content)}, OPTIONS, "labels\n" + labels("organ")), "cpu")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("torch.ops.aten.relu.default", "torch.hub.load", "no operation of torch's own"),
        ("torch.ops.aten.relu.default", "torch.ops.mine.relu.default", "no operation of torch's own"),
        ("Symbol('", "__import__('os').mkdir('", "a formula that is none"),
        ("Symbol('", "open('", "a formula that is none"),
    ],
)
def test_a_graph_that_calls_something_else_is_refused(old: str, new: str, reason: str) -> None:
    """Torch looks names up in its own modules and evaluates formulas; neither may leave its arithmetic."""
    with pytest.raises(ValueError, match=reason):
        exported_program.without_code(with_graph(archive(), old, new))


def test_pickled_tensors_are_refused() -> None:
    """A weight that the archive's table calls pickled is not opened."""
    with pytest.raises(ValueError, match="pickled tensors"):
        exported_program.without_code(pickled_weight(archive()))


def test_a_program_with_types_of_its_own_runs_where_half_precision_is_asked_for() -> None:
    """Under autocast such a graph breaks off; it runs as it was written, and says so."""

    class Casting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = programs.random(1, 3)

        def forward(self, seen: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.inner(seen)
            return scores.to(torch.float32).exp()

    content = programs.saved(torch.export.export(Casting().eval(), (torch.zeros(1, 1, 8, 8, 8),)))
    opened = exported_program.program(stages.Asked(stage=None, files={"network.pt2": content}, device="cpu", roles=1))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = opened(torch.ones(1, 1, 8, 8, 8))
    assert (found.dtype, opened.facts["precision"]) == (torch.float32, "float32")
