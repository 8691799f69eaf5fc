"""Every format of one file, saved by its own library, goes from the file to a checked model."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.models import networks
from tests.models.test_shelf import FILLED
from tests.overread.front import overread
from tests.overread.test_models_add import sets

NETWORK = ("runtime.options.network", "runtime.options.arguments")


@pytest.mark.parametrize("ending", [".ts", ".pt2", ".onnx", ".safetensors"])
def test_a_file_of_each_format_is_added_and_holds(tmp_path: Path, ending: str) -> None:
    """The draft asks for what this format needs and no more; filled in, the model runs on made-up images."""
    (tmp_path / "overread.toml").write_text(f'[node]\ndata_dir = "{tmp_path / "data"}"\n[models]\nstarters = false\n', encoding="utf-8")
    where = ("--dir", str(tmp_path / "models"), "--config", str(tmp_path / "overread.toml"), "--json")
    file = networks.save(tmp_path / f"net{ending}")
    said = {key: value for key, value in FILLED.items() if ending == ".safetensors" or key not in NETWORK}
    said["runtime.options.window"] = list(networks.WINDOW)
    added = overread("models", "add", str(file), *where)
    assert added.code == 0, added.error
    asked = {key for key in json.loads(added.out)["missing"] if key.startswith("runtime")}
    assert asked <= set(said)
    filled = overread("models", "add", str(file), *sets(said), *where)
    assert json.loads(filled.out)["missing"] == {}, filled.error
    checked = overread("models", "check", "net", *where)
    assert checked.code == 0, (checked.out, checked.error)
    assert [trial["holds"] for trial in json.loads(checked.out)["trials"]] == [True, True]
    fewer = {key: value for key, value in said.items() if not key.startswith("output.labels.2")} | {
        "runtime.options.organ_channels": [0, 1]
    }
    wrong = overread("models", "add", str(file), "--name", "wrong", *sets(fewer), *where)
    assert wrong.code == 0, wrong.error
    refused = overread("models", "check", "wrong", *where)
    assert (refused.code, refused.out) == (2, "")
    assert "channel" in refused.error


def test_an_onnx_graph_with_weights_beside_it_holds(tmp_path: Path) -> None:
    """A folder with a graph and its weights in a file of their own: both are pinned, and the model runs."""
    (tmp_path / "overread.toml").write_text(f'[node]\ndata_dir = "{tmp_path / "data"}"\n[models]\nstarters = false\n', encoding="utf-8")
    where = ("--dir", str(tmp_path / "models"), "--config", str(tmp_path / "overread.toml"), "--json")
    (tmp_path / "net").mkdir()
    graph = onnx.load(str(networks.save(tmp_path / "whole.onnx")))
    onnx.save(graph, str(tmp_path / "net" / "net.onnx"), save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    said = {key: value for key, value in FILLED.items() if key not in NETWORK} | {"runtime.options.window": list(networks.WINDOW)}
    filled = overread("models", "add", str(tmp_path / "net"), *sets(said), *where)
    assert json.loads(filled.out)["missing"] == {}, filled.error
    checked = overread("models", "check", "net", *where)
    assert checked.code == 0, (checked.out, checked.error)
    (tmp_path / "models" / "net" / "net.onnx.data").write_bytes(b"other")
    assert "sha256" in overread("models", "check", "net", *where).error
