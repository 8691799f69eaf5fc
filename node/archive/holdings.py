"""The files of an archive and their index in memory; a restart reads the index back from the files."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag

from node.errors import Refused

_HIGHEST_GROUP = 0x0028  # what C-FIND may ask for lies in the groups up to the image description


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One instance in the archive; `header` holds what can be queried."""

    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    path: Path
    header: Dataset = field(repr=False)


class Holdings:
    """Instances by SOP Instance UID: the first bytes received are kept, a repeat changes nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._held: dict[str, Held] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(directory.glob("??/*.dcm")):
            held = _describe(path.read_bytes(), path)
            self._held[held.sop_instance_uid] = held

    def keep(self, part10: bytes) -> Held:
        """Keep a Part-10 file as it is; raises Refused when it cannot be read as far as its UIDs."""
        held = _describe(part10, self.directory)
        name = hashlib.sha256(held.sop_instance_uid.encode()).hexdigest()
        path = self.directory / name[:2] / f"{name}.dcm"
        with self._lock:
            known = self._held.get(held.sop_instance_uid)
            if known is not None:
                return known
            path.parent.mkdir(exist_ok=True)
            partial = path.with_suffix(".part")
            partial.write_bytes(part10)
            partial.replace(path)
            held = _describe(part10, path)
            self._held[held.sop_instance_uid] = held
        return held

    def get(self, sop_instance_uid: str) -> Held | None:
        """Give one instance, or None."""
        with self._lock:
            return self._held.get(sop_instance_uid)

    def all(self) -> list[Held]:
        """Give all instances in the order of their arrival."""
        with self._lock:
            return list(self._held.values())

    def study(self, study_instance_uid: str) -> list[Held]:
        """Give a study's instances, series by series, in InstanceNumber order."""
        return sorted((held for held in self.all() if held.study_instance_uid == study_instance_uid), key=_place)


def _place(held: Held) -> tuple[str, int, str]:
    number = held.header.get("InstanceNumber")
    return held.series_instance_uid, int(number) if number not in (None, "") else 0, held.sop_instance_uid


def contexts_of(held: Iterable[Held]) -> list[tuple[str, str]]:
    """Give each (SOP class, transfer syntax) that occurs, once."""
    return sorted({(item.sop_class_uid, item.transfer_syntax_uid) for item in held})


def _describe(part10: bytes, path: Path) -> Held:
    try:
        whole = dcmread(BytesIO(part10), stop_before_pixels=True)
        header = Dataset()
        implicit, little = whole.original_encoding
        header.set_original_encoding(implicit, little, whole.original_character_set)
        for tag in whole.keys():  # noqa: SIM118 -- iterating a Dataset decodes every element, sequences too
            element = whole.get_item(tag)
            if Tag(tag).group <= _HIGHEST_GROUP and not Tag(tag).is_private and element.VR != "SQ":
                header[tag] = element  # still raw: decoded when a query asks for it
        return Held(
            sop_instance_uid=str(whole.SOPInstanceUID),
            sop_class_uid=str(whole.SOPClassUID),
            transfer_syntax_uid=str(whole.file_meta.TransferSyntaxUID),
            study_instance_uid=str(whole.StudyInstanceUID),
            series_instance_uid=str(whole.SeriesInstanceUID),
            path=path,
            header=header,
        )
    except (InvalidDicomError, AttributeError, ValueError, KeyError, NotImplementedError, OSError) as error:
        raise Refused(f"not a readable DICOM instance: {type(error).__name__}") from error


def data_set_of(path: Path) -> bytes:
    """Give the bytes of a Part-10 file behind its file meta information, as they came over the wire.

    The group length (0002,0000), always first and explicit VR little endian, says how long the group is. Ref: PS3.10 7.1
    """
    content = path.read_bytes()
    if content[128:132] != b"DICM" or content[132:138] != b"\x02\x00\x00\x00UL":
        raise Refused(f"{os.path.basename(path)} is no Part-10 file with a group length")  # noqa: PTH119 -- the name only
    return content[144 + int.from_bytes(content[140:144], "little") :]
