"""torch.export: an ExportedProgram in a .pt2 archive. What in it would run as Python is refused before torch opens it.

torch.export.load unpickles some parts of an archive and evaluates the formulas of its shapes, so that an archive can hold code
in four places; this node takes none of them. What is left is a graph of torch's own operations and their weights.
Ref: torch/export/pt2_archive/_package.py, torch/_export/serde/serialize.py (torch 2.13)
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any

import torch

from models.card import ShelvedCard
from models.networks.program import Outputs, Program, Run, outputs_of
from models.pipelines import pipeline, stages

OPERATION = re.compile(r"torch\.ops\.(aten|prims|higher_order)\.\w+(\.\w+)*|torch\.(ops\.)?sym_\w+|_operator\.\w+|math\.\w+")
# A shape's formula, as sympy writes it: quotes around symbols alone, no dots, no names but those of sympy's and torch's arithmetic.
QUOTED = re.compile(r"'([suz]\d+)'")
FORMULA = re.compile(r"[A-Za-z0-9_ +*/%(),<>=!&|~-]*")
NAME = re.compile(r"[A-Za-z_]\w*")
KNOWN = re.compile(
    r"Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|Mod|PythonMod|ModularIndexing|FloorDiv|CleanDiv|CeilDiv|Eq|Ne|Ge|Gt|Le|Lt|And|Or"
    r"|Not|Equality|Unequality|GreaterThan|LessThan|StrictGreaterThan|StrictLessThan|positive|negative|nonnegative|nonpositive|integer|real"
    r"|True|False|true|false|oo|int_oo|[suz]\d+"
)
PICKLED = re.compile(r"data/(weights|constants)/(.*\.pt|custom_obj_.*|opaque_obj_.*)")


def load(shelved: ShelvedCard, device: str) -> pipeline.Pipeline:
    """Load the card's programs and prove that they fit it; raises BadCard."""
    return pipeline.load(shelved, device, stages.Stage, program)


def program(asked: stages.Asked) -> Program:
    """Open one archive; raises ValueError."""
    if len(asked.files) != 1:
        raise ValueError("an exported program is one file")
    content = next(iter(asked.files.values()))
    without_code(content)
    try:
        exported = torch.export.load(io.BytesIO(content))
        if asked.device != "cpu":
            from torch.export.passes import move_to_device_pass  # noqa: PLC0415 -- takes seconds, and only a GPU needs it

            exported = move_to_device_pass(exported, asked.device)
        module = exported.module()
    except Exception as error:
        raise ValueError(f"the file is no exported program that this torch reads: {_first_line(error)}") from error
    return Program(
        run=_as_written(module, torch.device(asked.device).type),
        device=asked.device,
        single=_batch_is_fixed(exported),
        facts={"runtime": "exported-program", "precision": "float32", "torch": str(torch.__version__)},
    )


def _as_written(module: Any, kind: str) -> Run:
    """Give the program in its own precision: a graph may hold types it was written down with, which autocast breaks."""

    def run(windows: torch.Tensor) -> Outputs:
        with torch.autocast(kind, enabled=False):
            return outputs_of(module(windows))

    return run


def without_code(content: bytes) -> None:
    """Refuse an archive that holds anything torch would run as Python; raises ValueError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            parts = {name.partition("/")[2]: archive.read(name) for name in names}
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, EOFError) as error:
        raise ValueError(f"the file is no .pt2 archive: {_first_line(error)}") from None
    if len(parts) != len(names) or [name for name in parts if name.startswith("models/")] != ["models/model.json"]:
        raise ValueError("the file is no .pt2 archive of one program as torch.export.save writes it since torch 2.8")
    if compiled := [name for name in parts if name.startswith(("data/aotinductor/", "data/executorch/", "data/mtia", "xl_model"))]:
        raise ValueError(f"the archive holds compiled code ({compiled[0]}); save the program with torch.export.save")
    if pickled := [name for name in parts if PICKLED.fullmatch(name)]:
        raise ValueError(f"the archive holds pickled objects ({pickled[0]}), which can be code; keep custom objects out of the program")
    try:
        graph = json.loads(parts["models/model.json"])
        configs = [json.loads(value) for name, value in parts.items() if re.fullmatch(r"data/(weights|constants)/[^/]*config\.json", name)]
    except (ValueError, RecursionError):
        raise ValueError("the archive's description of the program cannot be read") from None
    if any(value is True for config in configs for key, value in _pairs(config) if key == "use_pickle"):
        raise ValueError("the archive holds pickled tensors, which can be code; save plain tensors")
    _graph_is_plain(graph)
    for name in (name for name in parts if name.startswith("data/sample_inputs/") and parts[name]):
        _tensors_only(parts[name])


def _graph_is_plain(graph: object) -> None:
    """Refuse operations that are not torch's own, and formulas that could be code; raises ValueError."""
    for key, value in _pairs(graph):
        if key == "target" and isinstance(value, str) and not OPERATION.fullmatch(value):
            raise ValueError(f"the program calls {value[:60]!r}, which is no operation of torch's own")
        if key == "expr_str":
            _formula_is_plain(value)
        if key == "range_constraints" and isinstance(value, dict):
            for name in value:
                _formula_is_plain(name)


def _formula_is_plain(text: object) -> None:
    """Refuse what sympy would evaluate as more than arithmetic of symbols; raises ValueError."""
    bare = QUOTED.sub(r"\1", text) if isinstance(text, str) else "?"
    if not FORMULA.fullmatch(bare) or not all(KNOWN.fullmatch(name) for name in NAME.findall(bare)):
        raise ValueError(f"the program's shapes hold a formula that is none: {str(text)[:60]!r}")


def _tensors_only(content: bytes) -> None:
    """Refuse what torch would have to unpickle with code; torch itself falls back to that. Raises ValueError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # noqa: BLE001 -- of what is no pickle of tensors anything may be raised
        raise ValueError("the archive's sample inputs are more than tensors, which can be code; export with tensors alone") from None


def _pairs(value: object) -> Iterator[tuple[str, Any]]:
    """Give every key and value below a parsed JSON value."""
    waiting = [value]
    while waiting:
        entry = waiting.pop()
        if isinstance(entry, dict):
            yield from entry.items()
            waiting += entry.values()
        elif isinstance(entry, list):
            waiting += entry


def _batch_is_fixed(exported: Any) -> bool:
    """Tell whether the program was written down for a batch of one."""
    names = set(exported.graph_signature.user_inputs)
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            return isinstance(node.meta["val"].shape[0], int)
    return False


def _first_line(error: BaseException) -> str:
    told = str(error).strip().splitlines()
    return told[0][:300] if told else type(error).__name__
