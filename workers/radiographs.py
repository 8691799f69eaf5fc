"""One radiograph to a Volume: a picture as it is displayed, on a grid of its own. CR, DX, mammography, intraoral X-ray.

What a network was taught on is what readers see, so the values are those of the display: modality and VOI transformation,
MONOCHROME1 inverted. Ref: PS3.4 N.2.1; PS3.3 C.8.11, C.11.1, C.11.2
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from models.vocabulary import Grid, Triple, Volume
from node.errors import Refused
from workers.frames import PROJECTIONS, Frame
from workers.pixels import UNREADABLE, calibration, quiet, read, stored_values
from workers.planes import Vector, check_greyscale, numbers, text

FLAT: tuple[Triple, Triple, Triple] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
CALIBRATIONS = frozenset({"GEOMETRY", "FIDUCIAL"})
RAW = "FOR PROCESSING"
Values = NDArray[np.float32]


def is_radiograph(frame: Frame) -> bool:
    """Tell a projection by its storage class."""
    return text(frame.header, "SOPClassUID") in PROJECTIONS


def volume(found: list[Frame]) -> Volume:
    """Load the one radiograph of a series as float32 (1, rows, columns), 0 black to 1 white; raises Refused.

    White is dense, as on film. What is declared as padding is black.
    """
    if not all(is_radiograph(frame) for frame in found):
        raise Refused("The series mixes radiographs with other images.")
    if len(found) > 1:
        raise Refused(f"The series holds {len(found)} radiographs and neither view nor side tells which one counts.")
    frame, header = found[0], found[0].header
    with quiet():
        check_greyscale(header)
        _agrees_with_itself(header)
        try:
            picture = displayed(read(frame.path, pixels=True))
        except UNREADABLE:
            raise Refused("An image's pixel data or its description cannot be read; send the series again.") from None
        return Volume(array=picture[None], grid=grid(header), unit="1", modality=str(header.Modality))


def grid(header: Dataset) -> Grid:
    """Give the picture's grid, in millimetres only where Pixel Spacing is calibrated in the patient.

    Pixel Spacing is so where its type of calibration says it, or where it differs from that at the detector. The detector's own
    spacing is wider than the patient's by the magnification, some 5 to 20 %, and gives the pixels' proportions alone.
    Example: Imager Pixel Spacing 0.143, Pixel Spacing 0.13, both ways: calibrated, 0.13 mm. Pixel Spacing 0.143 too: not.
    Ref: PS3.3 10.7.1.1, 10.7.1.3 (between rows first)
    """
    spacing, at_detector = _positive(header, "PixelSpacing"), _positive(header, "ImagerPixelSpacing")
    if at_detector is None:
        at_detector = _positive(header, "NominalScannedPixelSpacing")
    told = text(header, "PixelSpacingCalibrationType").strip() in CALIBRATIONS
    differs = spacing is not None and at_detector is not None and bool((np.abs(spacing - at_detector) > 1e-4 * at_detector).any())
    calibrated = spacing is not None and (told or differs)
    if spacing is None:
        spacing = at_detector
    if spacing is None:
        aspect = _positive(header, "PixelAspectRatio")
        spacing = np.ones(2) if aspect is None else np.array([aspect[0] / aspect[1], 1.0])
    return Grid(
        shape=(1, int(header.Rows), int(header.Columns)),
        origin_mm=(0.0, 0.0, 0.0),
        axes=FLAT,
        spacing_mm=(1.0, float(spacing[0]), float(spacing[1])),
        space="image",
        calibrated=calibrated,
    )


def displayed(dataset: Dataset) -> Values:
    """Give the picture between 0, black, and 1, white: as the first VOI transformation shows it, else from lowest to highest.

    Ref: PS3.3 C.7.6.3.1.2 (MONOCHROME1: the lowest value is white)
    """
    stored = stored_values(dataset)
    outside = np.zeros(stored.shape, dtype=bool)
    padding = calibration(_without_tables(dataset)).padding
    if padding is not None:
        outside = (stored >= padding[0]) & (stored <= padding[1])
    values = _rescaled(stored, dataset)
    if dataset.get("VOILUTSequence"):
        values, full = looked_up(values, dataset.VOILUTSequence[0], dataset)
        shown = values / full
    elif (window := _window(dataset)) is not None:
        shown = windowed(values, *window)
    else:
        shown = _stretched(values, outside)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    shown[outside] = 0
    return shown


def _rescaled(stored: NDArray[Any], dataset: Dataset) -> Values:
    """Give the values that the modality transformation makes of stored ones. Ref: PS3.3 C.11.1."""
    if dataset.get("ModalityLUTSequence"):
        return looked_up(stored, dataset.ModalityLUTSequence[0], dataset)[0]
    rule = calibration(_without_tables(dataset))
    return np.asarray(stored * np.float32(rule.slope) + np.float32(rule.intercept), dtype=np.float32)


def _without_tables(dataset: Dataset) -> Dataset:
    """Give a header whose rescale and padding can be read, though a look-up table may stand in the place of a rescale."""
    plain = Dataset()
    for element in dataset:
        if element.keyword not in {"ModalityLUTSequence", "VOILUTSequence", "PixelData"}:
            plain.add(element)
    return plain


def looked_up(values: NDArray[Any], table: Dataset, image: Dataset) -> tuple[Values, float]:
    """Put values through a look-up table; give also the value that is white.

    Values below the first mapped one have the first entry, those beyond the last one the last entry.
    Example: descriptor 3, 10, 8 and entries 0, 100, 255: 9 gives 0, 11 gives 100, 200 gives 255; white is 255.
    Ref: PS3.3 C.11.1.1, C.11.2.1.1
    """
    count, first, bits = (int(part) for part in table.LUTDescriptor)
    if first > 0x7FFF and int(image.PixelRepresentation) == 1:
        first -= 1 << 16
    data = table.LUTData
    if isinstance(data, bytes):
        entries = np.frombuffer(data, np.uint8 if len(data) < 2 * (count or 1 << 16) else "<u2").astype(np.int64)
    else:
        entries = np.asarray(data, dtype=np.int64)
    if len(entries) < (count or 1 << 16):
        raise ValueError("short table")
    entries = entries[: count or 1 << 16]
    at = np.clip(np.rint(values).astype(np.int64) - first, 0, len(entries) - 1)
    return entries.astype(np.float32)[at], float(max((1 << bits) - 1, int(entries.max())))


def _window(dataset: Dataset) -> tuple[float, float, str] | None:
    """Give centre, width and function of the first window; None where there is none that can be used."""
    ends = []
    for keyword in ("WindowCenter", "WindowWidth"):
        value = dataset.get(keyword)
        first = value[0] if isinstance(value, list | tuple) or hasattr(value, "append") else value
        if first is None:
            return None
        ends.append(float(first))
    function = (text(dataset, "VOILUTFunction") or "LINEAR").strip().upper()
    if not np.isfinite(ends).all() or ends[1] < (1 if function == "LINEAR" else 1e-9):
        return None
    return ends[0], ends[1], function


def windowed(values: Values, centre: float, width: float, function: str = "LINEAR") -> Values:
    """Give values through a window, 0 to 1.

    Example: centre 2048, width 4096, LINEAR: 0 gives 0, 4095 gives 1, 2047.5 gives 0.5. SIGMOID: 2048 gives 0.5.
    Ref: PS3.3 C.11.2.1.2, C.11.2.1.3
    """
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -80, 80))), dtype=np.float32)
    if function == "LINEAR_EXACT":
        return np.asarray(np.clip((values - centre) / width + 0.5, 0, 1), dtype=np.float32)
    if function != "LINEAR":
        raise Refused("The window's function is one that is not known here, so it is not known how the image should look.")
    if width == 1:
        return np.asarray(values > centre - 0.5, dtype=np.float32)
    return np.asarray(np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1), dtype=np.float32)


def _stretched(values: Values, outside: NDArray[np.bool_]) -> Values:
    inside = values[~outside] if not outside.all() else values
    low, high = float(inside.min()), float(inside.max())
    if high == low:
        return np.zeros_like(values)
    return np.asarray(np.clip((values - low) / (high - low), 0, 1), dtype=np.float32)


def _agrees_with_itself(header: Dataset) -> None:
    """Refuse a raw image that calls dense what it also calls thin. Ref: PS3.3 C.8.11.3.1.2 (sign -1: more is denser)."""
    sign = text(header, "PixelIntensityRelationshipSign")
    inverted = text(header, "PhotometricInterpretation") == "MONOCHROME1"
    if text(header, "PresentationIntentType") == RAW and sign in {"1", "-1"} and (sign == "1") != inverted:
        raise Refused("The raw image contradicts itself on whether its high values are bright or dark.")


def _positive(header: Dataset, keyword: str) -> Vector | None:
    values = numbers(header, keyword, 2)
    return None if values is None or (values <= 0).any() else values
