"""A detection bundle's configuration as the rest of this runtime can check it: calls become tables, the zoo's own code is left out.

The model zoo runs MONAI's RetinaNetDetector by Python of the bundle (RetinaNetInferer, DetectionEvaluator, DetectionSaver), which is
never run here: `detecting` does what that inferer does.
"""

from __future__ import annotations

import ast
import copy
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.bundle.reference_resolver import ReferenceResolver

from models.runtimes.monai_bundle import pyramid

SETTERS = ("set_target_keys", "set_box_selector_parameters", "set_sliding_window_inferer", "set_box_coder_weights")
"""What of a detector's settings bears on inference."""
EXTRACTOR = "monai.apps.detection.networks.retinanet_network.resnet_fpn_feature_extractor"
INFERER = "RetinaNetInferer"
REFERENCE = re.compile(r"__local_refs\['([^']+)'\]")


def is_one(config: Mapping[str, Any]) -> bool:
    """Tell a detection bundle by the detector that it names."""
    part = config.get("detector")
    return isinstance(part, Mapping) and str(part.get("_target_", "")).rsplit(".", 1)[-1] == "RetinaNetDetector"


def classes(config: Mapping[str, Any]) -> int:
    """Give how many classes the network tells apart; raises ValueError where the configuration does not say it in a number."""
    part = config.get("network_def")
    count = part.get("num_classes") if isinstance(part, Mapping) else None
    if not isinstance(count, int) or count < 1:
        raise ValueError("network_def::num_classes must be a number from 1")
    return count


def prepared(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Give the configuration with its detector's settings and pyramid as tables, without the inferer, and every fault found."""
    made, found = copy.deepcopy(dict(config)), []
    inferer = made.pop("inferer", None)
    if not isinstance(inferer, Mapping) or str(inferer.get("_target_", "")).rsplit(".", 1)[-1] != INFERER:
        found.append(f"inferer: must be the model zoo's {INFERER} around @detector, which is what is done here")
    elif set(inferer) - {"_target_", "detector"} or inferer.get("detector") != "@detector":
        found.append(f"inferer: {INFERER} can have @detector and no further argument")
    for key, part in made.items():
        if isinstance(part, str) and part.startswith("$") and EXTRACTOR.rsplit(".", 1)[-1] in part:
            name, arguments = _call(part, lambda _: pyramid.feature_extractor)
            if name.rsplit(".", 1)[-1] == EXTRACTOR.rsplit(".", 1)[-1]:
                made[key] = {"_target_": EXTRACTOR, **arguments}
    settings: dict[str, Any] = {}
    for number, text in enumerate(made.get("detector_ops", [])):
        name, arguments = _call(str(text), lambda name: getattr(RetinaNetDetector, name.rsplit(".", 1)[-1], None))
        setter = name.rsplit(".", 1)[-1]
        if name != f"@detector.{setter}" or setter not in SETTERS:
            found.append(f"detector_ops::{number}: {text!r} cannot be honoured; the detector can be given {', '.join(SETTERS)}")
        else:
            settings[setter] = arguments
    made["detector_ops"] = settings
    return made, found


def _call(text: str, of: Callable[[str], Any]) -> tuple[str, dict[str, Any]]:
    """Read one call: the name, with @ before a reference, and its arguments by name, as a table of the configuration has them.

    of  gives the function of a name, for the names of its arguments; ("", {}) where the text is no such call
    Example: "$@detector.set_target_keys('box', label_key=@key)": "@detector.set_target_keys", {"box_key": "box", "label_key": "@key"}.
    """
    references = ReferenceResolver.match_refs_pattern(text)
    code = str(ReferenceResolver.update_refs_pattern(text, dict.fromkeys(references)))
    try:
        node = ast.parse(code.removeprefix("$"), mode="eval").body
    except SyntaxError:
        return "", {}
    if not isinstance(node, ast.Call):
        return "", {}
    name = _text(node.func)
    made = of(name)
    if made is None or any(word.arg is None for word in node.keywords):
        return name, {}
    names = [entry for entry in inspect.signature(made).parameters if entry != "self"]
    if len(node.args) > len(names):
        return "", {}
    given = dict(zip(names, node.args, strict=False)) | {str(word.arg): word.value for word in node.keywords}
    return name, {key: _value(value) for key, value in given.items()}


def _text(node: ast.AST) -> str:
    return REFERENCE.sub(r"@\1", ast.unparse(node))


def _value(node: ast.AST) -> Any:
    """Give a plain value as it is, anything else as an expression, which is judged as every other one."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return f"${_text(node)}"
