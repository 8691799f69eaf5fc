"""The sections of a bundle that are needed, and nothing else of it: found, checked whole, and only then built by MONAI's parser.

Needed are network, preprocessing, inferer and postprocessing with what they refer to. A bundle's data lists, handlers, evaluator and
imports are never evaluated. Loading and saving is replaced: a volume comes from memory, and the result is taken before it is written.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from monai.bundle.config_parser import ConfigParser
from monai.bundle.reference_resolver import ReferenceResolver

from models.runtimes.monai_bundle import detectors, expressions, pyramid, rules, scripts
from models.runtimes.monai_bundle.images import Received

ROOTS = ("network_def", "network", "detector", "detector_ops", "preprocessing", "inferer", "postprocessing")
REFERS = {"network": ("network", "network_def"), "inferer": ("inferer",), "postprocessing": ("postprocessing",)}
LOOP_CHANGES = ("prepare_batch", "iteration_update")
# Handlers of a bundle's evaluator that change no result.
IDLE_HANDLERS = rules.words(
    "CheckpointLoader StatsHandler ClassificationSaver GarbageCollector MetricsSaver TensorBoardStatsHandler TensorBoardImageHandler "
    "LogfileHandler MeanDice IgniteMetricHandler DetectionSaver"
)
OUTSIDE = re.compile(r"^(/|~|[A-Za-z]:[\\/])|(^|[\\/])\.\.([\\/]|$)|://")
Names = tuple[Mapping[str, str], Mapping[str, ModuleType]]
"""What imports bind, for expressions; and the bundle's own modules, for targets."""
WORDS = frozenset({"_target_", "_disabled_", "_requires_", "_desc_", "_mode_"})


def overridden(config: Mapping[str, Any], overrides: Mapping[str, Any], device: str) -> dict[str, Any]:
    """Give the configuration with an administrator's values in it, and with our device; raises ValueError."""
    parser: Any = ConfigParser(copy.deepcopy(dict(config)), globals=False)
    for key, value in {**overrides, "device": f"$torch.device({device!r})"}.items():
        try:
            parser.set(value, key, recursive=False)
        except (KeyError, ValueError, IndexError, TypeError) as error:
            raise ValueError(f"overrides: {key} is not in the configuration: {str(error).splitlines()[0]}") from None
    return dict(parser.config)


def loop_faults(config: Mapping[str, Any]) -> list[str]:
    """Name what a bundle's own loop does besides preprocessing, network, inferer and postprocessing; its words are only read."""
    found = []
    for name, part in config.items():
        target = str(part.get("_target_", "")) if isinstance(part, Mapping) else ""
        if target.endswith("Dataset") and not _refers(part.get("transform", "@preprocessing"), "preprocessing"):
            found.append(f"{name}::transform: must be @preprocessing, the section that is run here")
        if not target.endswith("Evaluator"):
            continue
        found += [f"{name}::{key}: the loop is run here, without it" for key in LOOP_CHANGES if key in part]
        for key, ids in REFERS.items():
            if key in part and not any(_refers(part[key], entry) for entry in ids):
                found.append(f"{name}::{key}: must be @{ids[0]}, the section that is run here")
        handlers = part.get("val_handlers", [])
        where = str(handlers).removeprefix("@") if isinstance(handlers, str) else f"{name}::val_handlers"
        found += _handler_faults(where, config.get(where, []) if isinstance(handlers, str) else handlers)
    return found


def _refers(text: Any, name: str) -> bool:
    return isinstance(text, str) and text.removeprefix("$").strip() == f"@{name}"


def _handler_faults(where: str, handlers: Any) -> list[str]:
    if not isinstance(handlers, list):
        return [] if not handlers else [f"{where}: is no list of handlers"]
    names = [str(entry.get("_target_", "")) if isinstance(entry, Mapping) else str(entry) for entry in handlers]
    return [
        f"{where}::{index}: the handler {name} cannot be honoured"
        for index, name in enumerate(names)
        if name.rsplit(".", 1)[-1] not in IDLE_HANDLERS
    ]


