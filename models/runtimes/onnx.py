"""ONNX, run by ONNX Runtime: the extra `onnx`. A graph of standard operations with its weights; nothing else is opened.

Weights in files of their own (model.onnx.data) must be named in the card, so that their hash is pinned like the graph's: a path
in the graph is never followed. Operations of other domains need a library of native code, which this node does not load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from models.card import ShelvedCard
from models.networks.program import Program
from models.pipelines import pipeline, stages

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
FLOAT, FLOAT16 = "tensor(float)", "tensor(float16)"
MOST_BYTES = 2**31 - 1  # of one graph with its weights. Ref: protobuf's own limit


def load(shelved: ShelvedCard, device: str) -> pipeline.Pipeline:
    """Load the card's graphs and prove that they fit it; raises BadCard."""
    return pipeline.load(shelved, device, stages.Stage, program)


def program(asked: stages.Asked) -> Program:
    """Open one graph with its weights (by the names they have on disk); raises ValueError."""
    try:
        import onnxruntime  # noqa: PLC0415 -- an extra
    except ImportError:
        raise ValueError("ONNX needs ONNX Runtime: install overread[onnx]") from None
    content = self_contained(asked.files)
    providers = onnxruntime.get_available_providers()
    on_cuda = asked.device.startswith("cuda") and "CUDAExecutionProvider" in providers
    chosen: list[Any] = [("CUDAExecutionProvider", cuda_options(asked.device))] if on_cuda else []
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=[*chosen, "CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 -- ONNX Runtime's errors share no base of their own
        raise ValueError(f"ONNX Runtime cannot load the graph: {str(error).strip().splitlines()[0][:300]}") from _told(error)
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in {FLOAT, FLOAT16}:
        raise ValueError(f"the graph takes {[entry.type for entry in inputs]}; one tensor of floats is what this node gives")
    ran_on = "cuda" if session.get_providers()[0] == "CUDAExecutionProvider" else "cpu"
    return Program(
        run=_Session(session, asked.device, np.dtype(np.float16 if inputs[0].type == FLOAT16 else np.float32)),
        device=asked.device,
        single=isinstance(inputs[0].shape[0], int),
        facts={
            "runtime": "onnx",
            "provider": ran_on,
            "precision": "float16" if inputs[0].type == FLOAT16 else "float32",
            "onnxruntime": str(onnxruntime.__version__),
            "torch": str(torch.__version__),
        },
    )


def cuda_options(device: str) -> dict[str, Any]:
    """Give the provider's options: TF32, its own choice on newer GPUs, would round float32 to 10 bits."""
    return {"device_id": torch.device(device).index or 0, "cudnn_conv_algo_search": "DEFAULT", "use_tf32": 0}


def _told(error: Exception) -> RuntimeError:
    """Give ONNX Runtime's error, a plain Exception, as torch's are: whoever runs models reads in them that memory ran out."""
    told = RuntimeError(str(error))
    told.__cause__ = error
    return told


class _Session:
    """A session, from torch's tensors to torch's tensors."""

    def __init__(self, session: Any, device: str, kind: np.dtype[Any]) -> None:
        self._session, self._device, self._kind = session, device, kind
        self._name = session.get_inputs()[0].name

    def __call__(self, windows: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = {self._name: windows.cpu().numpy().astype(self._kind, copy=False)}
        try:
            found = self._session.run(None, given)
        except Exception as error:
            if type(error).__module__.startswith("onnxruntime"):
                raise _told(error) from error
            raise
        return tuple(torch.from_numpy(np.array(part)).to(self._device) for part in found)


def self_contained(files: Mapping[str, bytes]) -> bytes:
    """Give the graph with all its weights inside it, from the card's own files; raises ValueError.

    files  the graph first, then what its weights lie in, by file name
    """
    try:
        import onnx  # noqa: PLC0415 -- an extra
    except ImportError:
        raise ValueError("ONNX needs the package onnx: install overread[onnx]") from None
    (_, content), *others = files.items()
    beside = dict(others)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # noqa: BLE001 -- protobuf's DecodeError has no stable home
        raise ValueError(f"the file is no ONNX graph: {error}") from None
    if not model.graph.node:
        raise ValueError("the file is no ONNX graph: it has no operation")
    _domains_are_known(model)
    used = set()
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            used.add(_take_in(tensor, beside, onnx))
    if unused := set(beside) - used:
        raise ValueError(f"the graph has no weights in {min(unused)}")
    if not used:
        return content
    if sum(map(len, files.values())) > MOST_BYTES:
        raise ValueError("the graph and its weights are larger than 2 GiB together, which ONNX Runtime does not take from memory")
    return bytes(model.SerializeToString())


def _domains_are_known(model: Any) -> None:
    """Refuse operations that neither ONNX nor the graph itself defines; raises ValueError."""
    own = {function.domain for function in model.functions}
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    strange = {entry.domain for entry in model.opset_import} | {node.domain for node in nodes}
    if strange := strange - DOMAINS - own:
        raise ValueError(f"the graph needs operations of {min(strange)!r}, which are native code this node does not load")


def _tensors(model: Any) -> Iterator[Any]:
    """Give every stored tensor: of the graph, of the graphs inside it, and of the functions it defines."""
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        for graph in graphs:
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
            nodes += graph.node
        attributes = [attribute for node in nodes for attribute in node.attribute]
        graphs, nodes = [], []
        for attribute in attributes:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            graphs += [attribute.g, *attribute.graphs]


def _take_in(tensor: Any, beside: Mapping[str, bytes], onnx: Any) -> str:
    """Copy a tensor's bytes from the file they lie in; give that file's name. Raises ValueError."""
    where = {entry.key: entry.value for entry in tensor.external_data}
    name = str(where.get("location", ""))
    if name not in beside:
        raise ValueError(f"the graph's weights lie in {name!r}, which the card does not name in runtime.files: its hash must be pinned too")
    try:
        start, size = int(where.get("offset", 0)), int(where.get("length", len(beside[name])))
    except ValueError:
        raise ValueError(f"the graph says no place of its weights in {name!r}") from None
    if start < 0 or size < 0 or start + size > len(beside[name]):
        raise ValueError(f"the weights' file {name!r} is shorter than the graph says")
    tensor.raw_data = beside[name][start : start + size]
    del tensor.external_data[:]
    tensor.data_location = onnx.TensorProto.DEFAULT
    return name
