"""A trained configuration with its folds, and a cascade of two: an image in, labels on its own voxels out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.execution import Execution, Need
from models.nnunet import architecture, labelling, lesions, preparation, resampling
from models.nnunet.plans import Heads, Plans, configuration, heads, read
from models.nnunet.scores import Passes, slabs
from models.vocabulary import Progress


class Trained(BaseModel):
    """What a checkpoint says of itself, and which folds there are.

    mirroring_axes       axes of the patch along which the training mirrored; empty: none
    trainer_as_planned   a human knows that a trainer which is not nnU-Net's own builds the network of the plans
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    configuration: str
    trainer: str
    folds: tuple[str, ...] = Field(min_length=1)
    mirroring_axes: tuple[int, ...] = ()
    trainer_as_planned: bool = False

    @model_validator(mode="after")
    def _folds_and_trainer_are_known(self) -> Trained:
        if len(set(self.folds)) != len(self.folds) or not all(fold.isdigit() or fold == "all" for fold in self.folds):
            raise ValueError('folds must be different numbers, or "all"')
        if not self.trainer_as_planned and not architecture.TRAINERS.fullmatch(self.trainer):
            raise ValueError(
                f"the trainer {self.trainer!r} is not one of nnU-Net's own that build the network of the plans; "
                "write trainer_as_planned = true if you know that it does"
            )
        return self


