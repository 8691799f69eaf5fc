"""The `$` expressions of a bundle: each is parsed before it is evaluated, and may do arithmetic and build components, no more."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Mapping
from typing import Any

from models.runtimes.monai_bundle import rules

BUILTINS = rules.words(
    "len range int float bool str list tuple dict set min max abs sum round sorted reversed zip enumerate any all isinstance "
    "slice map filter True False None"
)
# What may be asked of a value that is no module: nothing that writes, runs or looks behind the value.
METHODS = rules.words(
    "to cpu cuda eval half float double long int bool type dtype device shape ndim size numel dim item tolist numpy detach "
    "clone copy astype sum mean std max min argmax argmin any all abs clamp clip round sqrt exp log pow unsqueeze squeeze "
    "permute transpose reshape view flatten ravel flip T expand repeat contiguous softmax sigmoid unique gt ge lt le eq ne "
    "where masked_fill logical_and logical_or logical_not keys values items get index count append extend split rsplit strip "
    "lower upper replace join startswith endswith affine meta pixdim array as_tensor transforms network model roi_size"
)
NODES = (
    ast.Expression, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.IfExp, ast.Compare, ast.Call, ast.Constant, ast.Attribute, ast.Subscript,
    ast.Starred, ast.Name, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.Slice, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp,
    ast.comprehension, ast.Lambda, ast.arguments, ast.arg, ast.keyword, ast.JoinedStr, ast.FormattedValue, ast.expr_context, ast.boolop,
    ast.operator, ast.unaryop, ast.cmpop,
)  # fmt: skip


def imports(config: Any) -> dict[str, str]:
    """Give what a bundle's import statements bind, name to dotted name. None is run: a name counts where it is used.

    Example: "$import numpy as np" binds np to numpy, "$from monai.transforms import Compose" Compose to monai.transforms.Compose.
    """
    bound = {"monai": "monai", "torch": "torch", "np": "numpy", "numpy": "numpy"}
    for text in _texts(config):
        if not text.startswith(("$import ", "$from ")):
            continue
        try:
            statements = ast.parse(text[1:]).body
        except SyntaxError:
            continue
        for statement in statements:
            if isinstance(statement, ast.Import):
                bound |= {entry.asname or entry.name.partition(".")[0]: _imported(entry) for entry in statement.names}
            elif isinstance(statement, ast.ImportFrom):
                bound |= {entry.asname or entry.name: f"{statement.module or ''}.{entry.name}" for entry in statement.names}
    return bound


def _imported(entry: ast.alias) -> str:
    return entry.name if entry.asname else entry.name.partition(".")[0]


def _texts(config: Any) -> Iterator[str]:
    if isinstance(config, str):
        yield config
    elif isinstance(config, Mapping | list):
        for part in config.values() if isinstance(config, Mapping) else config:
            yield from _texts(part)


def scope(bound: Mapping[str, str]) -> dict[str, Any]:
    """Give what an expression finds by name: the allowed modules, and of Python's own functions only BUILTINS."""
    found: dict[str, Any] = {"__builtins__": {name: getattr(builtins, name) for name in BUILTINS}}
    for name, dotted in bound.items():
        if dotted.partition(".")[0] in rules.MODULES:
            try:
                found[name] = rules.imported(dotted)
            except rules.Forbidden:
                continue
    return found


def faults(code: str, bound: Mapping[str, str]) -> list[str]:
    """Give what is wrong with an expression as MONAI would evaluate it: `@` references stand in it as __local_refs['id']."""
    try:
        tree = ast.parse(code, mode="eval")
    except (SyntaxError, ValueError):
        return ["is no single expression"]
    judge = _Judge(bound, _own_names(tree))
    judge.visit(tree)
    return judge.faults


def _own_names(tree: ast.AST) -> frozenset[str]:
    """Give the names that lambdas and comprehensions bind."""
    names = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return frozenset(names)


class _Judge(ast.NodeVisitor):
    """Walks an expression and notes every fault."""

    def __init__(self, bound: Mapping[str, str], own: frozenset[str]) -> None:
        self.faults: list[str] = []
        self._bound = bound
        self._own = own
        if clash := sorted(own & ({*bound} | BUILTINS | {"__local_refs"})):
            self.faults.append(f"binds {', '.join(clash)} anew")

    def visit(self, node: ast.AST) -> None:
        """Judge a node by its kind; what is not listed is refused with all below it."""
        if not isinstance(node, NODES):
            self.faults.append(f"has a {type(node).__name__}, which is not allowed")
            return
        super().visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        """Allow Python's plain functions and what the expression itself binds; a module only before a dot."""
        if node.id in self._own or node.id in BUILTINS:
            return
        if node.id in self._bound:
            self._member(self._bound[node.id], node.id)
        else:
            self.faults.append(f"uses {node.id}, which is not allowed")

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """Allow a reference, written __local_refs['id'], besides ordinary subscripts; nothing is assigned to one."""
        self._only_read(node)
        if not (isinstance(node.value, ast.Name) and node.value.id == "__local_refs" and isinstance(node.slice, ast.Constant)):
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Allow a listed member of a module, and a listed method of anything else; nothing is assigned to one."""
        self._only_read(node)
        names, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            names.append(root.attr)
            root = root.value
        if isinstance(root, ast.Name) and root.id in self._bound and root.id not in self._own:
            rest = ".".join(reversed(names))
            self._member(f"{self._bound[root.id]}.{rest}", f"{root.id}.{rest}")
            return
        if node.attr not in METHODS:
            self.faults.append(f"asks a value for .{node.attr}, which is not allowed")
        self.visit(node.value)

    def visit_Call(self, node: ast.Call) -> None:
        """Refuse a component that would fetch its weights, besides judging name and arguments."""
        dotted = self._dotted(node.func)
        if any(keyword.arg is None for keyword in node.keywords):
            self.faults.append("passes arguments by **, which hides their names")
        if dotted:
            given = {word.arg: word.value.value if isinstance(word.value, ast.Constant) else True for word in node.keywords if word.arg}
            try:
                asked = rules.downloads(rules.member(dotted), given) if dotted.startswith("monai.") else ""
            except rules.Forbidden:
                asked = ""
            if asked:
                self.faults.append(asked)
        self.generic_visit(node)

    def _only_read(self, node: ast.Attribute | ast.Subscript) -> None:
        if not isinstance(node.ctx, ast.Load):  # a comprehension's target may be any place, a module's too
            self.faults.append(f"assigns to {ast.unparse(node)}")

    def _dotted(self, node: ast.AST) -> str:
        names: list[str] = []
        while isinstance(node, ast.Attribute):
            names.append(node.attr)
            node = node.value
        if not (isinstance(node, ast.Name) and node.id in self._bound):
            return ""
        return ".".join([self._bound[node.id], *reversed(names)])

    def _member(self, dotted: str, written: str) -> None:
        try:
            rules.member(dotted)
        except rules.Forbidden as reason:
            self.faults.append(f"uses {written}, which {reason}")
