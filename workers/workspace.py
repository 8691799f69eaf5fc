"""Work files: what one stage leaves for the next, and the parcel that the ledger will point to.

    work_dir/<job>/<fence>/<name>/meta.json + <array>.npy      passing: may be lost; the job then goes back a stage
    data_dir/parcels/<job>/<generation>/<digest>/NN-kind.dcm   durable: on the disk before the ledger says WRITTEN

Everything is written under a temporary name and renamed; a reader sees all of it or nothing. Arrays are read with
allow_pickle=False, and a checksum in meta.json tells a damaged file from a good one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.vocabulary import Box, Finding, Grid, Prediction, Score, Volume
from node.errors import NoRoom
from node.study import Job
from workers.frames import Origin, Source

META = "meta.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
Array = NDArray[Any]


class LostWork(Exception):  # noqa: N818 -- names what happened
    """A work file is missing or damaged: the stage that writes `name` must run again."""

    def __init__(self, name: str, how: str) -> None:
        super().__init__(f"the work file {name} {how}")
        self.name = name


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelf:
    """The work folder of one job as one claim sees it: it writes under its own fence and reads the newest below it."""

    root: Path
    job_id: str
    generation: int
    fence: int

    def save(self, name: str, arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
        """Write arrays and their facts under `name`; whole or not at all. Raises NoRoom."""
        folder = self.root / self.job_id / str(self.fence)
        part = folder / f".{name}.{secrets.token_hex(4)}"
        sums = {}
        with _writing(part):
            part.mkdir(parents=True)
            for key, array in arrays.items():
                contiguous = np.ascontiguousarray(array)
                np.save(part / f"{key}.npy", contiguous, allow_pickle=False)
                sums[key] = _crc32(contiguous)
            (part / META).write_text(
                json.dumps({"generation": self.generation, "crc32": sums, "facts": dict(meta)}, default=_plain), encoding="utf-8"
            )
            target = folder / name
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)

    def load(self, name: str) -> tuple[dict[str, Array], dict[str, Any]]:
        """Read back the newest copy of `name`; raises LostWork."""
        for folder in self._newest_first():
            path = folder / name
            if not (path / META).is_file():
                continue
            try:
                meta = json.loads((path / META).read_text(encoding="utf-8"))
                if meta["generation"] != self.generation:
                    continue
                arrays = {key: np.load(path / f"{key}.npy", allow_pickle=False) for key in meta["crc32"]}
            except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
                raise LostWork(name, f"cannot be read: {type(error).__name__}") from error
            if any(_crc32(array) != meta["crc32"][key] for key, array in arrays.items()):
                raise LostWork(name, "is damaged")
            return arrays, meta["facts"]
        raise LostWork(name, "is missing")

    def _newest_first(self) -> list[Path]:
        try:
            fences = [int(entry.name) for entry in (self.root / self.job_id).iterdir() if entry.name.isdigit()]
        except OSError:
            return []
        return [self.root / self.job_id / str(fence) for fence in sorted(fences, reverse=True) if fence <= self.fence]


def save_volumes(place: Shelf, volumes: Mapping[str, Volume], origin: Origin) -> None:
    """Keep one volume a role, and what the reference role's was made of."""
    facts = {role: {"grid": asdict(volume.grid), "unit": volume.unit, "modality": volume.modality} for role, volume in volumes.items()}
    place.save("volumes", {role: volume.array for role, volume in volumes.items()}, {"roles": facts, "origin": asdict(origin)})


def load_volumes(place: Shelf) -> tuple[dict[str, Volume], Origin]:
    """Read what save_volumes kept; raises LostWork."""
    arrays, facts = place.load("volumes")
    volumes = {
        role: Volume(array=arrays[role], grid=_grid(entry["grid"]), unit=entry["unit"], modality=entry["modality"])
        for role, entry in facts["roles"].items()
    }
    origin = facts["origin"]
    sources = tuple(Source(**source) for source in origin["sources"])
    return volumes, Origin(sources=sources, given=origin["given"], remark=origin["remark"])


