"""The DICOM conformance statement, written from the tables that the code itself obeys: `python -m overread.conformance`.

Ref: PS3.2 Annex A
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom._uid_dict import UID_dictionary

from node import availability, commitment, deliver, peers, query, spool, storage_classes
from node.element_walk import EXPLICIT_LITTLE
from node.fetch import dimse
from node.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION
from node.profiles import BUILT_IN, ORDER, SERIES_NUMBERS, Kind
from node.settings import NodeSection, Peer

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "conformance.md"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT, RLE, JPEG_LS = EXPLICIT_LITTLE, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80"
# What each kind of result is sent as; a test composes every kind and compares.
RESULTS: dict[Kind, dict[str, tuple[str, ...]]] = {
    "seg": {"1.2.840.10008.5.1.4.1.1.66.4": (EXPLICIT,), "1.2.840.10008.5.1.4.1.1.66.7": (EXPLICIT, RLE, JPEG_LS)},
    "pm": {"1.2.840.10008.5.1.4.1.1.30": (EXPLICIT, RLE, JPEG_LS)},
    "rtstruct": {"1.2.840.10008.5.1.4.1.1.481.3": (EXPLICIT,)},
    "gsps": {"1.2.840.10008.5.1.4.1.1.11.1": (EXPLICIT,)},
    "sc": {"1.2.840.10008.5.1.4.1.1.7": (EXPLICIT,)},
    "kos": {"1.2.840.10008.5.1.4.1.1.88.59": (EXPLICIT,)},
    "sr": {"1.2.840.10008.5.1.4.1.1.88.34": (EXPLICIT,), "1.2.840.10008.5.1.4.1.1.88.33": (EXPLICIT,)},
}
# Ref: PS3.3 Table A.1-1 and the IOD of each class. M, U, C as there; a module that is never written is left out.
EVERY_RESULT = ("Patient (M)", "Patient Study (U)", "General Study (M)", "General Equipment (M)", "SOP Common (M)")
MODULES: dict[Kind, tuple[str, ...]] = {
    "seg": (
        *("General Series (M)", "Segmentation Series (M)", "Frame of Reference (C)", "Enhanced General Equipment (M)", "General Image (M)"),
        *("Image Pixel (M)", "Segmentation Image (M)", "Multi-frame Functional Groups (M)", "Multi-frame Dimension (M)"),
        "Common Instance Reference (C)",
    ),
    "pm": (
        *("General Series (M)", "Parametric Map Series (M)", "Frame of Reference (M)", "Enhanced General Equipment (M)"),
        *("Parametric Map Image (M)", "Image Pixel (C)", "Multi-frame Functional Groups (M)", "Multi-frame Dimension (M)"),
        "Common Instance Reference (C)",
    ),
    "rtstruct": (
        "RT Series (M)",
        "Frame of Reference (U)",
        "Structure Set (M)",
        "ROI Contour (M)",
        "RT ROI Observations (M)",
        "Approval (U)",
    ),
    "gsps": (
        *("General Series (M)", "Presentation Series (M)", "Presentation State Identification (M)", "Presentation State Relationship (M)"),
        *("Displayed Area (M)", "Graphic Annotation (C)", "Graphic Layer (C)", "Softcopy VOI LUT (C)", "Softcopy Presentation LUT (M)"),
    ),
    "sc": ("General Series (M)", "SC Equipment (M)", "General Image (M)", "Image Pixel (M)", "SC Image (M)"),
    "kos": ("Key Object Document Series (M)", "Key Object Document (M)", "SR Document Content (M)"),
    "sr": ("SR Document Series (M)", "SR Document General (M)", "SR Document Content (M)", "Enhanced General Equipment (M)"),
}


def name(uid: str) -> str:
    """Give a UID's name in PS3.6."""
    return str(UID_dictionary[uid][0]) if uid in UID_dictionary else NEWER.get(uid, "private or newer than our dictionary")


NEWER = {"1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage", storage_classes.GE_PRIVATE: "GE Private Implicit VR Big Endian"}


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Give a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines) + "\n"


def _uids(uids: Iterable[str]) -> list[tuple[str, str]]:
    return [(name(uid), f"`{uid}`") for uid in uids]


def _order(uid: str) -> list[int]:
    return [int(part) for part in uid.split(".")]


def storage_scp() -> list[str]:
    """Give every storage class of our dictionary that the listener accepts."""
    return sorted(
        (uid for uid in UID_dictionary if storage_classes.is_storage_class(uid) and UID_dictionary[uid][1] == "SOP Class"), key=_order
    )


def transfer_syntaxes() -> list[str]:
    """Give every transfer syntax that the listener keeps."""
    known = [uid for uid, entry in UID_dictionary.items() if entry[1] == "Transfer Syntax"]
    return sorted((uid for uid in (*known, storage_classes.GE_PRIVATE) if storage_classes.keeps_transfer_syntax(uid)), key=_order)


def _results() -> str:
    rows = [
        (kind, name(uid), f"`{uid}`", ", ".join(name(syntax) for syntax in syntaxes), SERIES_NUMBERS[kind])
        for kind in ORDER
        for uid, syntaxes in RESULTS[kind].items()
    ]
    return table(("kind", "SOP class", "UID", "transfer syntaxes", "series number by default"), rows)


