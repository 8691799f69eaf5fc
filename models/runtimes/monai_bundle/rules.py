"""Which names a bundle may use: networks, transforms and inferers of MONAI, layers of torch, plain arithmetic. All else is refused.

A name is looked up here, once, and the object found is what is run: nothing is looked up again by MONAI. Only what is listed is
allowed, so that a function of a later version that reads or writes files is refused until somebody lists it.
"""

from __future__ import annotations

import importlib
import inspect
import math
from enum import Enum
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from monai.bundle.config_item import ComponentLocator
from monai.inferers.inferer import Inferer
from monai.transforms.transform import Transform


def words(text: str) -> frozenset[str]:
    """Split words at their spaces."""
    return frozenset(text.split())


PLACES = (
    "monai.transforms.", "monai.inferers.", "monai.networks.nets.", "monai.networks.blocks.", "monai.networks.layers.",
    "monai.apps.detection.networks.", "monai.apps.detection.transforms.", "monai.apps.detection.utils.", "monai.apps.vista3d.transforms",
)  # fmt: skip
MODULES = ("monai", "torch", "numpy", "math")
LOADERS = frozenset({"LoadImage"})
SAVERS = frozenset({"SaveImage", "SaveClassification", "WriteFileMapping", "DataStats", "SimulateDelay"})
"""Left out: they write files or logs, and the result is taken from what they were given."""
REFUSED = {
    "TorchVision": "calls another library's functions by name",
    "RandTorchVision": "calls another library's functions by name",
    "TorchIO": "calls another library's functions by name",
    "RandTorchIO": "calls another library's functions by name",
    "CuCIM": "calls another library's functions by name",
    "RandCuCIM": "calls another library's functions by name",
    "PatchInferer": "finds its parts by names of any module",
    "Transchex": "downloads its weights",
    "MultiModal": "downloads its weights",
    "BertPreTrainedModel": "downloads its weights",
}
NUMPY = words(
    "array asarray zeros ones full eye arange linspace where stack concatenate clip round mean std sum prod max min argmax "
    "unique any all isin transpose moveaxis expand_dims squeeze reshape ravel percentile quantile median pi inf nan newaxis e"
)
TORCH = words(
    "device tensor as_tensor from_numpy zeros ones full eye arange linspace where stack cat clamp clip round floor ceil abs "
    "mean std sum prod max min argmax unique any all isin sigmoid softmax exp log sqrt logical_and logical_or logical_not "
    "logical_xor zeros_like ones_like full_like flip permute squeeze unsqueeze reshape inf nan pi cuda.is_available "
    "cuda.device_count"
)


class Forbidden(Exception):  # noqa: N818 -- it is a verdict on a name
    """A bundle names what it may not use; the reason is a half sentence that follows the name."""


def plain(name: str) -> str:
    """Give a transform's name without what marks its dictionary form.

    Example: "SaveImaged", "SaveImageD" and "SaveImageDict" give "SaveImage".
    """
    last = name.rsplit(".", 1)[-1]
    for end in ("Dict", "d", "D"):
        if last.endswith(end) and len(last) > len(end):
            return last.removesuffix(end)
    return last


def is_one_of(name: str, names: frozenset[str]) -> bool:
    """Tell whether a target is one of these, in its array or dictionary form."""
    return name.rsplit(".", 1)[-1] in names or plain(name) in names


def component(name: str) -> Any:
    """Find what a `_target_` names, as MONAI would, and give it if a bundle may build it; raises Forbidden."""
    dotted = name
    if "." not in name:
        found = _locator().get_component_module_name(name)
        if found is None:
            raise Forbidden("is no component of MONAI")
        dotted = f"{found if isinstance(found, str) else found[0]}.{name}"
    return member(dotted)


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()


