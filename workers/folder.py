"""A folder of DICOM files as studies: for `models run`, `rules explain` and `send`, without a node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from node.errors import Refused
from node.spool import SpoolRefusal, read_instance
from node.study import Instance, Series, Study


def read(folder: Path) -> list[Instance]:
    """Read every DICOM file below the folder, by path; what is no DICOM file is passed over. Raises Refused when none is left."""
    if not folder.is_dir():
        raise Refused(f"{folder} is not a folder")
    found = []
    for path in sorted(entry for entry in folder.rglob("*") if entry.is_file() and entry.name != "DICOMDIR"):
        try:
            found.append(read_instance(path.absolute()))
        except (SpoolRefusal, Refused):
            continue
    if not found:
        raise Refused(f"{folder} holds no DICOM files")
    return found


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
