"""The presentation state: outlines and names over the key images, in a layer that a viewer can switch off.

A box or outline is a closed polyline in pixels. (0, 0) is the top left corner of the first pixel and (0.5, 0.5) its centre, as in
a report's SCOORD: the same numbers serve both, no half pixel is added. Only Displayed Area counts whole pixels from (1, 1).
The picture itself stays as the image has it: its rescale, its window or look-up table, MONOCHROME1 as INVERSE.
Ref: PS3.3 A.33.1, C.10.4, C.10.5, C.11.6, C.11.8; PS3.4 N.2
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from fractions import Fraction

import highdicom
import numpy as np
from highdicom.color import CIELabColor
from highdicom.pr import GraphicAnnotation, GraphicLayer, GraphicObject, GrayscaleSoftcopyPresentationState, TextObject
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian

from node.profiles import Kind
from workers.measure import Polyline, SegmentMeasures
from workers.results import header, references, wording
from workers.results.identity import object_uid
from workers.results.request import ComposeRequest, Draft
from workers.results.segments import Segment

KIND: Kind = "gsps"
LAYER = "AI"
YELLOW = CIELabColor(93, -14, 84)
MODALITY = ("ModalityLUTSequence", "RescaleIntercept", "RescaleSlope", "RescaleType")
WINDOW = ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction")
Marked = tuple[Segment, SegmentMeasures]


def write(draft: Draft) -> tuple[Dataset, ...]:
    """Write a presentation state for the key images, one for each rescale among them; none where nothing is outlined.

    A detector's findings are outlined, and the organs of a model that has no findings.
    """
    finds = draft.request.card.card.finds
    marked = [pair for pair in draft.measured if pair[0].finding is not None or not finds]
    groups: dict[str, list[Marked]] = {}
    for pair in sorted(marked, key=lambda pair: (pair[1].key_slice, pair[0].number)):
        groups.setdefault(_rescale(draft.request.sources[pair[1].key_slice]), []).append(pair)
    return tuple(_build(draft.request, group, number) for number, group in enumerate(groups.values(), start=1))


def _rescale(source: Dataset) -> str:
    """Tell apart images that one modality transformation cannot serve: a state has but one. Ref: PS3.4 N.2.1.1."""
    return repr([str(source.get(keyword, "")) for keyword in MODALITY])


def _build(request: ComposeRequest, marked: Sequence[Marked], number: int) -> Dataset:
    """Build one; highdicom takes windows and rescale over only where all is in order, so both are put in here."""
    keys = sorted({measures.key_slice for _, measures in marked})
    donors = [header.donor(request.sources[key]) for key in keys]
    bare = [_without(donor, (*MODALITY, *WINDOW, "VOILUTSequence")) for donor in references.stand_ins(request, donors, keys)]
    layer = GraphicLayer(layer_name=LAYER, order=1, description="AI marks, unverified", display_color=YELLOW)
    part = "" if number == 1 else f"-{number}"
    dataset = GrayscaleSoftcopyPresentationState(
        referenced_images=bare,
        series_instance_uid=object_uid(request, KIND, "series"),
        series_number=request.series_number(KIND),
        sop_instance_uid=object_uid(request, KIND, f"instance{part}"),
        instance_number=number,
        manufacturer=header.MANUFACTURER,
        manufacturer_model_name=header.MANUFACTURER,
        software_versions=header.software_versions(request),  # type: ignore[arg-type]  # pydicom takes a list only
        device_serial_number=request.settings.installation_id,
        content_label=wording.content_label(request),
        content_description=wording.seg_description(request),
        graphic_annotations=[_annotation(request, image, layer, marked, key) for image, key in zip(bare, keys, strict=True)],
        graphic_layers=[layer],
        presentation_lut_transformation=highdicom.PresentationLUTTransformation(
            presentation_lut_shape="INVERSE" if donors[0].get("PhotometricInterpretation") == "MONOCHROME1" else "IDENTITY"
        ),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        series_description=wording.seg_description(request),
        contributing_equipment=header.equipment(request),
        specific_character_set=None,
    )
    dataset.DisplayedAreaSelectionSequence = [_whole_image(request)]
    _take_rescale(dataset, donors[0])
    _take_windows(dataset, bare, donors)
    references.put_right(request, dataset)
    _take_body_part(dataset, donors[0])
    header.finish(dataset, request, KIND)
    return dataset


def _without(header_: Dataset, keywords: Sequence[str]) -> Dataset:
    bare = Dataset()
    for element in header_:
        if element.keyword not in keywords:
            bare.add(element)
    bare.add_new("SamplesPerPixel", "US", 1)  # where an image does not say so: only grey ones get here
    return bare


def _annotation(request: ComposeRequest, image: Dataset, layer: GraphicLayer, marked: Sequence[Marked], key: int) -> GraphicAnnotation:
    """Give the outlines and names of one key image."""
    here = [pair for pair in marked if pair[1].key_slice == key]
    return GraphicAnnotation(
        referenced_images=[image],
        graphic_layer=layer,
        graphic_objects=[
            GraphicObject(
                graphic_type="POLYLINE",
                graphic_data=measures.outline,
                units="PIXEL",
                tracking_id=segment.name,
                tracking_uid=segment.tracking_uid,
            )
            for segment, measures in here
        ],
        text_objects=[
            TextObject(
                text_value=segment.name,
                units="PIXEL",
                bounding_box=name_box(measures.outline, len(segment.name), request.prediction.grid.shape[1:]),
                text_justification="LEFT",
            )
            for segment, measures in here
        ],
    )


def name_box(outline: Polyline, characters: int, shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    """Give left, top, right and bottom of a name above its outline, below it where there is no room, within the image.

    Example: on 256 x 256 pixels 9 characters are 8 high and 46 wide; over an outline from (100, 60) to (120, 80): 100, 51, 146, 59.
    """
    rows, columns = shape
    high = min(rows, max(8, rows // 32))
    wide = min(columns, int(high * 0.64 * characters + 0.5))
    (left, top), (_, bottom) = outline.min(axis=0), outline.max(axis=0)
    over, under = top - 1 - high, bottom + 1
    at = over if over >= 0 else min(under, rows - high)
    start = float(np.clip(left, 0, columns - wide))
    return start, float(at), start + wide, float(at) + high


def _whole_image(request: ComposeRequest) -> Dataset:
    """Show all of the image, with millimetres where it has them, else with its pixels' proportions.

    Example: 0.55 mm between rows and 0.44 between columns, not calibrated: the aspect ratio is 5 to 4. Ref: PS3.3 C.10.4
    """
    grid = request.prediction.grid
    area = Dataset()
    area.DisplayedAreaTopLeftHandCorner = [1, 1]
    area.DisplayedAreaBottomRightHandCorner = [grid.shape[2], grid.shape[1]]
    area.PresentationSizeMode = "SCALE TO FIT"
    if grid.calibrated:
        area.PresentationPixelSpacing = [f"{value:.10g}" for value in grid.spacing_mm[1:]]
    else:
        ratio = Fraction(grid.spacing_mm[1] / grid.spacing_mm[2]).limit_denominator(1000)
        area.PresentationPixelAspectRatio = [ratio.numerator, ratio.denominator]
    return area


def _take_body_part(dataset: Dataset, source: Dataset) -> None:
    """Say which part and side it is, as the images' series or, in mammography, the image itself says. Ref: PS3.3 C.7.3.1 (2C)."""
    if source.get("BodyPartExamined"):
        dataset.BodyPartExamined = source.BodyPartExamined
    side = source.get("Laterality") or source.get("ImageLaterality")
    if side in {"L", "R"}:
        dataset.Laterality = side