def save_prediction(place: Shelf, prediction: Prediction) -> None:
    """Keep a prediction."""
    arrays: dict[str, Array] = {"labels": prediction.labels}
    if prediction.instances is not None:
        arrays["instances"] = prediction.instances
    arrays |= {f"mask-{index}": mask for index, mask in prediction.masks.items()}
    arrays |= {f"probability-{index}": levels for index, levels in prediction.probabilities.items()}
    facts = {
        "grid": asdict(prediction.grid),
        "findings": [asdict(finding) for finding in prediction.findings],
        "scores": [asdict(score) for score in prediction.scores],
        "remarks": list(prediction.remarks),
        "variant": dict(prediction.variant),
    }
    place.save("prediction", arrays, facts)


def load_prediction(place: Shelf) -> Prediction:
    """Read what save_prediction kept, equal to the last bit; raises LostWork."""
    arrays, facts = place.load("prediction")
    findings = tuple(
        Finding(
            number=entry["number"],
            label=entry["label"],
            score=entry["score"],
            box=Box(low=tuple(entry["box"]["low"]), high=tuple(entry["box"]["high"])),
            deviation=entry.get("deviation"),
        )
        for entry in facts["findings"]
    )
    return Prediction(
        grid=_grid(facts["grid"]),
        labels=arrays["labels"],
        instances=arrays.get("instances"),
        findings=findings,
        masks=_by_index(arrays, "mask-"),
        scores=tuple(Score(**entry) for entry in facts["scores"]),
        probabilities=_by_index(arrays, "probability-"),
        remarks=tuple(facts.get("remarks", ())),
        variant=facts["variant"],
    )


def _by_index(arrays: Mapping[str, Array], prefix: str) -> dict[int, Array]:
    return {int(key.removeprefix(prefix)): array for key, array in arrays.items() if key.startswith(prefix)}


def keep_parcel(data_dir: Path, job: Job, blobs: Sequence[tuple[str, bytes]]) -> tuple[str, ...]:
    """Write (kind, Part-10 bytes) durably; give the paths relative to the data folder, in the same order.

    The folder is named by its content, so that a second writer of the same bytes finds them there and a writer of
    other bytes cannot touch them. On return files and folders are on the disk. Raises NoRoom.
    """
    digest = hashlib.sha256(b"".join(hashlib.sha256(blob).digest() for _kind, blob in blobs)).hexdigest()[:16]
    names = [f"{number:02d}-{kind.lower()}.dcm" for number, (kind, _blob) in enumerate(blobs, start=1)]
    home = data_dir / "parcels" / job.job_id / str(job.generation)
    final = home / digest
    if not _holds(final, names, blobs):
        part = home / f".{digest}.{secrets.token_hex(4)}"
        with _writing(part):
            part.mkdir(parents=True)
            for name, (_kind, blob) in zip(names, blobs, strict=True):
                with (part / name).open("wb") as file:
                    file.write(blob)
                    file.flush()
                    os.fsync(file.fileno())
            sync_folder(part)
            shutil.rmtree(final, ignore_errors=True)  # only a damaged copy gets here
            part.rename(final)
    for folder in (home, home.parent, home.parent.parent):
        sync_folder(folder)
    return tuple(str((final / name).relative_to(data_dir)) for name in names)


@contextmanager
def _writing(part: Path) -> Iterator[None]:
    """Leave nothing of a write that fails, least of all on a full disk. numpy tells of a short write without an error number."""
    try:
        yield
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        if error.errno in FULL or error.errno is None:
            raise NoRoom(f"the disk of {part.parents[2].name}/ is full") from error
        raise


def _holds(folder: Path, names: Sequence[str], blobs: Sequence[tuple[str, bytes]]) -> bool:
    try:
        return all((folder / name).read_bytes() == blob for name, (_kind, blob) in zip(names, blobs, strict=True))
    except OSError:
        return False


def sync_folder(folder: Path) -> None:
    """Make a folder's entries durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _grid(facts: Mapping[str, Any]) -> Grid:
    return Grid(
        shape=tuple(facts["shape"]),
        origin_mm=tuple(facts["origin_mm"]),
        axes=tuple(tuple(axis) for axis in facts["axes"]),  # type: ignore[arg-type]
        spacing_mm=tuple(facts["spacing_mm"]),
        space=facts.get("space", "patient"),
        calibrated=facts.get("calibrated", True),
    )


def _crc32(array: Array) -> int:
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8).reshape(-1).data)


def _plain(value: Any) -> Any:
    """Give a numpy scalar as the number it is."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} does not belong in a work file")
