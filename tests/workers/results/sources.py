"""Finished analyses on every kind of image that a department sends: what validators are shown.

Where files are needed they are generated, and the analysis is of what was loaded from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from models.vocabulary import Box, Finding, Prediction
from node.profiles import BUILT_IN, ORDER, Profile
from node.settings import ResultsSection
from tests.servers import shared
from tests.workers import multiframe, slices
from tests.workers.results import scans
from workers.load import Loaded, load
from workers.results import ComposeRequest

EVERYTHING = Profile(name="everything", base="ohif", objects=ORDER, sc_pages=("summary", "key-images"))  # type: ignore[call-arg]
PROFILES: Mapping[str, Profile] = {**BUILT_IN, "everything": EVERYTHING}
STUDY: dict[str, Any] = {"StudyDate": "20250102", "StudyTime": "101112", "StudyID": "S1", "AccessionNumber": "ACC-55", "PatientSex": "F"}
Source = Callable[[Path], ComposeRequest]


def analysed(loaded: Loaded, *, sources: tuple[Dataset, ...] = ()) -> ComposeRequest:
    """Give an analysis of a loaded series: a lung off the centre, and a nodule in it."""
    shape = loaded.volume.grid.shape
    depth, rows, columns = shape
    labels, instances = np.zeros(shape, np.uint8), np.zeros(shape, np.uint16)
    labels[depth // 5 : 4 * depth // 5 + 1, rows // 6 : 2 * rows // 3, columns // 5 : 3 * columns // 4] = 1
    low = (depth // 4, rows // 4, columns // 4)
    high = (depth // 2 + 1, rows // 4 + max(rows // 8, 3), columns // 4 + max(columns // 6, 4))
    nodule = tuple(slice(*pair) for pair in zip(low, high, strict=True))
    labels[nodule], instances[nodule] = 0, 1
    finding = Finding(number=1, label=3, score=0.9, box=Box(low=low, high=high))
    return ComposeRequest(
        job=scans.job(loaded.sources, inputs={"ct": tuple(sorted(loaded.origin.images))}),
        card=scans.card(),
        prediction=Prediction(grid=loaded.volume.grid, labels=labels, instances=instances, findings=(finding,)),
        volume=loaded.volume,
        sources=sources or loaded.sources,
        settings=ResultsSection(),
        frames=tuple(source.frame for source in loaded.origin.sources) if loaded.origin.sources[0].frame else (),
        given=loaded.origin.given,
        remark=loaded.origin.remark,
    )


def _scan(**changes: Any) -> Source:
    return lambda _: scans.request(**changes)


def _named(character_set: str | list[str], name: str) -> Source:
    return lambda _: scans.request(SpecificCharacterSet=character_set, PatientName=name)


def _slices(modality: str, planes: Any = slices.AXIAL, **changes: Any) -> Source:
    scan = slices.Scan(shape=(8, 16, 20), modality=modality, planes=planes, stored=lambda _: (1.0, -1024.0), **changes)
    return lambda folder: analysed(load(slices.series(folder, replace(scan, extra={**STUDY, **scan.extra}))))


def _enhanced(modality: str, planes: Any = slices.AXIAL) -> Source:
    scan = slices.Scan(shape=(8, 16, 20), modality=modality, planes=planes, extra=STUDY, stored=lambda _: (1.0, -1024.0))
    image = multiframe.enhanced(scan, order=multiframe.mixed(8))
    return lambda folder: analysed(load(multiframe.save(folder, image)))


def _real(name: str) -> Source:
    return lambda _: analysed(load(sorted(path for path in shared(f"data/{name}").iterdir() if path.name != "NOTE.md")))


LEAN = float(np.radians(15.0))
TILTED: dict[str, Any] = {"planes": ((1.0, 0.0, 0.0), (0.0, float(np.cos(LEAN)), float(-np.sin(LEAN)))), "step_mm": (0.0, 0.0, 2.0)}
SOURCES: Mapping[str, Source] = {
    "axial CT": _scan(),
    "sagittal CT": _scan(scan=scans.Scan(plane="sagittal", reverse=True)),
    "oblique CT": _scan(scan=scans.Scan(plane="oblique")),
    "square pixels": _scan(scan=scans.Scan(spacing_mm=(2.0, 0.75, 0.75))),
    "odd frames": _scan(scan=scans.Scan(shape=(10, 25, 31))),
    "tilted CT": _slices("CT", **TILTED),
    "MR": _scan(scan=scans.Scan(modality="MR", plane="coronal")),
    "oblique MR": _slices("MR", slices.OBLIQUE),
    "PET": _slices("PT", extra={"SOPClassUID": "1.2.840.10008.5.1.4.1.1.128"}),
    "rescaled slice by slice": _slices("CT", each=lambda index: {"RescaleIntercept": str(-1024 + index), "RescaleSlope": "1"}),
    "enhanced CT": _enhanced("CT"),
    "enhanced oblique MR": _enhanced("MR", slices.OBLIQUE),
    "enhanced PET": _enhanced("PT"),
    "Latin-1 name": _named("ISO_IR 100", "Müller^Jürgen"),
    "UTF-8 name": _named("ISO_IR 192", "Wang^XiaoDong=王^小東"),
    "Japanese name": _named(["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "Korean name": _named(["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "a real MR": _real("mr_t1_sag_anon"),
}


def _without(keep_organs: bool) -> Callable[[ComposeRequest], ComposeRequest]:  # noqa: FBT001
    def change(request: ComposeRequest) -> ComposeRequest:
        labels = request.prediction.labels if keep_organs else np.zeros_like(request.prediction.labels)
        nothing = np.zeros(labels.shape, np.uint16)
        return replace(request, prediction=replace(request.prediction, labels=labels, instances=nothing, findings=()))

    return change


def _organs(request: ComposeRequest) -> ComposeRequest:
    return replace(request, card=scans.card(finds=False), prediction=replace(request.prediction, instances=None, findings=()))


def _revised(request: ComposeRequest) -> ComposeRequest:
    return replace(request, job=replace(request.job, revision=2, job_id="8" * 64, predecessor=scans.revised().job.predecessor))


def _found(request: ComposeRequest) -> ComposeRequest:
    """Let the model say its probabilities too, for those that want a map of them."""
    assert request.prediction.instances is not None
    maps = {3: np.where(request.prediction.instances > 0, 230, 5).astype(np.uint8)}
    return replace(request, prediction=replace(request.prediction, probabilities=maps))


OUTCOMES: Mapping[str, Callable[[ComposeRequest], ComposeRequest]] = {
    "findings": _found,
    "nothing found": _without(keep_organs=True),
    "nothing at all": _without(keep_organs=False),
    "organs alone": _organs,
    "revision 2": _revised,
}


def request(source: str, outcome: str, profile: str, folder: Path) -> ComposeRequest:
    """Give the finished analysis of a cell of the matrix."""
    return replace(OUTCOMES[outcome](SOURCES[source](folder)), profile=PROFILES[profile])
