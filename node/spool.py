"""Keep received data sets: checked, durable, byte for byte as they came over the wire.

An instance is acknowledged only after its file was checked, written, synced, renamed into `incoming/` and that folder synced.
The spool's files are the truth for images; every index is rebuilt from them. File names hold hashes, never UIDs or names.

    parts/<random>.part                                        while it is written; locked by its writer, swept when not
    incoming/<2 hex>/<sha256 of the SOP Instance UID>-<first 16 hex of the data set's sha256>.dcm
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from node import journal, keeping
from node.element_walk import Buffer, Unreadable
from node.errors import Refused
from node.header import INDEXED, read_header
from node.part10 import FileMeta, read_meta, write_meta
from node.storage_classes import is_storage_class, is_uid
from node.study import Instance

__all__ = ["INDEXED", "HeaderCheck", "Part", "Spool", "SpoolRefusal", "StoreCommand", "Stored", "read_instance"]

# Ref: PS3.4 Table B.2-1
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH_CLASS = 0xA900
CANNOT_UNDERSTAND = 0xC000

_IN_MEMORY_BYTES = 4 * 1024**2  # a data set up to here is checked before it touches the disk
_log = journal.get("spool")

# What a C-STORE request and its association say about a data set: the same nouns as our file meta information.
StoreCommand = FileMeta
HeaderCheck = Callable[[Mapping[str, Any]], None]


class SpoolRefusal(Refused):
    """The data set cannot be kept; `status` is the C-STORE status that says so."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What became of a data set: `fresh` False when these bytes were here before, `conflict` when other bytes of its UID were."""

    instance: Instance
    fresh: bool
    conflict: bool


