"""Studies to look at in a viewer: images with known truth, and what a perfect model's analysis of them sends.

The truth of each segment is a mask on the grid that ITK reads, with each voxel's place in the patient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.vocabulary import Box, Finding, Prediction
from node.profiles import BUILT_IN, ORDER, Profile
from overread.sample import Scan, Truth
from tests import phantoms
from tests.composed import TrueResult, perfect
from tests.workers.results import scans
from workers.results import ComposeRequest

EVERYTHING = Profile(name="everything", base="ohif", objects=ORDER, sc_pages=("summary", "key-images"))  # type: ignore[call-arg]
Change = Callable[[ComposeRequest], ComposeRequest]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A scan, and what is changed of the request that its analysis is composed from.

    Without a word of its own in `identity`, two studies of one geometry would be one study.
    """

    scan: Scan = phantoms.SMALL
    change: Change = lambda request: request


def _under(profile: Profile) -> Change:
    return lambda request: replace(request, profile=profile)


def _organs_alone(request: ComposeRequest) -> ComposeRequest:
    """Let a model that looks for no findings have made it."""
    card = scans.card(finds=False)
    return replace(request, card=card, prediction=Prediction(grid=request.prediction.grid, labels=request.prediction.labels))


def _one_frame(request: ComposeRequest) -> ComposeRequest:
    """Mark a small nodule on one slice, and nothing else."""
    labels, instances = np.zeros_like(request.prediction.labels), np.zeros(request.prediction.labels.shape, np.uint16)
    instances[20, 30:33, 17:19] = 1
    finding = Finding(number=1, label=3, score=0.9, box=Box(low=(20, 30, 17), high=(21, 33, 19)))
    return replace(request, prediction=Prediction(grid=request.prediction.grid, labels=labels, instances=instances, findings=(finding,)))


def _second_revision(request: ComposeRequest) -> ComposeRequest:
    """Let the report say that it replaces one that was sent."""
    told = {"revision": 2, "of_revision": 1, "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34"}
    uids = {"sop_instance_uid": "2.25.70", "series_instance_uid": "2.25.701"}
    return replace(request, job=replace(request.job, revision=2, predecessor=told | uids))


def _everything(request: ComposeRequest) -> ComposeRequest:
    """Send every kind there is, a map of probabilities too."""
    maps = {3: np.where(request.prediction.instances > 0, 230, 5).astype(np.uint8)}
    return replace(request, profile=EVERYTHING, prediction=replace(request.prediction, probabilities=maps))


def _small(identity: str, change: Change) -> Case:
    return Case(scan=replace(phantoms.SMALL, identity=identity), change=change)


def _asked(**changes: Any) -> Change:
    """Ask for SEGs of another form."""
    return _under(Profile(name="asked", base="ohif", **changes))  # type: ignore[call-arg]


def _whole_lungs(request: ComposeRequest) -> ComposeRequest:
    """Let each lung be a mask of its own that holds the nodules in it too: those voxels are in two segments."""
    labels, lesions = request.prediction.labels, request.prediction.instances
    assert lesions is not None
    sides = {side: ndimage.binary_closing(labels == side, iterations=4) | (labels == side) for side in (1, 2)}
    masks = {side: (labels == side) | (sides[side] & (lesions > 0)) for side in (1, 2)}
    assert all((mask & (lesions > 0)).any() for mask in masks.values())
    rest = np.where(np.isin(labels, (1, 2)), 0, labels).astype(labels.dtype)
    return replace(request, prediction=replace(request.prediction, labels=rest, masks=masks))


FEW: dict[str, Any] = {"slices": 24, "slice_spacing_mm": 11.0, "nodules_mm": (30.0, 26.0, 22.0)}
ODD = replace(phantoms.SMALL, matrix=(63, 61))
CASES: Mapping[str, Case] = {
    "axial": Case(),
    "sagittal": Case(scan=phantoms.ORIENTATIONS["sagittal"]),
    "oblique": Case(scan=phantoms.ORIENTATIONS["oblique"]),
    "oblique-reversed": Case(scan=phantoms.ORIENTATIONS["oblique-reversed"]),
    "feet-first": Case(scan=phantoms.ORIENTATIONS["feet-first"]),
    "anisotropic": Case(scan=replace(phantoms.SMALL, matrix=(100, 100), pixel_spacing_mm=(3.5, 3.5), **FEW)),
    "non-square": Case(scan=phantoms.ORIENTATIONS["non-square-pixels"]),
    "250x250": Case(scan=replace(phantoms.SMALL, matrix=(250, 250), pixel_spacing_mm=(1.4, 1.4), **FEW)),
    "250x252": Case(scan=replace(phantoms.SMALL, matrix=(250, 252), pixel_spacing_mm=(1.4, 1.4), **FEW)),
    "63x61": Case(scan=ODD),
    "nothing-found": Case(scan=phantoms.EMPTY),
    "organs": _small("organs", _organs_alone),
    "one-frame": _small("one frame", _one_frame),
    "revision-2": _small("revision 2", _second_revision),
    "everything": _small("everything", _everything),
    "editable": _small("editable", _under(BUILT_IN["editable"])),
    "orthanc-stone": _small("stone", _under(BUILT_IN["orthanc-stone"])),
    "basic": _small("basic", _under(BUILT_IN["basic"])),
    "labelmap-rle": Case(scan=replace(ODD, identity="rle"), change=_asked(seg_syntax="rle")),
    "labelmap-jpeg-ls": Case(scan=replace(ODD, identity="jpeg-ls"), change=_asked(seg_syntax="jpeg-ls")),
    "split": _small("split", _asked(seg_segments_max=2)),
    "labelmap-split": Case(scan=replace(ODD, identity="labelmap split"), change=_asked(seg_segments_max=2, seg_syntax="rle")),
    "overlapping": _small("overlapping", _whole_lungs),
    "labelmap-overlapping": Case(scan=replace(ODD, identity="labelmap overlapping"), change=_whole_lungs),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """A study as files, and its truth.

    masks  segment label -> mask on ITK's grid
    """

    truth: Truth
    result: TrueResult
    masks: Mapping[str, NDArray[np.bool_]]
    files: tuple[Path, ...]

    @property
    def starts_mm(self) -> NDArray[np.float64]:
        """Give where each slice's first voxel lies."""
        return self.result.centres_mm[:, 0, 0]


# Forms that viewers are known to show wrongly, see test_ohif_defects.
PINNED: Mapping[str, Case] = {"overlapping-binary": _small("one SEG", lambda request: _asked(seg_type="binary")(_whole_lungs(request)))}


def made(name: str, folder: Path) -> Looked:
    """Generate the images of a case and compose its results into files."""
    case = {**CASES, **PINNED}[name]
    truth = phantoms.thorax(folder / "images", case.scan)
    result = perfect(truth, case.change)
    written = result.write(folder / "results")
    return Looked(truth=truth, result=result, masks=masks(result.request), files=(*truth.files, *written.values()))


def masks(request: ComposeRequest) -> dict[str, NDArray[np.bool_]]:
    """Give each segment's truth by its label: the organs, then the nodules by number."""
    prediction = request.prediction
    found = {
        part.label: prediction.masks.get(part.index, prediction.labels == part.index)
        for part in request.card.card.output.labels
        if part.kind == "organ"
    }
    if prediction.instances is not None:
        found |= {f"Nodule {finding.number}": prediction.instances == finding.number for finding in prediction.findings}
    return {label: mask for label, mask in found.items() if mask.any()}
