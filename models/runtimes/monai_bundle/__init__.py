"""MONAI bundles in the model-zoo's layout: network, preprocessing, inferer and postprocessing of the bundle itself.

A bundle's configuration is code. So every file that is read is pinned in the card, every name and expression is judged before it
is evaluated (sections), and what cannot be honoured is named when the model is loaded, never skipped.
Ref: https://docs.monai.io/en/stable/mb_specification.html
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from models import registry
from models.card import Card, ShelvedCard
from models.runtimes.monai_bundle import (
    bundle,
    chain,
    detecting,
    detectors,
    expressions,
    inferring,
    outputs,
    reading,
    scripts,
    sections,
    weights,
)

FILES = ("metadata", "inference", "weights")


class Options(BaseModel):
    """The card's [runtime.options].

    channels     label index -> channel of the network; a label that is not named has the channel of its index. Of a detector the
                 class's number; without it label 1 is class 0
    values       label index -> value in the label map that a bundle makes by steps of its own, where values are not channels;
                 then channels are not asked for
    left_out     channels (with `values`, values) that no label reports, background apart
    keys         image key -> roles whose volumes are its channels, in this order; without it "image" has every role of the card
    orientation  where the z, y and x indices of the images grow that the bundle was trained on ("SAR" for NIfTI in canonical
                 order), or "as-stored"; needed where the bundle's preprocessing has no Orientationd
    allow_scripts  whether files of the bundle's folder scripts that the card pins besides may run, as any Python may; only what a
                 `_target_` names is used of them
    overrides    id in the configuration -> value, as `--inferer::overlap 0.25` on MONAI's command line
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: dict[int, int] = Field(default_factory=dict)
    values: dict[int, int] = Field(default_factory=dict)
    left_out: tuple[int, ...] = ()
    keys: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    orientation: str | None = Field(default=None, pattern=r"^([LRPASI]{3}|as-stored)$")
    allow_scripts: bool = False
    overrides: dict[str, Any] = Field(default_factory=dict)


def load(shelved: ShelvedCard, device: str) -> bundle.Bundle | detecting.Detection:
    """Build the bundle, fill its network with the checked weights, and prove on noise that it fits the card; raises BadCard."""
    own = tuple(sorted(set(shelved.card.runtime.files) - set(FILES)))
    content = registry.weights(shelved, (*FILES, *own))
    with registry.options_at_fault(shelved):
        options = Options.model_validate(shelved.card.runtime.options)
        files = shelved.card.runtime.files
        metadata = reading.parse(content["metadata"], files["metadata"].path)
        config = {"_meta_": metadata, **reading.parse(content["inference"], files["inference"].path)}
        if detectors.is_one(config):
            return _detector(shelved, options, config, (content["weights"], device))
        facts = reading.facts(metadata)
        if options.values:
            labelled = outputs.valued(shelved.card, options.values)
        else:
            labelled = outputs.channels(shelved.card, options.channels, options.left_out, facts.channel_def)
        keys = _keys(shelved.card, options)
        config = sections.overridden(config, options.overrides, device)
        code = scripts.modules({files[name].path: content[name] for name in own}) if _may_run(own, options) else {}
        kept, faults = sections.needed(config, code, network=not weights.is_script(content["weights"]))
        if faults := [*sections.loop_faults(config), *faults]:
            raise ValueError("the bundle cannot be run as it is: " + "; ".join(faults))
        bound = expressions.imports(config)
        inverse = "none" if shelved.card.output.kind == "scores" else shelved.card.output.inverse
        made = chain.build(kept, bound, keys, inverse)
        network = weights.network(chain.parsed(kept, bound), content["weights"])
        shape = weights.probe(kept, bound, network, (1, facts.inputs, *inferring.window(made.inferer, facts.shape)))
        setup = bundle.Setup(card=shelved.card, chain=made, facts=facts, device=device, orientation=options.orientation)
        found = bundle.prove(setup, shape)
        read = outputs.reading(shelved.card, found, facts.outputs, labelled, options.left_out)
        if bool(options.values) != (read.mapped and made.renumbers):
            raise ValueError(bundle.VALUES if read.mapped and made.renumbers else "values is for a bundle that renumbers its label map")
    return bundle.Bundle(setup, network.to(device).eval(), read)


def _detector(shelved: ShelvedCard, options: Options, config: dict[str, Any], filled: tuple[bytes, str]) -> detecting.Detection:
    """Build a detection bundle; `filled` are its weights and the device. Raises ValueError that names what cannot be honoured."""
    content, device = filled
    if weights.is_script(content):
        raise ValueError("a detector's weights must be a state dict: give models/model.pt or model.safetensors in the place of TorchScript")
    facts = reading.facts(config["_meta_"], detectors.classes(config))
    config = sections.overridden(config, options.overrides, device)
    made, own = detectors.prepared(config)
    kept, faults = sections.needed(made)
    if faults := [*sections.loop_faults(config), *own, *faults]:
        raise ValueError("the bundle cannot be run as it is: " + "; ".join(faults))
    bound = expressions.imports(config)
    parser = chain.parsed(kept, bound)
    network = weights.network(parser, content)
    detector = chain.part(parser, "detector")
    detecting.settle(detector, chain.part(parser, "detector_ops"), network.cpu())
    found = detecting.classes(shelved.card, options.channels, options.left_out, detector.num_classes)
    built = chain.build(kept, bound, _keys(shelved.card, options), "none")
    setup = bundle.Setup(card=shelved.card, chain=built, facts=facts, device=device, orientation=options.orientation)
    result = detecting.Made(detector=detector, classes=found)
    detecting.prove(setup, result)
    detector.network = network.to(device).eval()
    return detecting.Detection(setup, result)


def _may_run(own: tuple[str, ...], options: Options) -> bool:
    """Tell whether there is code of the bundle's own to run; raises ValueError where nobody has allowed it."""
    if own and not options.allow_scripts:
        raise ValueError(f"runtime.files.{own[0]}: is code of the bundle's own; set allow_scripts = true once you have read it")
    return bool(own)


def _keys(card: Card, options: Options) -> dict[str, tuple[str, ...]]:
    """Say which roles each image key takes; raises ValueError unless every role is used once."""
    roles = [entry.role for entry in card.inputs]
    keys = options.keys or {"image": tuple(roles)}
    used = [role for given in keys.values() for role in given]
    if sorted(used) != sorted(roles):
        raise ValueError(f"keys uses the roles {', '.join(used)}, the card has {', '.join(roles)}")
    return keys
