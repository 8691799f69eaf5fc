"""A folder of DICOM files as studies: for `models run`, `rules explain` and `send`, without a node."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.errors import Refused
from node.spool import SpoolRefusal, read_instance
from node.study import Instance, Series, Study

REASONS_SHOWN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a folder holds: instances by path, and how many files were passed over for which reason."""

    instances: tuple[Instance, ...]
    passed_over: Mapping[str, int]

    @property
    def words(self) -> str:
        """Say what was passed over; empty where nothing was."""
        most = sorted(self.passed_over.items(), key=lambda entry: (-entry[1], entry[0]))
        parts = [f"{count} ({reason})" for reason, count in most[:REASONS_SHOWN]]
        if rest := sum(count for _, count in most[REASONS_SHOWN:]):
            parts.append(f"{rest} for other reasons")
        total = sum(self.passed_over.values())
        return f"{total} file{'' if total == 1 else 's'} passed over: {', '.join(parts)}" if parts else ""


def read(folder: Path) -> list[Instance]:
    """Read every DICOM file below the folder, by path; what a node would not receive is passed over. Raises Refused when none is left."""
    return list(scan(folder).instances)


def scan(folder: Path) -> Found:
    """Read every file below the folder as a node would receive it; raises Refused when none is left."""
    if not folder.is_dir():
        raise Refused(f"{folder} is not a folder")
    found, passed_over = [], Counter[str]()
    for path in sorted(entry for entry in folder.rglob("*") if entry.is_file() and entry.name != "DICOMDIR"):
        try:
            found.append(read_instance(path.absolute()))
        except (SpoolRefusal, Refused) as refused:
            passed_over[refused.reason if _has_prefix(path) else "no DICOM file"] += 1
    result = Found(instances=tuple(found), passed_over=passed_over)
    if not found:
        raise Refused(f"{folder} holds no DICOM file that a node could receive; {result.words or 'it is empty'}")
    return result


def _has_prefix(path: Path) -> bool:
    """Tell a DICOM file by its prefix. Ref: PS3.10 7.1."""
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def studies(instances: Sequence[Instance]) -> list[Study]:
    """Group instances into studies of series, everything in the order of UIDs; a repeated SOP Instance UID counts once."""
    tree: dict[str, dict[str, dict[str, Instance]]] = defaultdict(lambda: defaultdict(dict))
    for entry in instances:
        tree[entry.study_instance_uid][entry.series_instance_uid].setdefault(entry.sop_instance_uid, entry)
    return [
        Study(
            study_instance_uid=study,
            revision=1,
            series=tuple(
                Series(series_instance_uid=uid, instances=tuple(found[key] for key in sorted(found)))
                for uid, found in sorted(tree[study].items())
            ),
        )
        for study in sorted(tree)
    ]
