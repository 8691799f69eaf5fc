"""Secondary captures: pages that every viewer shows, because they are nothing but pictures.

Where each picture of a page lies, and which part of which slice it shows, stands in Derivation Description in one form,
so that a reader (and our own check) can go back from the page to the images.
Ref: PS3.3 A.8.1, C.8.6; docs/results.md
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from highdicom.sc import SCImage
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian

from node.profiles import Kind
from workers.drawing import Sides, View
from workers.results import header, keyimages, pages, pictures, references, wording
from workers.results.identity import object_uid
from workers.results.pages import Page
from workers.results.request import ComposeRequest, Draft
from workers.results.segments import Segment

KIND: Kind = "sc"
KEY_SERIES = 10  # added to the Series Number for the key images, which are a series of their own
TOLD = "Pictures as left,top widthxheight slice rows columns left-side top-side: "


def write(draft: Draft) -> tuple[Dataset, ...]:
    """Write the pages that the profile asks for: the summary, then the key images, each a series of its own."""
    wanted = draft.request.profile.sc_pages
    summary = pages.summary(draft) if "summary" in wanted else []
    keys = keyimages.keys(draft) if "key-images" in wanted else []
    written = [_build(draft, "", number, page, _indices(summary)) for number, page in enumerate(summary, start=1)]
    written += [_build(draft, "key", number, page, _indices([page])) for number, page in enumerate(keys, start=1)]
    return tuple(written)


def _indices(shown: Iterable[Page]) -> list[int]:
    return sorted({view.index for page in shown for view in page.views})


def _build(draft: Draft, part: str, number: int, page: Page, indices: Sequence[int]) -> Dataset:
    """Write one page of a series (part "" is the summary) that refers to those slices."""
    request, segments = draft.request, draft.segments
    donor = header.donor(request.sources[0])
    physician = donor.ReferringPhysicianName
    donor.ReferringPhysicianName = None  # the library warns of a name without a caret, and its warning holds the name
    dataset = SCImage.from_ref_dataset(
        ref_dataset=donor,
        pixel_array=np.asarray(page.image),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        series_instance_uid=object_uid(request, KIND, f"{part}series"),
        series_number=request.series_number(KIND) + (KEY_SERIES if part else 0),
        sop_instance_uid=object_uid(request, KIND, f"{part}instance-{number}"),
        instance_number=number,
        manufacturer=header.MANUFACTURER,
        manufacturer_model_name=header.MANUFACTURER,
        software_versions=header.software_versions(request),
        device_serial_number=request.settings.installation_id,
        series_description=_description(request, segments, part),
        contributing_equipment=header.equipment(request),
        specific_character_set=None,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    donor.ReferringPhysicianName = physician
    _complete(dataset, donor, pictures.told_sides(request) if part else Sides())
    if page.views:
        dataset.DerivationDescription = TOLD + "; ".join(_tell(view, pictures.told_sides(request)) for view in page.views)
    _refer(dataset, request, indices)
    header.finish(dataset, request, KIND)
    dataset.DateOfSecondaryCapture, dataset.TimeOfSecondaryCapture = dataset.ContentDate, dataset.ContentTime
    return dataset


def _complete(dataset: Dataset, donor: Dataset, told: Sides) -> None:
    """Put in what the library leaves out: the rest of patient and study, how the page was made, which way it lies where it is one slice."""
    dataset.copy_patient_and_study_information(donor)
    dataset.ConversionType = "WSD"
    dataset.BurnedInAnnotation = "YES"
    for keyword in ("BodyPartExamined", "Laterality", "ImageLaterality"):
        if donor.get(keyword):
            dataset.add(donor[keyword])
    dataset.add_new("PatientOrientation", "CS", [told.right, told.bottom] if told.right and told.bottom else None)


def _description(request: ComposeRequest, segments: tuple[Segment, ...], part: str) -> str:
    """Name a series: the result first, and of key images that they are such."""
    return wording.series_description(request, KIND, f"{'Key images: ' if part else ''}{wording.message(request, segments)}")


def _tell(view: View, told: Sides) -> str:
    """Give "24,170 318x254 s22 r1-512 c1-512 R A": slice, rows and columns count from 1; "p3" at its end: label 3's probability."""
    rows, columns = (f"{low + 1}-{high}" for low, high in (view.rows, view.columns))
    sides = f"{told.left or '-'} {told.top or '-'}"
    heat = "" if view.heat is None else f" p{view.heat}"
    return f"{view.left},{view.top} {view.width}x{view.height} s{view.index + 1} r{rows} c{columns} {sides}{heat}"


def _refer(dataset: Dataset, request: ComposeRequest, indices: Sequence[int]) -> None:
    """Name the images that are shown, as sources and as members of their series. Ref: PS3.3 C.7.6.1, C.12.2."""
    sources, images = [], {}
    for index in indices:
        item = Dataset()
        references.point(request, item, index)
        purpose = Dataset()
        purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
        purpose.CodeMeaning = "Source of image processing operation"
        item.PurposeOfReferenceCodeSequence = Items([purpose])
        sources.append(item)
        image = Dataset()
        image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID
        images[image.ReferencedSOPInstanceUID] = image
    if not sources:
        return
    series = Dataset()
    series.SeriesInstanceUID = request.sources[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = Items(images.values())
    dataset.SourceImageSequence, dataset.ReferencedSeriesSequence = Items(sources), Items([series])