def _take_rescale(dataset: Dataset, source: Dataset) -> None:
    """Take the modality transformation over; a rescale needs all of its three parts. Ref: PS3.3 C.11.1."""
    if source.get("ModalityLUTSequence"):
        dataset.add(deepcopy(source["ModalityLUTSequence"]))
    elif source.get("RescaleSlope") is not None and source.get("RescaleIntercept") is not None:
        for keyword in ("RescaleIntercept", "RescaleSlope"):
            dataset.add(deepcopy(source[keyword]))
        dataset.RescaleType = str(source.get("RescaleType") or ("HU" if source.Modality == "CT" else "US"))


def _take_windows(dataset: Dataset, images: Sequence[Dataset], donors: Sequence[Dataset]) -> None:
    """Take each image's look-up table over, else its windows; one item where all images have the same. Ref: PS3.3 C.11.8."""
    items: dict[str, tuple[Dataset, list[Dataset]]] = {}
    for image, donor in zip(images, donors, strict=True):
        item = _window(donor)
        if item is not None:
            items.setdefault(repr(item), (item, []))[1].append(image)
    if not items:
        return
    for item, shown in items.values():
        if len(shown) < len(images):
            item.ReferencedImageSequence = [_reference(image) for image in shown]
    dataset.SoftcopyVOILUTSequence = [item for item, _ in items.values()]


def _window(source: Dataset) -> Dataset | None:
    """Give the image's own way to be shown; None where it has none, or one that cannot be used."""
    item = Dataset()
    if source.get("VOILUTSequence"):
        item.add(deepcopy(source["VOILUTSequence"]))
        return item
    for keyword in WINDOW:
        if keyword in source and source[keyword].VM:
            item.add(deepcopy(source[keyword]))
    counts = {keyword: item[keyword].VM for keyword in WINDOW[:3] if keyword in item}
    widths = item.get("WindowWidth")
    if len({counts.get("WindowCenter"), counts.get("WindowWidth")}) != 1 or widths is None:
        return None
    if min(widths if item["WindowWidth"].VM > 1 else [widths]) < 1:
        return None
    if "WindowCenterWidthExplanation" in counts and counts["WindowCenterWidthExplanation"] != counts["WindowWidth"]:
        del item.WindowCenterWidthExplanation
    return item


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item