class Inference(Trained):
    """How the card wants a results folder run; with `previous`, the cascade's first stage."""

    mirroring: bool = True
    step: float = Field(default=0.5, gt=0, le=1)
    previous: Trained | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labelled:
    """What a folder says of an image, on the image's voxels (z, y, x); `levels`: probabilities of the labels that are watched."""

    labels: NDArray[np.uint8]
    levels: Mapping[int, NDArray[np.float16]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stage:
    """One configuration, its networks warm on their device; `watched` are labels whose probability is asked for."""

    plans: Plans
    heads: Heads
    passes: Passes
    watched: tuple[int, ...] = ()

    @property
    def device(self) -> torch.device:
        """Give the networks' device."""
        return next(self.passes.networks[0].parameters()).device


def names(options: Inference, prefix: str = "") -> tuple[str, ...]:
    """Name the files a card must have for a results folder."""
    folds = [f"{prefix}fold_{fold}" for fold in options.folds]
    before = [f"{prefix}previous_fold_{fold}" for fold in options.previous.folds] if options.previous else []
    return (f"{prefix}plans", f"{prefix}dataset", *folds, *before)


def build(content: Mapping[str, bytes], options: Inference, device: str, prefix: str = "") -> tuple[Stage, ...]:
    """Build the stages in the order they run, from the files of `names`; raises ValueError that says which file is wrong."""
    plans, dataset = (read(content[f"{prefix}{what}"], f"{what}.json") for what in ("plans", "dataset"))
    final = configuration(plans, dataset, options.configuration)
    if (final.previous is None) != (options.previous is None) or (options.previous and options.previous.configuration != final.previous):
        raise ValueError(f"{options.configuration} sees the labels of {final.previous or 'no other configuration'}: previous must say so")
    trained = [options.previous, options] if options.previous else [options]
    stages = []
    for entry in trained:
        before = "previous_" if entry is options.previous else ""
        folds = {f"{prefix}{before}fold_{fold}": content[f"{prefix}{before}fold_{fold}"] for fold in entry.folds}
        stages.append(_stage(configuration(plans, dataset, entry.configuration), heads(dataset), (entry, options, folds, device)))
    return tuple(stages)


def _stage(plans: Plans, outputs: Heads, given: tuple[Trained, Inference, Mapping[str, bytes], str]) -> Stage:
    trained, options, folds, device = given
    inputs = len(plans.channels) + (len(outputs.foreground) if plans.previous else 0)
    channels = inputs, len(outputs.values)
    if trained.mirroring_axes and not set(trained.mirroring_axes) <= set(range(len(plans.patch))):
        raise ValueError(f"mirroring_axes {list(trained.mirroring_axes)} are not axes of a patch of {len(plans.patch)}")
    networks = []
    for name, content in folds.items():
        network = architecture.build(plans.architecture, trained.trainer, channels, plans.patch)
        try:
            networks.append(architecture.fill(network, content, channels).to(device))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    axes = trained.mirroring_axes if options.mirroring else ()
    passes = Passes(networks=tuple(networks), outputs=channels[1], patch=plans.patch, step=options.step, axes=axes)
    return Stage(plans=plans, heads=outputs, passes=passes)


def label(
    stages: Sequence[Stage], image: preparation.Floats, spacing_mm: Sequence[float], execution: Execution, progress: Progress
) -> Labelled:
    """Label an image (channels, z, y, x) whose voxels are spacing_mm (z, y, x) apart, on its own voxels; raises Unfit.

    A cascade's first stage labels the whole image, and the second sees these labels beside it.
    """
    previous: tuple[NDArray[np.uint8], Sequence[int]] | None = None
    found: Labelled | None = None
    for number, stage in enumerate(stages):

        def tell(part: float, number: int = number) -> None:
            progress((number + part) / len(stages))

        found = _run(stage, preparation.prepare(image.copy(), spacing_mm, stage.plans, previous), execution, tell)
        previous = found.labels, stage.heads.foreground
    assert found is not None  # there is at least one stage
    return found


def _run(stage: Stage, prepared: preparation.Prepared, execution: Execution, progress: Progress) -> Labelled:
    """Label what is prepared, and lay it where it was in the image."""
    array = torch.from_numpy(prepared.array)
    pieces = slabs(array if execution.stitch == "host" else array.to(stage.device), stage.passes, execution, progress)
    seen: list[torch.Tensor] = []
    watched = lesions.watch(pieces, stage.heads, stage.watched, seen)
    inside = labelling.label(watched, prepared.array.shape[1:], prepared.way, stage.heads)
    levels = torch.cat(seen, dim=1).numpy() if seen else ()
    return Labelled(
        labels=_laid(inside, prepared, stage.plans),
        levels={
            value: _laid(lesions.at_crop(level, prepared.way.shape), prepared, stage.plans)
            for value, level in zip(stage.watched, levels, strict=True)
        },
    )


def _laid(inside: NDArray[Any], prepared: preparation.Prepared, plans: Plans) -> NDArray[Any]:
    """Put a crop back into the image, 0 around it, and turn its axes back."""
    whole = np.zeros(prepared.whole, dtype=inside.dtype)
    whole[prepared.crop] = inside
    return np.ascontiguousarray(whole.transpose(plans.backward))


def need(stages: Sequence[Stage], shape: Sequence[int], spacing_mm: Sequence[float], execution: Execution) -> Need:
    """Estimate the stage that needs most.

    On the device: a window's features some eight times at full resolution (of a plain U-Net 7.2 times, on a processor); a slab of
    half precision scores for each fold, their mean and its copy; the resampled image. On the host: the image in float32, and
    once in float64 for its spline.
    """
    device = host = 0
    for stage in stages:
        plans, passes = stage.plans, stage.passes
        turned = [shape[axis] for axis in plans.forward]
        source_mm = [spacing_mm[axis] for axis in plans.forward]
        model = [max(pair) for pair in zip(resampling.new_shape(turned, source_mm, plans.target_mm(source_mm)), _patch(plans), strict=True)]
        features: Any = plans.architecture.arguments.get("features_per_stage", 32)
        first = int(features[0] if isinstance(features, list | tuple) else features)
        window = int(8 * 4 * first * math.prod(plans.patch) * execution.batch * execution.activations)
        linear = is_linear(plans)
        depth = _patch(plans)[0] if linear else model[0]
        slab = 2 * passes.outputs * depth * model[1] * model[2] * (len(passes.networks) + 3)
        channels = len(plans.channels) + (len(stage.heads.foreground) if plans.previous else 0)
        seen = 4 * channels * math.prod(model)
        on_host = math.prod(shape) * (8 * len(plans.channels) + 24 + 2) + seen
        at_device = window + (slab + seen if execution.stitch == "device" else 0)
        device = max(device, at_device)
        host = max(host, on_host + (slab if execution.stitch == "host" or not linear else 0))
    return Need(device=device, host=host)


def is_linear(plans: Plans) -> bool:
    """Tell whether scores return along straight lines, so that no array of classes x volume is made."""
    return plans.scores.none or (plans.scores.order == 1 and plans.scores.order_z == 0)


def _patch(plans: Plans) -> tuple[int, ...]:
    return plans.patch if len(plans.patch) == 3 else (1, *plans.patch)
