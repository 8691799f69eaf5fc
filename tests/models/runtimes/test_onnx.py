"""ONNX: weights beside the graph are the card's own files, and nothing else is opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.external_data_helper import convert_model_to_external_data

from models import registry
from models.card import BadCard
from models.vocabulary import Volume
from tests.models import programs
from tests.models.grids import grid
from tests.models.shelf import labels, shelve

OPTIONS = "window = [8, 8, 8]\norgan_channels = [0, 1]\n"
OUTPUT = "labels\n" + labels("organ")


def whole() -> bytes:
    """Give a graph with its weights inside."""
    return programs.onnx(programs.random(1, 2, seed=4), torch.zeros(1, 1, 8, 8, 8))["weights"][1]


def split(folder: Path, location: str = "network.onnx.data") -> tuple[bytes, bytes]:
    """Give the same graph and its weights apart, as ONNX writes them; the graph says where they lie."""
    folder.mkdir(parents=True, exist_ok=True)
    model = onnx.load_model_from_string(whole())
    convert_model_to_external_data(model, all_tensors_to_one_file=True, location="network.onnx.data", size_threshold=0)
    onnx.save(model, str(folder / "network.onnx"))
    bare = onnx.load(str(folder / "network.onnx"), load_external_data=False)
    for tensor in bare.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    return bare.SerializeToString(), (folder / "network.onnx.data").read_bytes()


def test_weights_beside_the_graph_are_read_from_the_card_s_own_file(tmp_path: Path) -> None:
    """Named in the card and pinned, they give what the graph with its weights inside gives."""
    graph, data = split(tmp_path / "made")
    files = {"weights": ("network.onnx", graph), "weights-data": ("network.onnx.data", data)}
    volume = Volume(array=np.random.default_rng(2).normal(0, 1, (10, 12, 9)).astype(np.float32), grid=grid("axial", (10, 12, 9)), unit="1",
                    modality="MR")  # fmt: skip
    both = [
        registry.load(shelve(tmp_path / name, "onnx", these, OPTIONS, OUTPUT), "cpu").predict({"ct": volume}, lambda _: None)
        for name, these in (("apart", files), ("inside", {"weights": ("network.onnx", whole())}))
    ]
    assert np.array_equal(both[0].labels, both[1].labels)
    assert 0 < np.count_nonzero(both[0].labels) < both[0].labels.size


@pytest.mark.parametrize("location", ["network.onnx.data", "../../../etc/passwd", "/etc/passwd"])
def test_weights_the_card_does_not_name_are_refused(tmp_path: Path, location: str) -> None:
    """A graph may not say which file of the machine is read: what is not pinned is not opened, whether it is there or not."""
    graph, _ = split(tmp_path / "made", location)
    with pytest.raises(BadCard, match="which the card does not name"):
        registry.load(shelve(tmp_path, "onnx", {"weights": ("network.onnx", graph)}, OPTIONS, OUTPUT), "cpu")


@pytest.mark.parametrize("where", ["a constant", "a branch", "a function"])
def test_no_tensor_anywhere_in_the_graph_may_lie_elsewhere(tmp_path: Path, where: str) -> None:
    """Not among the weights alone: constants, the branches of conditions and the graph's own functions are looked through too."""
    outside = onnx.helper.make_tensor("outside", onnx.TensorProto.FLOAT, [1], [0.0])
    outside.ClearField("float_data")
    outside.data_location = onnx.TensorProto.EXTERNAL
    entry = outside.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    constant = onnx.helper.make_node("Constant", [], ["c"], value=outside)
    model = onnx.load_model_from_string(whole())
    if where == "a constant":
        model.graph.node.append(constant)
    elif where == "a branch":
        shape = [onnx.helper.make_tensor_value_info("c", onnx.TensorProto.FLOAT, [1])]
        branch = onnx.helper.make_graph([constant], "branch", [], shape)
        model.graph.node.append(onnx.helper.make_node("If", ["seen"], ["d"], then_branch=branch, else_branch=branch))
    else:
        opset = [onnx.helper.make_opsetid("", 20)]
        model.functions.append(onnx.helper.make_function("own", "f", [], ["c"], [constant], opset))
    with pytest.raises(BadCard, match="which the card does not name"):
        registry.load(shelve(tmp_path, "onnx", {"weights": ("w", model.SerializeToString())}, OPTIONS, OUTPUT), "cpu")


def test_a_weights_file_that_is_too_short_or_not_needed_is_refused(tmp_path: Path) -> None:
    """A file from another export fails at load, not by wrong numbers."""
    graph, data = split(tmp_path / "made")
    short = {"weights": ("network.onnx", graph), "weights-data": ("network.onnx.data", data[:-8])}
    with pytest.raises(BadCard, match="shorter than the graph says"):
        registry.load(shelve(tmp_path / "short", "onnx", short, OPTIONS, OUTPUT), "cpu")
    more = {"weights": ("network.onnx", whole()), "weights-data": ("network.onnx.data", data)}
    with pytest.raises(BadCard, match="has no weights in"):
        registry.load(shelve(tmp_path / "more", "onnx", more, OPTIONS, OUTPUT), "cpu")


def test_operations_of_another_domain_are_refused(tmp_path: Path) -> None:
    """A graph that needs a library of native code is refused with the domain's name."""
    model = onnx.load_model_from_string(whole())
    model.graph.node[1].domain = "com.example.kernels"
    model.opset_import.append(onnx.helper.make_opsetid("com.example.kernels", 1))
    with pytest.raises(BadCard, match=r"operations of 'com\.example\.kernels'"):
        registry.load(shelve(tmp_path, "onnx", {"weights": ("w", model.SerializeToString())}, OPTIONS, OUTPUT), "cpu")


def test_a_graph_in_half_precision_is_told_as_such(tmp_path: Path) -> None:
    """What the graph computes in is recorded, whatever was asked for."""
    network = programs.random(1, 2, seed=4).half()
    files = programs.onnx(network, torch.zeros(1, 1, 8, 8, 8, dtype=torch.float16))
    of = grid("axial", (8, 8, 8))
    shown = Volume(array=np.ones(of.shape, dtype=np.float32), grid=of, unit="1", modality="MR")
    prediction = registry.load(shelve(tmp_path, "onnx", files, OPTIONS, OUTPUT), "cpu").predict({"ct": shown}, lambda _: None)
    assert prediction.variant["precision"] == "float16"
