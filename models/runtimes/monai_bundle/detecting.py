"""A bundle around MONAI's RetinaNetDetector: its own boxes, scores and suppression, as findings where the patient is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.apps.detection.networks.retinanet_detector import RetinaNetDetector
from monai.apps.detection.transforms.dictionary import AffineBoxToWorldCoordinated, ClipBoxToImaged, ConvertBoxModed
from monai.transforms.utility.dictionary import DeleteItemsd
from numpy.typing import NDArray

from models.answers import boxes
from models.card import Card
from models.execution import PLAIN, Execution, Need
from models.grids import transforms, windows
from models.networks import network
from models.runtimes.monai_bundle import bundle, chain, images, inferring
from models.vocabulary import Broken, Finding, Grid, Prediction, Progress, Volume

Forward = Any
COORDINATES = (AffineBoxToWorldCoordinated, ConvertBoxModed)
"""They write the same boxes in other numbers: left out, for a finding is placed by the image's own affine."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Made:
    """A detector with its network, and how a card's labels read its classes (class number -> label index; None: left out)."""

    detector: RetinaNetDetector
    classes: Mapping[int, int | None]


def classes(card: Card, given: Mapping[int, int], left_out: Sequence[int], count: int) -> dict[int, int | None]:
    """Find each class's label; raises ValueError unless every class has one or is left out, and every label a class and a threshold."""
    if card.output.kind != "boxes" or card.output.inverse != "runtime":
        raise ValueError('the bundle gives boxes, so output.kind must be "boxes" and output.inverse "runtime"')
    found: dict[int, int | None] = dict.fromkeys(left_out)
    for label in card.output.labels:
        number = given.get(label.index, label.index - 1)
        if label.kind != "finding" or label.threshold is None:
            raise ValueError(f'label {label.index} is what a box marks: it must be of kind "finding" and have a threshold')
        if number in found or not 0 <= number < count:
            raise ValueError(f"label {label.index} ({label.label}) has no class {number} of its own; the detector's are 0 to {count - 1}")
        found[number] = label.index
    if unsaid := sorted(set(range(count)) - set(found)):
        raise ValueError(f"classes {unsaid} of the detector have no label; give them one (channels), or name them in left_out")
    return found


def settle(detector: RetinaNetDetector, settings: Mapping[str, Mapping[str, Any]], built: torch.nn.Module) -> None:
    """Give a detector its settings and the network that has the weights."""
    detector.network = built
    for name, arguments in settings.items():
        getattr(detector, name)(**arguments)
    detector.eval()


def prove(setup: bundle.Setup, made: Made) -> None:
    """Look at all steps, and run preprocessing and detector on noise of a small size; raises ValueError for all that is wrong."""
    before = True
    for step in setup.chain.postprocessing.transforms:
        before = before and not isinstance(step, COORDINATES)
        if not isinstance(step, (*COORDINATES, DeleteItemsd)) and not (before and isinstance(step, ClipBoxToImaged)):
            raise ValueError(f"postprocessing: {type(step).__name__} cannot be honoured for boxes where it stands")
    if setup.chain.spacing_mm is None:
        raise ValueError(
            "the detector's anchors are sizes in voxels, and its preprocessing does not resample: switch its Spacingd on by overrides "
            "(of lung_nodule_ct_detection overrides = { whether_raw_luna16 = true }), or add one to its configuration"
        )
    lowest = min(label.threshold or 0 for label in setup.card.output.labels)
    if lowest < made.detector.box_selector.score_thresh:
        raise ValueError(f"the threshold {lowest} lies below the bundle's own score_thresh {made.detector.box_selector.score_thresh}")
    try:
        data = setup.chain.prepare(bundle.noise(setup, bundle.TRIAL))
        image = data[chain.IMAGE]
        if image.shape[0] != setup.facts.inputs:
            raise ValueError(f"preprocessing gives {image.shape[0]} channels, metadata says the network takes {setup.facts.inputs}")  # noqa: TRY301 -- of the bundle
        small = torch.rand((setup.facts.inputs, *made.detector.size_divisible))
        with torch.no_grad():
            run(made.detector, small, PLAIN, lambda _part: None)
    except Exception as error:
        if isinstance(error, ValueError):
            raise
        raise ValueError(f"the bundle fails on an image of noise: {chain.innermost(error)}") from error


