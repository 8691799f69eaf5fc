"""What the libraries that run networks say of memory and precision: read as torch's own words are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from models import registry
from models.runtimes import onnx as runtime
from models.vocabulary import Volume
from node.errors import Retryable
from tests import planted, shelf
from tests.models import programs
from tests.models.shelf import labels, shelve
from workers.gpu import ladder, memory

WINDOW = (12, 16, 12)
OPTIONS = f"window = {list(WINDOW)}\norgan_channels = [0, 1, 2]\n"
OUTPUT = "labels\n" + labels("organ", "organ")


def too_large() -> Any:
    """Give a session of a graph that asks for 4 TB once it is run."""
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [2], [2**20, 2**20])
    nodes = [
        helper.make_node("ConstantOfShape", ["sizes"], ["many"]),
        helper.make_node("ReduceSum", ["many"], ["sum"], keepdims=0),
        helper.make_node("Add", ["seen", "sum"], ["scores"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("seen", "scores")]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], [sizes])
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def test_memory_that_runs_out_in_a_graph_is_known() -> None:
    """ONNX Runtime's own error, which is no RuntimeError, reads as memory."""
    run = runtime._Session(too_large(), "cpu", np.dtype(np.float32))
    with pytest.raises(RuntimeError) as caught:
        run(torch.ones(1))
    assert memory.ran_out(caught.value)


@pytest.mark.parametrize("name", ["exported-program", "onnx"])
def test_memory_that_runs_out_while_a_file_is_opened_is_no_fault_of_its_card(
    tmp_path: Path, series: dict[str, Volume], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A real failed allocation inside the library that opens the file: the job waits for memory, and does not fail for good."""
    make = programs.onnx_for_one if name == "onnx" else programs.exported_for_one
    shelved = shelve(tmp_path, name, make(programs.random(1, 3), torch.zeros(1, 1, *WINDOW)), OPTIONS, OUTPUT)
    session = too_large()
    monkeypatch.setattr(torch.export, "load", lambda *_args: torch.empty(2**60))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_args, **_more: session.run(None, {"seen": np.ones(1, np.float32)}))
    with pytest.raises(Retryable, match="the model itself does not fit"):
        ladder.predict(shelved, series, "cpu", ladder.Policy())


def test_float32_is_not_rounded_to_tf32(tmp_path: Path) -> None:
    """Whatever was set before, a loaded model's process computes float32 in full, in torch and in ONNX Runtime."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    registry.load(planted.read(shelf.put(tmp_path) / "two-parts" / "card.toml"), "cpu")
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (False, False)
    assert runtime.cuda_options("cuda:1") == {"device_id": 1, "cudnn_conv_algo_search": "DEFAULT", "use_tf32": 0}