def needed(
    config: Mapping[str, Any], own: Mapping[str, ModuleType] | None = None, *, network: bool = True
) -> tuple[dict[str, Any], list[str]]:
    """Give the needed part of a config, ready for MONAI's parser, and every fault in it.

    In what is given each `_target_` is the object that was checked, not a name. `own` are the modules of the bundle's own that may be
    used; `network`: False leaves the network out.
    """
    whole = copy.deepcopy(dict(config))
    if files := [text for _, text in _texts("", whole) if text.startswith("%") and ConfigParser.split_path_id(text[1:])[0]]:
        return {}, [f"{text}: a macro that reads another file; write its content into the configuration" for text in files]
    parser: Any = ConfigParser(_left_out(whole), globals=False)
    try:
        parser.resolve_macro_and_relative_ids()
    except (KeyError, ValueError, IndexError) as error:
        return {}, [f"a macro or relative name leads nowhere: {str(error).splitlines()[0]}"]
    whole = parser.config
    bound = expressions.imports(config)
    wanted = [name for name in ROOTS if name in whole and (network or not name.startswith("network"))]
    kept: dict[str, Any] = {}
    found: list[str] = []
    while wanted:
        name = wanted.pop()
        if name in kept:
            continue
        if name not in whole:
            found.append(f"@{name}: is not in the configuration")
            continue
        kept[name] = _checked(name, whole[name], (bound, own or {}), found)
        wanted += [reference.partition("::")[0] for _, text in _texts(name, whole[name]) for reference in _references(text)]
    return kept, found


def _left_out(config: Any) -> Any:
    """Replace savers by disabled entries without arguments, so that nothing they refer to is needed."""
    if isinstance(config, Mapping):
        target = config.get("_target_")
        if isinstance(target, str) and rules.is_one_of(target, rules.SAVERS):
            return {"_target_": target, "_disabled_": True}
        return {key: _left_out(part) for key, part in config.items()}
    return [_left_out(part) for part in config] if isinstance(config, list) else config


def _texts(where: str, config: Any) -> Iterator[tuple[str, str]]:
    if isinstance(config, str):
        yield where, config
    elif isinstance(config, Mapping | list):
        for key, part in config.items() if isinstance(config, Mapping) else enumerate(config):
            yield from _texts(f"{where}::{key}" if where else str(key), part)


def _references(text: str) -> list[str]:
    return list(ReferenceResolver.match_refs_pattern(text))


def _checked(where: str, part: Any, names: Names, found: list[str]) -> Any:
    """Check a part and all below it; give it with its targets found."""
    if isinstance(part, str):
        found += [f"{where}: {fault}" for fault in _text_faults(part, names[0])]
        return part
    if isinstance(part, list):
        return [_checked(f"{where}::{index}", entry, names, found) for index, entry in enumerate(part)]
    if not isinstance(part, Mapping):
        return part
    checked = {key: _checked(f"{where}::{key}", entry, names, found) for key, entry in part.items() if key != "_target_"}
    if "_debug_" in part:
        found.append(f"{where}: _debug_ stops a worker")
    if "_target_" in part:
        if checked.get("_mode_", "default") not in {"default", "callable"}:
            found.append(f"{where}: _mode_ {checked['_mode_']!r} is not allowed")
        checked["_target_"] = _target(where, part, names[1], found)
    return checked


def _target(where: str, part: Mapping[str, Any], own: Mapping[str, ModuleType], found: list[str]) -> Any:
    name = part["_target_"]
    if not isinstance(name, str) or name.startswith(("$", "@", "%")):
        found.append(f"{where}: _target_ must be a name")
        return None
    if part.get("_disabled_") is True and rules.is_one_of(name, rules.SAVERS):
        return dict
    if rules.is_one_of(name, rules.LOADERS):
        if name.rsplit(".", 1)[-1] in rules.LOADERS:
            found.append(f"{where}: {name} reads one file by its name; a volume comes from memory, through LoadImaged")
        return Received
    try:
        made = _named(name, own)
    except rules.Forbidden as reason:
        found.append(f"{where}: {name} {reason}")
        return None
    if asked := rules.downloads(made, {key: value for key, value in part.items() if key not in WORDS}):
        found.append(f"{where}: {name}: {asked}")
    return made


def _named(name: str, own: Mapping[str, ModuleType]) -> Any:
    if name == detectors.EXTRACTOR:
        return pyramid.feature_extractor
    return scripts.member(name, own) if name.startswith(f"{scripts.ROOT}.") else rules.component(name)


def _text_faults(text: str, bound: Mapping[str, str]) -> list[str]:
    """Judge one string of the configuration, as MONAI's parser will take it."""
    if text.startswith("%"):
        return [f"{text!r} is a macro that leads to a macro"]
    if not text.startswith("$"):
        return [f"{text!r} reaches outside of the bundle"] if OUTSIDE.search(text) else []
    references = ReferenceResolver.match_refs_pattern(text)
    if "" in references:
        return [f"{text!r} refers to the whole configuration"]
    code = ReferenceResolver.update_refs_pattern(text, dict.fromkeys(references))
    return [f"{text!r} {fault}" for fault in expressions.faults(str(code)[1:], bound)]