def run(detector: RetinaNetDetector, image: torch.Tensor, execution: Execution, progress: Progress) -> dict[str, torch.Tensor]:
    """Give boxes (n, 6) in the image's indices, low corner then high, classes (n) and scores (n) by the detector's own keys.

    Windows are laid only over an image of as many voxels as one of them or more, as the model zoo's inferer does.
    Raises Broken where the network gives no finite numbers.
    """
    if not windows.has(execution.precision, image.device.type):
        raise ValueError(f"{execution.precision} is not to be had on this machine's {image.device.type}")
    inner, sliding = detector.network, detector.inferer
    laid = sliding is not None and math.prod(image.shape[1:]) >= math.prod(_window(sliding, image))
    if sliding is not None:
        sliding.sw_batch_size = execution.batch
        sliding.device = torch.device("cpu") if execution.stitch == "host" else None
    total = inferring.count(sliding, image.shape[1:]) if laid else 1
    detector.network = _Watched(inner, execution.precision, total, progress)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            found: Any = detector([image], use_inferer=laid)
    finally:
        detector.network = inner
    return {key: part.float() if part.is_floating_point() else part for key, part in found[0].items()}


def _window(sliding: Any, image: torch.Tensor) -> tuple[int, ...]:
    return inferring.window(sliding, tuple(image.shape[1:]))


class _Watched(torch.nn.Module):
    """A network in a precision, whose outputs are float32 and finite, and that tells the progress."""

    def __init__(self, inner: torch.nn.Module, precision: str, total: int, progress: Progress) -> None:
        super().__init__()
        self._inner, self._total, self._progress, self._done = inner, total, progress, 0
        self._half = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision)

    def forward(self, seen: torch.Tensor) -> dict[str, list[torch.Tensor]]:
        """Run the network; raises Broken."""
        with torch.autocast(seen.device.type, dtype=self._half, enabled=self._half is not None):
            found = self._inner(seen)
        levels = {key: [level.float() for level in part] for key, part in found.items()}
        if not all(bool(torch.isfinite(level).all()) for part in levels.values() for level in part):
            raise Broken("The network gave scores that are no finite numbers.")
        self._done += len(seen)
        self._progress(min(1.0, self._done / self._total))
        return levels


