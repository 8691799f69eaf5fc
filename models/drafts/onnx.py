"""An ONNX file: names and shapes of its input and output, and its opset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.card import BadCard
from models.drafts import WINDOWED, Draft, Source
from models.shelving import archives


def _is_one(path: Path) -> bool:
    return path.suffix == ".onnx"


def recognise(path: Path) -> bool:
    """Tell an ONNX file, or a folder with one."""
    return archives.only_file(path, _is_one) is not None


def draft(path: Path) -> Draft:
    """Read the graph's description, and where weights outside the file lie; raises BadCard."""
    file = archives.only_file(path, _is_one)
    assert file is not None
    graph, opset = _graph(file)
    weights = {entry.name for entry in graph.initializer}
    takes = [entry for entry in graph.input if entry.name not in weights]
    gives = list(graph.output)
    if len(takes) != 1 or len(gives) != 1:
        raise BadCard(f"{file}: takes {len(takes)} tensors and gives {len(gives)}; a network of one and one is taken")
    shape = _shape(takes[0])
    window = [size for size in shape[2:] if isinstance(size, int)]
    fixed = bool(window) and len(window) == len(shape) - 2
    return Draft(
        format="onnx",
        card={"runtime": {"format": "onnx", "options": {"window": window} if fixed else {}}},
        files={"weights": Source(path=file, place="network.onnx"), **_outside(file, graph)},
        missing=tuple(entry for entry in WINDOWED if not (fixed and entry.key.endswith(".window"))),
        notes=(f"{takes[0].name} {shape} -> {gives[0].name} {_shape(gives[0])}, opset {opset}",),
    )


def _graph(file: Path) -> tuple[Any, int]:
    try:
        import onnx  # noqa: PLC0415 -- an extra, and slow to import
        from google.protobuf.message import DecodeError  # noqa: PLC0415
    except ImportError:
        raise BadCard(f"{file}: reading ONNX files needs the package onnx; install overread[onnx]") from None
    try:
        model = onnx.load(str(file), load_external_data=False)
    except (DecodeError, OSError) as error:
        raise BadCard(f"{file}: is no ONNX file that can be read ({error})") from None
    if not model.graph.node:
        raise BadCard(f"{file}: holds no network")
    return model.graph, max((entry.version for entry in model.opset_import if entry.domain in {"", "ai.onnx"}), default=0)


def _shape(entry: Any) -> list[int | str]:
    """Give a tensor's sizes; a size that is left open by its name, or "any"."""
    return [size.dim_value if size.HasField("dim_value") else size.dim_param or "any" for size in entry.type.tensor_type.shape.dim]


def _outside(file: Path, graph: Any) -> dict[str, Source]:
    """Name the files beside it that hold weights; raises BadCard where one is missing or lies elsewhere."""
    found: dict[str, Source] = {}
    for entry in graph.initializer:
        for location in (part.value for part in entry.external_data if part.key == "location"):
            path = file.parent / location
            if Path(location).name != location or not path.is_file():
                raise BadCard(f"{file}: keeps weights in {location!r}, which does not lie beside it")
            found[f"weights-{len(found) + 1}"] = Source(path=path, place=location)
    return {name: source for number, (name, source) in enumerate(found.items()) if source not in list(found.values())[:number]}