def _profiles() -> str:
    rows = [(profile.name, ", ".join(profile.objects), profile.sr_form, profile.fallback or "none") for profile in BUILT_IN.values()]
    return table(("profile", "kinds sent", "form of the report", "falls back to"), rows)


def _limits() -> str:
    fields, peer = NodeSection.model_fields, Peer.model_fields
    keys = ("max_pdu_bytes", "max_associations", "max_instance_bytes", "association_timeout_s", "network_timeout_s", "ae_titles", "port")
    rows = [(f"[node] {key}", fields[key].default) for key in keys]
    rows += [(f"[[peers]] {key}", peer[key].default) for key in ("max_attempts", "retry_first_s", "retry_max_s", "commitment_timeout_s")]
    return table(("setting", "default"), rows)


def _statuses() -> str:
    def codes(values: Iterable[int]) -> str:
        return ", ".join(f"{value:04X}" for value in sorted(values))

    rows = [
        ("C-STORE, as SCP", "0000", "checked, written and synced to the disk"),
        ("", codes([spool.OUT_OF_RESOURCES]), "the disk is below its watermark, or the instance is larger than `max_instance_bytes`"),
        ("", codes([spool.DOES_NOT_MATCH_CLASS]), "class or UID unlike the command's, or no storage class"),
        ("", codes([spool.CANNOT_UNDERSTAND]), "the data set cannot be walked to its end"),
        ("", "0110", "a fault of ours; the sender keeps its copy"),
        ("C-STORE, as SCU", f"0000, {codes(deliver.STORED_WITH_REMARK)}", "stored; a remark is recorded"),
        (
            "",
            f"A9xx, Cxxx, {codes([deliver.NO_CLASS, deliver.NOT_AUTHORISED])}",
            "not tried again; where the class is refused, the fallback profile",
        ),
        ("", "any other, or no answer", "tried again with growing pauses, what is stored is not sent twice"),
        ("N-EVENT-REPORT, as SCU of commitment", codes([commitment.SUCCESS]), "taken, also a second time"),
        ("", codes([commitment.UNKNOWN_TRANSACTION]), "unknown transaction, or a fault of ours: the archive asks again"),
        ("", codes([commitment.NO_SUCH_EVENT_TYPE, commitment.INVALID_INFORMATION]), "no such event type; information that cannot be read"),
        ("N-CREATE of an availability notice", codes([availability.SUCCESS]), "kept as a hint"),
        ("", codes([availability.INVALID_VALUE, availability.MISSING_ATTRIBUTE]), "a wrong or missing attribute"),
    ]
    return table(("service", "status", "meaning"), rows)


def statement() -> str:
    """Give the whole document: the words of conformance.md beside this file, with the tables in their places."""
    text = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")
    tables = {
        "SERVICES": _services(),
        "IMPLEMENTATION": table(
            ("Implementation Class UID", "Implementation Version Name"), [(f"`{IMPLEMENTATION_CLASS_UID}`", f"`{IMPLEMENTATION_VERSION}`")]
        ),
        "LIMITS": _limits(),
        "STORAGE": table(("SOP class", "UID"), _uids(storage_scp())),
        "SYNTAXES": table(("transfer syntax", "UID"), _uids(transfer_syntaxes())),
        "RESULTS": _results(),
        "PROFILES": _profiles(),
        "GET": table(("transfer syntax", "UID"), _uids(dimse.SYNTAXES)),
        "STATUSES": _statuses(),
        "TLS": peers_minimum(),
        "MODULES": table(
            ("kind", "modules"), [("every kind", ", ".join(EVERY_RESULT)), *((kind, ", ".join(MODULES[kind])) for kind in ORDER)]
        ),
    }
    for place, content in tables.items():
        text = text.replace(f"@{place}@", content)
    return text


def _services() -> str:
    rows = [
        (name(VERIFICATION), "yes", "yes"),
        ("Storage of images and others", "`overread send`", "yes"),
        ("Storage of results", "yes", "no"),
        (name(commitment.PUSH_MODEL), "yes", "no"),
        (name(query.STUDY_ROOT_FIND), "yes, where the peer has `query`", "no"),
        (name(dimse.STUDY_ROOT_MOVE), 'yes, `retrieve = "c-move"`', "no"),
        (name(dimse.STUDY_ROOT_GET), 'yes, `retrieve = "c-get"`', "no"),
        (name(availability.SOP_CLASS), "no", "yes"),
        ("QIDO-RS, WADO-RS (PS3.18)", 'yes, `retrieve = "wado-rs"`', "no"),
    ]
    return table(("service", "SCU", "SCP"), rows)


def peers_minimum() -> str:
    """Give the lowest version of TLS that a peer may speak, as the context that is used says it."""
    from node.settings import Settings  # noqa: PLC0415 -- one value alone needs it

    return peers.client_tls(Settings()).minimum_version.name.replace("TLSv", "TLS ").replace("_", ".")


if __name__ == "__main__":
    DOCUMENT.write_text(statement(), encoding="utf-8")
    print(f"written: {DOCUMENT.name}")
