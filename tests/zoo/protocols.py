"""Short names for the series that make up protocols, so that a study reads like a worklist."""

from __future__ import annotations

from typing import Any

from tests.zoo.series import Shown

ORIGINAL = ["ORIGINAL", "PRIMARY", "AXIAL"]
MPR = ["DERIVED", "SECONDARY", "MPR"]
MR_ORIGINAL = ["ORIGINAL", "PRIMARY", "M", "ND"]


def ct(number: int, description: str, images: int, step_mm: float, kernel: str = "", **more: Any) -> Shown:
    """Make a stack of CT slices; `agent` is the contrast medium, `kind` the image type."""
    header = {
        "ImageType": more.pop("kind", ORIGINAL),
        "ConvolutionKernel": more.pop("kernels", kernel),
        "BodyPartExamined": more.pop("part", None),
        "ContrastBolusAgent": more.pop("agent", None),
        "KVP": "120",
        "RescaleIntercept": "-1024",
        "RescaleSlope": "1",
    }
    plane = more.pop("plane", "axial")
    return Shown(
        number=number, modality="CT", description=description, images=images, step_mm=step_mm, plane=plane,
        header={key: value for key, value in header.items() if value} | more.pop("header", {}), **more,
    )  # fmt: skip


def scout(number: int, description: str, images: int = 1, **more: Any) -> Shown:
    """Make the planning views of a CT."""
    kind = more.pop("kind", ["ORIGINAL", "PRIMARY", "LOCALIZER"])
    return ct(number, description, images, 1.0, kind=kind, plane=more.pop("plane", "coronal"), **more)


def mr(number: int, description: str, images: int, step_mm: float, **more: Any) -> Shown:
    """Make a stack of MR slices; `times` are echo, repetition and inversion time in ms."""
    echo, repetition, inversion = more.pop("times", (None, None, None))
    header = {
        "ImageType": more.pop("kind", MR_ORIGINAL),
        "BodyPartExamined": more.pop("part", None),
        "ContrastBolusAgent": more.pop("agent", None),
        "ScanningSequence": more.pop("scanning", None),
        "EchoTime": echo,
        "RepetitionTime": repetition,
        "InversionTime": inversion,
    }
    plane = more.pop("plane", "axial")
    return Shown(
        number=number, modality="MR", description=description, images=images, step_mm=step_mm, plane=plane,
        pixel_mm=more.pop("pixel_mm", 0.9),
        header={key: value for key, value in header.items() if value} | more.pop("header", {}), **more,
    )  # fmt: skip


def pet(number: int, description: str, images: int, step_mm: float, *, corrected: bool = True, **more: Any) -> Shown:
    """Make a stack of PET slices, with or without attenuation correction."""
    header = {
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "CorrectedImage": ["NORM", "DTIM", "ATTN", "SCAT", "DECY", "RAN"] if corrected else ["NORM", "DTIM", "DECY", "RAN"],
        "Units": "BQML",
        "RescaleIntercept": "0",
        "RescaleSlope": "2.5",
    }
    return Shown(
        number=number, modality="PT", description=description, images=images, step_mm=step_mm, plane="axial", pixel_mm=4.07,
        header=header | more.pop("header", {}), **more,
    )  # fmt: skip


def mammogram(number: int, view: str, side: str, **more: Any) -> Shown:
    """Make one mammography image."""
    header = {
        "ImageType": ["ORIGINAL", "PRIMARY", ""],
        "ViewPosition": view,
        "ImageLaterality": side,
        "BodyPartExamined": "BREAST",
        "PresentationIntentType": more.pop("intent", "FOR PRESENTATION"),
    }
    return Shown(
        number=number, modality="MG", description=more.pop("description", f"{side} {view}"), header=header | more.pop("header", {}), **more
    )


def xray(number: int, modality: str, description: str, view: str = "", **more: Any) -> Shown:
    """Make one radiograph."""
    header = {
        "ImageType": more.pop("kind", ["ORIGINAL", "PRIMARY"]),
        "ViewPosition": view or None,
        "BodyPartExamined": more.pop("part", None),
        "PresentationIntentType": more.pop("intent", "FOR PRESENTATION" if modality == "DX" else None),
    }
    return Shown(
        number=number, modality=modality, description=description,
        header={key: value for key, value in header.items() if value} | more.pop("header", {}), **more,
    )  # fmt: skip


def thing(number: int, modality: str, storage: str, description: str, **more: Any) -> Shown:
    """Make an object that holds no images, or a picture of a screen."""
    return Shown(number=number, modality=modality, storage=storage, description=description, **more)


def dose(number: int = 999, description: str = "Dose Report") -> Shown:
    """Make the scanner's radiation dose report."""
    return thing(number, "SR", "dose SR", description)


def screen(number: int, description: str, modality: str = "CT") -> Shown:
    """Make a secondary capture that keeps its study's modality, as scanners do."""
    return thing(number, modality, "SC", description, header={"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]})


def frames(number: int, modality: str, description: str, count: int, **header: Any) -> Shown:
    """Make one enhanced image of many frames; where they lie is in its functional groups."""
    return Shown(
        number=number, modality=modality, storage=f"enhanced {modality}", description=description,
        header={"NumberOfFrames": count, "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]} | header,
    )  # fmt: skip
