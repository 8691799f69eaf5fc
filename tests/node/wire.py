"""Data sets as they come over the wire: made by pydicom, encoded in any transfer syntax, without file meta information."""

from __future__ import annotations

from copy import deepcopy
from io import BytesIO

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EncapsulatedPDFStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    generate_uid,
)

from node.spool import StoreCommand

ROWS, COLUMNS = 16, 24
PATIENT = "Zaunkoenig^Wilhelmine"


def ct(*, rows: int = ROWS, columns: int = COLUMNS, **values: object) -> Dataset:
    """Make one CT slice; `values` by keyword replace or add attributes."""
    ds = Dataset()
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.Modality = "CT"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.PatientName = PATIENT
    ds.PatientID = "PHI-4711"
    ds.StudyDate = "20260102"
    ds.SeriesNumber = 3
    ds.InstanceNumber = 7
    ds.ImagePositionPatient = [-120.5, -100, 33.25]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing = [0.5, 0.5]
    ds.SliceThickness = 2.5
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "T-D4000", "SRT", "Abdomen"
    ds.AnatomicRegionSequence = Sequence([item])
    ds.PixelData = np.arange(rows * columns, dtype="<i2").tobytes()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def pdf() -> Dataset:
    """Make an encapsulated document: no rows, no pixels."""
    ds = ct()
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "PixelData"):
        delattr(ds, keyword)
    ds.SOPClassUID, ds.Modality = EncapsulatedPDFStorage, "DOC"
    ds.MIMETypeOfEncapsulatedDocument, ds.EncapsulatedDocument = "application/pdf", b"%PDF-1.4 %%EOF\0\0"
    return ds


def encoded(ds: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """Encode a data set; compressed syntaxes get its pixel data as one opaque fragment."""
    out = deepcopy(ds)
    out.file_meta = FileMetaDataset()
    out.file_meta.TransferSyntaxUID = syntax
    natives = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
    if syntax not in natives and "PixelData" in out:
        frames = [b"\xff\xd8" + bytes(30)] * int(out.get("NumberOfFrames", 1))
        out.PixelData = encapsulate(frames)
        out["PixelData"].VR = "OB"
        out["PixelData"].is_undefined_length = True
    elif "PixelData" in out:
        out["PixelData"].VR = "OW"
        if syntax == ExplicitVRBigEndian:
            out.PixelData = np.frombuffer(out.PixelData, "<i2").astype(">i2").tobytes()
            out["PixelData"].VR = "OW"
    buffer = BytesIO()
    out.save_as(buffer, enforce_file_format=True)
    whole = buffer.getvalue()
    return whole[144 + int.from_bytes(whole[140:144], "little") :]


def command(ds: Dataset, syntax: str = ExplicitVRLittleEndian, **changes: str) -> StoreCommand:
    """Give the C-STORE request that honestly describes a data set; `changes` make it lie."""
    values = {
        "sop_class_uid": str(ds.SOPClassUID),
        "sop_instance_uid": str(ds.SOPInstanceUID),
        "transfer_syntax_uid": str(syntax),
        "calling_ae": "MODALITY",
        "called_ae": "OVERREAD",
        "peer_host": "127.0.0.1",
    }
    return StoreCommand(**{**values, **changes})
