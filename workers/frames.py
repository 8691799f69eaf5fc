"""Files to frames: each says of itself what a single-frame image would say, whatever kind of object it came in.

An enhanced multi-frame image keeps what its frames share and what differs in functional groups. Here every frame gets a
header of its own, so that one set of rules places and calibrates both kinds. Ref: PS3.3 C.7.6.16
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset

from node.errors import Refused
from workers.pixels import UNREADABLE, quiet, read_header

# Enhanced and legacy converted multi-frame classes, and the single-frame class of each. Ref: PS3.4 B.5
ENHANCED: Mapping[str, str] = {
    "1.2.840.10008.5.1.4.1.1.2.1": "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.2": "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.4.1": "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.4.4": "1.2.840.10008.5.1.4.1.1.4",
    "1.2.840.10008.5.1.4.1.1.130": "1.2.840.10008.5.1.4.1.1.128",
    "1.2.840.10008.5.1.4.1.1.128.1": "1.2.840.10008.5.1.4.1.1.128",
}

# Radiographs: one projection an image. Ref: PS3.4 B.5
PROJECTIONS = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{ending}" for ending in ("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1")
)  # CR; DX, mammography and intraoral X-ray, each for presentation and for processing

# Which attributes each functional group gives a frame. Ref: PS3.3 C.7.6.16.2, C.8.13.5, C.8.15.3, C.8.22.5
GROUPS: Mapping[str, tuple[str, ...]] = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope", "RescaleType"),
    "FrameContentSequence": ("StackID", "InStackPositionNumber", "TemporalPositionIndex", "FrameAcquisitionNumber", "DimensionIndexValues"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"),
    "CardiacSynchronizationSequence": ("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime"),
    "MREchoSequence": ("EffectiveEchoTime",),
    "MRDiffusionSequence": ("DiffusionBValue", "DiffusionDirectionality"),
    "MRImageFrameTypeSequence": ("FrameType", "ComplexImageComponent"),
    "CTImageFrameTypeSequence": ("FrameType",),
    "PETFrameTypeSequence": ("FrameType",),
    "CTReconstructionSequence": ("ConvolutionKernel",),
    "CTXRayDetailsSequence": ("KVP",),
    "UnassignedSharedConvertedAttributesSequence": ("EchoTime", "EchoNumbers", "AcquisitionNumber", "TemporalPositionIdentifier", "KVP"),
    "UnassignedPerFrameConvertedAttributesSequence": ("EchoTime", "EchoNumbers", "AcquisitionNumber", "TemporalPositionIdentifier", "KVP"),
}
# What a frame calls otherwise than an image.
RENAMED = {"FrameType": "ImageType", "FrameAcquisitionNumber": "AcquisitionNumber"}
_BOTH = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_IN_MOSAIC = (0x0019, 0x100A)  # Number of Images in Mosaic, of creator SIEMENS MR HEADER


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a slice of a volume came from: an image, or one frame of it. Frames count from 1; None is an image of its own."""

    sop_instance_uid: str
    frame: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What of a series' files a volume was made of.

    sources  where each slice came from, in z order
    given    how many planes the files hold
    remark   in words, which of them were taken, and what a reader must know of them; empty where all is as usual
    """

    sources: tuple[Source, ...]
    given: int
    remark: str = ""

    @property
    def images(self) -> tuple[str, ...]:
        """Give the SOP Instance UIDs, each once."""
        return tuple(dict.fromkeys(source.sop_instance_uid for source in self.sources))


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One plane's header without pixels, the file it lies in, and its number there; None in a file that holds no other.

    pixels_at  where in the file its pixels begin, where they are one native image's
    """

    path: Path
    header: Dataset
    number: int | None = None
    pixels_at: int | None = None

    @property
    def source(self) -> Source:
        """Give what a result points at."""
        return Source(sop_instance_uid=str(self.header.get("SOPInstanceUID") or ""), frame=self.number)

    @property
    def name(self) -> str:
        """Name the frame for a technologist: by numbers, never by UID."""
        if self.number is not None:
            return f"frame {self.number}"
        try:
            return f"image {int(self.header.InstanceNumber)}"
        except UNREADABLE:
            return "an image without a number"


def frames(paths: Iterable[Path]) -> list[Frame]:
    """Read every file's headers, frame by frame, in the order given; raises Refused."""
    return [frame for path in paths for frame in _of_file(path)]


def headers(sources: Sequence[Source], paths: Mapping[str, Path]) -> list[Dataset]:
    """Read the headers of certain slices again, in their order; raises Refused where a file no longer holds its frame."""
    found: dict[Source, Dataset] = {}
    for path in dict.fromkeys(paths[source.sop_instance_uid] for source in sources):
        found |= {frame.source: frame.header for frame in _of_file(path)}
    if any(source not in found for source in sources):
        raise Refused("An image of the series is no longer what it was when it was loaded; send the series again.")
    return [found[source] for source in sources]


def _of_file(path: Path) -> list[Frame]:
    header, begin = read_header(path)
    with quiet():
        try:
            count = int(header.get("NumberOfFrames") or 1)
            sop_class, mosaic = str(header.get("SOPClassUID") or ""), _is_mosaic(header)
        except UNREADABLE:
            raise Refused("An image's description of its pixels is damaged.") from None
        if mosaic:
            raise Refused("The images are Siemens mosaics, many slices tiled into one picture; send the series as single slices.")
        if sop_class not in ENHANCED:
            if count > 1:
                raise Refused("The series holds multi-frame images of a kind that does not say where each frame lies.")
            return [Frame(path=path, header=header, pixels_at=begin)]
        try:
            return list(_unfold(path, header, count))
        except UNREADABLE:
            raise Refused("The multi-frame image's description of its frames is damaged.") from None


def _is_mosaic(header: Dataset) -> bool:
    """Tell a Siemens mosaic, whose position is that of a picture that never was. Its true slices stand in private text only."""
    image_type = header.get("ImageType") or ()
    if "MOSAIC" in {str(word).upper() for word in ([image_type] if isinstance(image_type, str) else image_type)}:
        return True
    return "SIEMENS" in str(header.get((0x0019, 0x0010), "")).upper() and _IN_MOSAIC in header


def _unfold(path: Path, header: Dataset, count: int) -> Iterator[Frame]:
    """Give each frame of an enhanced image; a group of its own goes before a shared one. Ref: PS3.3 C.7.6.16.1.1."""
    shared, each = (header.get(keyword) or [] for keyword in _BOTH)
    if not shared and not each:
        raise Refused("The multi-frame image does not say where its frames lie: it has no functional groups.")
    if len(each) != count:
        raise Refused(f"The multi-frame image describes {len(each)} frames and says that it holds {count}.")
    common = Dataset()
    common.update({element.tag: element for element in header if element.keyword not in _BOTH and element.tag.group < 0x5200})
    for item in shared:
        _take(item, common)
    for number, item in enumerate(each, start=1):
        own = Dataset()
        own.update(common)
        _take(item, own)
        yield Frame(path=path, header=own, number=number if count > 1 else None)


def _take(groups: Dataset, into: Dataset) -> None:
    """Lay the values of one item's functional groups over a header."""
    for sequence, keywords in GROUPS.items():
        items = groups.get(sequence)
        for keyword in keywords if items else ():
            if keyword in items[0]:
                # A new element: the header shares its elements with those of other frames.
                into.add_new(RENAMED.get(keyword, keyword), items[0][keyword].VR, items[0][keyword].value)
