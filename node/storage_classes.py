"""Which UIDs are valid, which name a storage class, which transfer syntaxes can be kept."""

from __future__ import annotations

import re

from pydicom._uid_dict import UID_dictionary

GE_PRIVATE = "1.2.840.113619.5.2"
_DICOM_ROOT = "1.2.840.10008."
_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
# Digits and dots only: a leading zero in a component is wrong by PS3.5 9.1 yet in daily use; it cannot hurt, so it is kept.
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_NAMES = {uid: entry[0] for uid, entry in UID_dictionary.items() if entry[1] == "SOP Class"}
# Named "... Storage" without being kept as instances of a study: the DICOMDIR and what belongs to no patient (PS3.4 GG).
_NO_STUDY = frozenset(
    {
        "1.2.840.10008.1.3.10", "1.2.840.10008.5.1.4.38.1", "1.2.840.10008.5.1.4.39.1", "1.2.840.10008.5.1.4.43.1",
        "1.2.840.10008.5.1.4.44.1", "1.2.840.10008.5.1.4.45.1", "1.2.840.10008.5.1.4.1.1.201.1",
    }
)  # fmt: skip
# Not a data set of elements (MIME, XML) or a stream beside DIMSE (SMPTE ST 2110).
_NOT_DIMSE = ("1.2.840.10008.1.2.6.", "1.2.840.10008.1.2.7.")
# JPEG XL and deflated frames: newer than pydicom's dictionary, which other packages add to as they are imported.
_NEWER = frozenset({"1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.111", "1.2.840.10008.1.2.4.112", "1.2.840.10008.1.2.8.1"})
_TRANSFER_SYNTAXES = (
    frozenset(uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax" and not uid.startswith(_NOT_DIMSE))
    | _NEWER
    | {GE_PRIVATE}
)


def is_uid(text: str) -> bool:
    """Tell whether a text is a UID that cannot do harm: digits and dots, at most 64. Ref: PS3.5 9.1."""
    return len(text) <= 64 and _UID.fullmatch(text) is not None


def is_storage_class(uid: str) -> bool:
    """Tell whether instances of a SOP class are stored.

    A private class is (nothing else is sent by C-STORE), and so is one under the storage root that is newer than our dictionary.
    """
    if not is_uid(uid) or uid in _NO_STUDY:
        return False
    if not uid.startswith(_DICOM_ROOT):
        return True
    name = _NAMES.get(uid, "")
    if not name:
        return uid.startswith(_STORAGE_ROOT)
    return "Storage" in name and "Commitment" not in name


def is_image_class(uid: str) -> bool:
    """Tell whether every instance of a SOP class has pixel data: private and newer classes may not."""
    return "Image Storage" in _NAMES.get(uid, "") and uid not in _NO_STUDY


def keeps_transfer_syntax(uid: str) -> bool:
    """Tell whether a data set in this transfer syntax can be walked, and so kept."""
    return uid in _TRANSFER_SYNTAXES
