"""A SEG's frames as its bytes have them: what each one's groups say, and its pixels. Nothing here is shared with what writes.

A SEG has thousands of frames of a few hundred places; their groups are walked as bytes, and equal bytes are read once.
Ref: PS3.5 8.1.1 (bits run from the least significant upwards, on across frames)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from node.errors import Refused
from workers.results import check_bytes
from workers.results.check_bytes import elements, items, text

Mask = NDArray[np.bool_]
PER_FRAME = 0x52009230


class Frame(Protocol):
    """One frame's pixels of one segment."""

    def count(self) -> int:
        """Count them."""

    def rows(self, band: slice) -> Mask:
        """Give some rows of the mask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bits:
    """A BINARY frame: `data` holds it from the bit `first` on. Example: frame 1 of 5 x 5 pixels begins at bit 25."""

    data: memoryview
    first: int
    shape: tuple[int, int]

    def count(self) -> int:
        """Count the pixels."""
        rows, columns = self.shape
        if self.first % 8 or rows * columns % 8:
            return int(np.count_nonzero(self.rows(slice(0, rows))))
        size = rows * columns // 8
        word = np.uint64 if size % 8 == 0 else np.uint8  # eight bytes at once where they fill the frame
        return int(np.bitwise_count(np.frombuffer(self.data[self.first // 8 :][:size], word)).sum())

    def rows(self, band: slice) -> Mask:
        """Unpack some rows, wherever in a byte they begin."""
        columns = self.shape[1]
        first, after = self.first + band.start * columns, self.first + band.stop * columns
        data = np.frombuffer(self.data, np.uint8, count=-(-after // 8) - first // 8, offset=first // 8)
        values = np.unpackbits(data, bitorder="little")[first % 8 :][: after - first]
        return values.view(bool).reshape(-1, columns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbered:
    """The pixels of a LABELMAP's frame that have one number."""

    pixels: NDArray[Any]
    value: int

    def count(self) -> int:
        """Count them."""
        return int(np.count_nonzero(self.pixels == self.value))

    def rows(self, band: slice) -> Mask:
        """Give some rows of the mask."""
        return np.asarray(self.pixels[band] == self.value)


@dataclass(frozen=True, slots=True)
class Group:
    """One frame's functional groups: the bytes of each sequence by tag."""

    sequences: dict[int, bytes]

    @property
    def place(self) -> tuple[bytes | None, bytes | None]:
        """Give what says where it lies: its position, and the image that it is derived from."""
        return self.sequences.get(0x00209113), self.sequences.get(0x00089124)

    @property
    def number(self) -> int | None:
        """Give the segment that it is of, where it says so."""
        found = self.sequences.get(0x0062000A)
        return None if found is None else int(struct.unpack("<H", only(found)[0x0062000B])[0])


def groups(seg: Dataset) -> list[Group]:
    """Read every frame's groups; raises Refused where they are not as they should be written."""
    return [Group(dict(elements(item))) for item in items(check_bytes.sequence(seg, PER_FRAME))]


def named(derivation: bytes | None) -> list[tuple[str, str, int | None]]:
    """Give the images that a frame is derived from: class, instance and frame."""
    found = []
    for entry in items(derivation or b""):
        for source in items(dict(elements(entry)).get(0x00082112, b"")):
            parts = dict(elements(source))
            frame = parts.get(0x00081160)
            found.append((text(parts[0x00081150]), text(parts[0x00081155]), None if frame is None else int(text(frame))))
    return found


def position(place: bytes | None) -> list[float]:
    """Give the position of a frame's first pixel in LPS mm."""
    return [float(part) for part in text(only(place or b"")[0x00200032]).split("\\")]


def only(sequence: bytes) -> dict[int, bytes]:
    """Give the elements of a sequence's one item; raises Refused where it has not one."""
    found = list(items(sequence))
    if len(found) != 1:
        raise Refused("the SEG has not one description for each frame")
    return dict(elements(found[0]))