def member(dotted: str) -> Any:
    """Give what a dotted name stands for, if it is one that a bundle may use; raises Forbidden."""
    root, _, rest = dotted.partition(".")
    if root not in MODULES:
        raise Forbidden(f"is not in {', '.join(MODULES)}, which is all a bundle may use")
    found = _walk(dotted)
    if isinstance(found, ModuleType) or not rest:
        raise Forbidden("is a module, not something in it")
    reason = {"monai": _monai, "torch": _torch, "numpy": _numpy, "math": _math}[root](found, rest)
    if reason:
        raise Forbidden(reason)
    return found


def imported(dotted: str) -> Any:
    """Give what an import statement binds: a module, or something in one that a bundle may use; raises Forbidden."""
    found = _walk(dotted)
    return found if isinstance(found, ModuleType) else member(dotted)


def _walk(dotted: str) -> Any:
    """Import the modules of a dotted name and give its last part; raises Forbidden where there is none."""
    parts = dotted.split(".")
    if any(part.startswith("_") or not part.isidentifier() for part in parts):
        raise Forbidden("is no public name")
    found: Any = importlib.import_module(parts[0])
    for depth, part in enumerate(parts[1:], start=1):
        if isinstance(found, ModuleType) and not hasattr(found, part) and parts[0] == "monai":
            try:
                importlib.import_module(".".join(parts[: depth + 1]))
            except ImportError:
                raise Forbidden("does not exist here") from None
        if not hasattr(found, part):
            raise Forbidden("does not exist here")
        found = getattr(found, part)
    return found


def _monai(found: Any, rest: str) -> str:
    if isinstance(found, str | int | float | Enum):
        return ""  # a name of MONAI's own for a word or a number: CommonKeys.IMAGE, Norm.BATCH
    name = getattr(found, "__name__", rest.rsplit(".", 1)[-1])
    home = f"{getattr(found, '__module__', '')}."
    refused = REFUSED.get(name) or REFUSED.get(plain(name))
    if refused:
        return refused
    if not home.startswith(PLACES) or not _is_component(found, home):
        return f"is none of MONAI's transforms, inferers or networks (it lives in {home.removesuffix('.') or 'no module'})"
    if home.startswith("monai.transforms.io.") or is_one_of(name, SAVERS):
        return "reads or writes files"
    if "pretrained" in name:
        return "downloads weights"
    return ""


def _is_component(found: Any, home: str) -> bool:
    """Tell a transform, an inferer, a network or a part of one; of functions those that build a network."""
    if inspect.isclass(found):
        return issubclass(found, Transform | Inferer | torch.nn.Module) or home.startswith("monai.apps.detection.utils.")
    return inspect.isfunction(found) and home.startswith("monai.networks.nets.")


def _torch(found: Any, rest: str) -> str:
    if isinstance(found, torch.dtype) or rest in TORCH:
        return ""
    home = getattr(found, "__module__", "") or ""
    if inspect.isclass(found) and issubclass(found, torch.nn.Module) and home.startswith("torch.nn.modules."):
        return ""
    if rest.startswith("nn.functional.") and rest.count(".") == 2 and callable(found) and not inspect.isclass(found):
        return ""
    return "is not one of torch's layers, types or plain functions, which is all a bundle may use of it"


def _numpy(found: Any, rest: str) -> str:
    if rest in NUMPY or isinstance(found, np.ufunc) or (inspect.isclass(found) and issubclass(found, np.generic)):
        return ""
    return "is not one of numpy's types or plain functions, which is all a bundle may use of it"


def _math(_found: Any, rest: str) -> str:
    return "" if rest in vars(math) else "is not in math"


def downloads(made: Any, arguments: dict[str, Any]) -> str:
    """Say which argument asks for weights from the network, or "". An argument that is left out counts with its default."""
    given = dict(arguments)
    try:
        for name, parameter in inspect.signature(made).parameters.items():
            if parameter.default is not inspect.Parameter.empty:
                given.setdefault(name, parameter.default)
    except (TypeError, ValueError):
        pass
    for name, value in given.items():
        asks = "pretrain" in name or "download" in name or name == "weights" or name.endswith("url")
        if asks and value not in (None, False, "", "false", "False"):
            return f"{name} = {value!r} would fetch weights; the card's file of weights is all that is loaded, so set it to false"
    return ""