def edges(found: NDArray[np.float64], affine: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """Bring boxes in an image's indices to the edges that they have on a grid: (n, 6), low z, y, x, then high.

    found   (n, 6): low corner, then high, in indices (x, y, z) that count from the centre of the first voxel, as MONAI's affine does
    affine  the image's, 4 x 4, to RAS mm
    Edges count from the outer face of the first voxel. Where the image's axes are not the grid's, the box is the one around its corners.
    Example: on the image's own grid an index of 3.0 lies in the middle of voxel 3, so the edge is 3.5.
    """
    onto = np.linalg.inv(images.affine(grid)) @ affine
    corners = np.stack([found[:, [x, y, z]] for x, y, z in itertools.product((0, 3), (1, 4), (2, 5))], axis=1)
    placed = (corners @ onto[:3, :3].T + onto[:3, 3])[..., ::-1] + 0.5
    return np.concatenate([placed.min(axis=1), placed.max(axis=1)], axis=1)


class Detection:
    """A detection bundle, warm on its device."""

    def __init__(self, setup: bundle.Setup, made: Made) -> None:
        self._setup = setup
        self._made = made

    def need(self, grids: Mapping[str, Grid], execution: Execution) -> Need:
        """Estimate the image, the maps of all anchors, stitched and as a whole, and the windows in the network."""
        grid, detector = grids[self._setup.card.reference_role], self._made.detector
        spacing = self._setup.chain.spacing_mm or ()
        source = math.prod(grid.shape)
        shape = [
            max(1, math.ceil(size * old / new))
            for size, old, new in zip(reversed(grid.shape), reversed(grid.spacing_mm), spacing, strict=True)
        ]
        window = [min(*pair) for pair in zip(_window(detector.inferer, torch.empty((1, *shape), device="meta")), shape, strict=True)]
        scales = getattr(detector.anchor_generator, "feature_map_scales", (1,))
        per_cell = math.prod(detector.size_divisible) / max(scales) ** len(shape)
        maps = int(2 * 4 * detector.num_anchors_per_loc * (detector.num_classes + 6) * math.prod(shape) / per_cell * 1.2)
        taken = int(execution.batch * execution.activations * 400 * math.prod(window))
        seen = int(4 * self._setup.facts.inputs * (source + 2 * math.prod(shape)))
        return Need(device=taken, host=maps + seen) if execution.stitch == "host" else Need(device=taken + maps, host=seen)

    def predict(self, volumes: Mapping[str, Volume], progress: Progress, execution: Execution = PLAIN) -> Prediction:
        """Run the bundle; raises Unfit for volumes that it cannot take, Broken for boxes that are none."""
        laid = bundle.laid(self._setup, volumes)
        grid = laid[self._setup.card.reference_role].grid
        detector = self._made.detector
        with torch.no_grad():
            data: Any = self._setup.chain.prepare(bundle.oriented(self._setup, laid))
            progress(0.05)
            image = data[chain.IMAGE]
            found = run(detector, image.as_tensor().float().to(self._setup.device), execution, lambda part: progress(0.05 + 0.9 * part))
            data |= {key: part.cpu() for key, part in found.items()}
            for step in self._setup.chain.postprocessing.transforms:
                if isinstance(step, ClipBoxToImaged):
                    data = step(data)
        marks = self._findings(
            [data[key] for key in (detector.target_box_key, detector.target_label_key, detector.pred_score_key)], image, grid
        )
        progress(1.0)
        return Prediction(grid=grid, labels=np.zeros(grid.shape, dtype=np.uint8), findings=marks, variant=self._variant(execution))

    def _findings(self, found: Sequence[torch.Tensor], image: Any, grid: Grid) -> tuple[Finding, ...]:
        rows, numbers, scores = (part.numpy() for part in found)
        if not len(rows) == len(numbers) == len(scores) or not (np.isfinite(rows).all() and np.isfinite(scores).all()):
            raise Broken("The bundle gave boxes, classes and scores that do not fit each other.")
        if len(scores) and not (scores.min() >= 0 and scores.max() <= 1):
            raise Broken(f"The bundle gave scores from {scores.min():g} to {scores.max():g}, which are no probabilities.")
        candidates = []
        placed = edges(rows.reshape(-1, 6).astype(np.float64), np.asarray(image.affine.cpu(), dtype=np.float64), grid)
        for row, number, score in zip(placed.tolist(), numbers.tolist(), scores.tolist(), strict=True):
            label = self._made.classes.get(int(number))
            if label is not None and score >= (self._setup.card.label(label).threshold or 0):
                low, high = (row[0], row[1], row[2]), (row[3], row[4], row[5])
                candidates.append(boxes.Candidate(label=label, score=float(score), low=low, high=high))
        own = transforms.Resampling(source=grid, oriented=grid, model=grid, turning=transforms.UNTURNED)
        return boxes.findings(candidates, own)

    def _variant(self, execution: Execution) -> dict[str, str]:
        facts = self._setup.facts
        return {
            **network.facts("monai-bundle"),
            "device": torch.device(self._setup.device).type,
            **execution.facts(),
            "bundle": f"{facts.name} {facts.version}".strip(),
            "windows": "MONAI's",
            "inverse": "ours",
        }