class Spool:
    """The folder of received instances. Safe for several threads and processes on one file system.

    fsync  False gives up durability; only the benchmark does, to compare with receivers that never sync.
    """

    def __init__(
        self,
        data_dir: Path,
        free_disk_min_mb: int = 0,
        clock: Callable[[], float] = time.time,
        *,
        max_bytes: int = 4 * 1024**3,
        fsync: bool = True,
    ) -> None:
        self.data_dir = data_dir
        self.clock = clock
        self.max_bytes = max_bytes
        self.fsync = fsync
        self._free_min_bytes = free_disk_min_mb * 1024**2
        self._parts = data_dir / "parts"
        self._incoming = data_dir / "incoming"
        self._folders: set[str] = set()
        for folder in (self._parts, self._incoming):
            folder.mkdir(parents=True, exist_ok=True)
        keeping.make_lock(data_dir)
        self._sync_folder(data_dir)
        self._sweep_parts()

    def store(self, command: StoreCommand, data: Buffer | Iterable[Buffer]) -> Stored:
        """Keep one data set; when this returns it is durable. Raises SpoolRefusal, and then nothing of it is left."""
        with closing(self.begin(command)) as part:
            for piece in (data,) if isinstance(data, Buffer) else data:
                part.write(piece)
            return part.finish()

    def begin(self, command: StoreCommand, check: HeaderCheck | None = None) -> Part:
        """Open a part for a data set that arrives in pieces; raises SpoolRefusal before its first byte is taken.

        `check` sees the header of what arrived and may raise SpoolRefusal: for one who asked for certain images and no others.
        """
        for name, uid in (("class", command.sop_class_uid), ("instance", command.sop_instance_uid)):
            if not is_uid(uid):
                raise SpoolRefusal(DOES_NOT_MATCH_CLASS, f"the SOP {name} UID of the request is not a valid UID")
        if not is_storage_class(command.sop_class_uid):
            raise SpoolRefusal(DOES_NOT_MATCH_CLASS, f"{command.sop_class_uid} is not a storage class")
        self.need_disk()
        return Part(self, command, check)

    def need_disk(self) -> None:
        """Raise SpoolRefusal A700 while the disk is under its watermark."""
        disk = os.statvfs(self._incoming)
        if disk.f_bavail * disk.f_frsize < self._free_min_bytes:
            raise SpoolRefusal(OUT_OF_RESOURCES, f"less than {self._free_min_bytes // 1024**2} MB of disk are free (node.free_disk_min_mb)")

    def scan(self) -> Iterator[Instance]:
        """Read every instance of incoming/ from its file; what cannot be read is journalled and left alone."""
        for path in self.paths():
            instance = self.read(path)
            if instance is not None:
                yield instance

    def paths(self) -> Iterator[str]:
        """Give the paths, relative to the data folder, of every file of incoming/."""
        for folder in sorted(self._incoming.iterdir()):
            for path in sorted(folder.glob("*.dcm")):
                yield f"incoming/{folder.name}/{path.name}"

    def read(self, path: str) -> Instance | None:
        """Read one instance by its relative path; None when it has gone or, journalled, when it cannot be read."""
        try:
            return read_instance(self.data_dir / path, root=self.data_dir)
        except FileNotFoundError:
            return None
        except (Refused, OSError) as error:
            _log.error("spool.unreadable", file=path, reason=str(error))
            return None

    def remove(self, path: str) -> None:
        """Remove an instance's file by its path relative to the data folder; one that is gone is no error."""
        (self.data_dir / path).unlink(missing_ok=True)

    def open_part(self) -> tuple[int, Path]:
        """Create and lock a file in parts/; a sweep that came between creation and lock makes us try again."""
        while True:
            path = self._parts / f"{secrets.token_hex(16)}.part"
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o640)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if os.fstat(handle).st_nlink:
                return handle, path
            os.close(handle)

    def place(self, handle: int, part: Path, name: str) -> tuple[str, bool]:
        """Sync the part, rename it to its name, sync the folder; give its relative path and whether other bytes lie beside it."""
        folder = self._folder(name)
        conflict = self._others(folder, name)
        if self.fsync:
            os.fsync(handle)
        part.rename(folder / name)
        self._sync_folder(folder)
        return f"incoming/{folder.name}/{name}", conflict

    def present(self, name: str) -> tuple[str, bool] | None:
        """Give the path and conflict of a file that is there (a name is given only to whole files), made durable like a new one."""
        folder = self._folder(name)
        if not (folder / name).exists() or not keeping.acknowledged_again(self.data_dir, folder / name, self.clock()):
            return None
        self._sync_folder(folder)  # its writer may have died between rename and sync
        return f"incoming/{folder.name}/{name}", self._others(folder, name)

    def _others(self, folder: Path, name: str) -> bool:
        prefix = name.partition("-")[0]
        with os.scandir(folder) as entries:
            return any(entry.name.startswith(prefix) and entry.name != name for entry in entries)

    def _folder(self, name: str) -> Path:
        """Give the folder of a file name, made durably when it is the first there."""
        folder = self._incoming / name[:2]
        if name[:2] not in self._folders or not folder.is_dir():
            folder.mkdir(exist_ok=True)
            self._sync_folder(self._incoming)
            self._folders.add(name[:2])
        return folder

    def _sync_folder(self, folder: Path) -> None:
        if not self.fsync:
            return
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _sweep_parts(self) -> None:
        """Remove the parts of writers that died; a living writer, of any process, holds its lock."""
        for path in self._parts.glob("*.part"):
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                path.unlink(missing_ok=True)


class Part:
    """A data set on its way in. One thread writes, then calls `finish`; `close` in any case, it removes what was not kept."""

    def __init__(self, spool: Spool, command: StoreCommand, check: HeaderCheck | None = None) -> None:
        self._spool = spool
        self._check = check
        self._command = command
        self._meta = write_meta(command)
        self._memory = bytearray()
        self._hash = hashlib.sha256()
        self._size = 0
        self._handle: int | None = None
        self._path: Path | None = None

    def write(self, piece: Buffer) -> None:
        """Take the next bytes; raises SpoolRefusal when they are too many or the disk will not take them."""
        self._size += len(piece)
        if self._size > self._spool.max_bytes:
            raise SpoolRefusal(OUT_OF_RESOURCES, f"the data set is larger than {self._spool.max_bytes} bytes (node.max_instance_bytes)")
        self._memory += piece
        if len(self._memory) > _IN_MEMORY_BYTES:
            self._hash.update(self._memory)
            with _disk_trouble():
                self._flush()
            self._spool.need_disk()

    def finish(self) -> Stored:
        """Check the data set and make it durable; raises SpoolRefusal."""
        self._hash.update(self._memory)
        digest = self._hash.hexdigest()
        with _disk_trouble():
            header = self._checked_header()
            name = f"{hashlib.sha256(self._command.sop_instance_uid.encode('ascii')).hexdigest()}-{digest[:16]}.dcm"
            placed = self._spool.present(name)
            fresh = placed is None
            if placed is None:
                self._flush()
                assert self._handle is not None
                assert self._path is not None
                placed = self._spool.place(self._handle, self._path, name)
                self._path = None
        path, conflict = placed
        instance = _instance(self._command, header, path, (digest, self._size, self._spool.clock()))
        return Stored(instance=instance, fresh=fresh, conflict=conflict)

    def close(self) -> None:
        """Give up what was not kept; idempotent."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        self._memory = bytearray()

    def _flush(self) -> None:
        pieces: list[memoryview] = [memoryview(self._memory)]
        if self._handle is None:
            self._handle, self._path = self._spool.open_part()
            pieces.insert(0, memoryview(self._meta))
        while pieces:
            written = os.writev(self._handle, pieces)
            while pieces and written >= len(pieces[0]):
                written -= len(pieces.pop(0))
            if pieces:
                pieces[0] = pieces[0][written:]
        self._memory = bytearray()

    def _checked_header(self) -> dict[str, Any]:
        try:
            if self._handle is None:
                header = read_header(self._memory, self._command.transfer_syntax_uid, self._spool.max_bytes)
            else:
                self._flush()
                with (
                    mmap.mmap(self._handle, 0, access=mmap.ACCESS_READ) as whole,
                    memoryview(whole) as view,
                    view[len(self._meta) :] as body,
                ):
                    header = read_header(body, self._command.transfer_syntax_uid, self._spool.max_bytes)
        except Unreadable as error:
            raise SpoolRefusal(CANNOT_UNDERSTAND, error.reason) from None
        identified = _identified(header, self._command)
        if self._check is not None:
            self._check(identified)
        return identified


class _disk_trouble:  # noqa: N801 -- reads as the words it stands for
    """Turn a disk's error into a refusal that lets the sender try again later."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if isinstance(error, OSError):
            what = errno.errorcode.get(error.errno or 0, "an error")
            raise SpoolRefusal(OUT_OF_RESOURCES, f"the disk answered {what}") from error


def read_instance(path: Path, *, root: Path | None = None) -> Instance:
    """Read an instance from a Part-10 file or a bare data set, checked like a received one; raises Refused.

    With `root` the instance's path is relative to it. `received_at` is the file's time.
    """
    with path.open("rb") as file:
        stat = os.fstat(file.fileno())
        if not stat.st_size:
            raise Unreadable("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole, memoryview(whole) as view:
            meta, start = read_meta(view)
            with view[start:] as body:
                header = read_header(body, meta.transfer_syntax_uid)
                digest = hashlib.sha256(body).hexdigest()
                size = len(body)
    shown = str(path if root is None else path.relative_to(root))
    return _instance(meta, _identified(header, None), shown, (digest, size, stat.st_mtime))


def _identified(header: dict[str, Any], command: StoreCommand | None) -> dict[str, Any]:
    """Check the data set's UIDs by themselves and against the request's. Ref: PS3.4 B.2.3."""
    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        uid = header.get(keyword)
        if uid is None:
            raise SpoolRefusal(CANNOT_UNDERSTAND, f"the data set has no {keyword}")
        if not isinstance(uid, str) or not is_uid(uid):
            raise SpoolRefusal(DOES_NOT_MATCH_CLASS, f"the data set's {keyword} is not a valid UID")
    if command is not None and header["SOPClassUID"] != command.sop_class_uid:
        raise SpoolRefusal(DOES_NOT_MATCH_CLASS, "the data set is of another SOP class than the request says")
    if command is not None and header["SOPInstanceUID"] != command.sop_instance_uid:
        raise SpoolRefusal(DOES_NOT_MATCH_CLASS, "the data set has another SOP Instance UID than the request says")
    return header


def _instance(meta: FileMeta, header: dict[str, Any], path: str, facts: tuple[str, int, float]) -> Instance:
    digest, size_bytes, received_at = facts
    return Instance(
        sop_instance_uid=header["SOPInstanceUID"],
        sop_class_uid=header["SOPClassUID"],
        transfer_syntax_uid=meta.transfer_syntax_uid,
        study_instance_uid=header["StudyInstanceUID"],
        series_instance_uid=header["SeriesInstanceUID"],
        sha256=digest,
        path=path,
        size_bytes=size_bytes,
        received_at=received_at,
        calling_ae=meta.calling_ae,
        called_ae=meta.called_ae,
        peer_host=meta.peer_host,
        header={keyword: header[keyword] for keyword in INDEXED if keyword in header},
    )
