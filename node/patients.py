"""Whose study it is: compare identities, tell a correction from another patient. Pure.

An identity is a mapping from the keywords of IDENTITY to text; an absent or empty value says nothing.
Ref: PS3.3 C.7.1.1, C.2.2; PS3.5 6.2.1
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# What is asked of the archive, and what of it is put right in our objects.
IDENTITY = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber")
# These may differ between images of one patient only by mistake; the accession number differs where a study serves two orders.
PERSON = ("PatientName", "PatientBirthDate", "PatientSex")
IN_WORDS = {"PatientName": "name", "PatientBirthDate": "birth date", "PatientSex": "sex"}
Identity = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """One patient as an archive lists a study under it; `others` are (ID, issuer) that it says are the same patient."""

    identity: Identity
    others: frozenset[tuple[str, str]] = frozenset()

    @property
    def key(self) -> tuple[str, str]:
        """Give (ID, issuer)."""
        return key_of(self.identity)


def identity_of(header: Mapping[str, object]) -> Identity:
    """Take an identity out of an indexed header."""
    return {keyword: text for keyword in IDENTITY if (text := str(header.get(keyword) or "").strip(" \0"))}


def key_of(identity: Identity) -> tuple[str, str]:
    """Give (ID, issuer), each empty where it is not told."""
    return identity.get("PatientID", ""), identity.get("IssuerOfPatientID", "")


def same_key(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Tell whether two (ID, issuer) may be one patient: what is not told contradicts nothing.

    Example: ("7", "") and ("7", "North") may; ("7", "South") and ("7", "North") may not: two hospitals count alike.
    """
    return all(not a or not b or a == b for a, b in zip(one, other, strict=True))


def keys_agree(keys: Iterable[tuple[str, str]]) -> bool:
    """Tell whether all may be one patient."""
    known = list(keys)
    return len({ident for ident, _ in known if ident}) < 2 and len({issuer for _, issuer in known if issuer}) < 2


def belongs(key: tuple[str, str], patient: Known) -> bool:
    """Tell whether images with that (ID, issuer) are this patient's, by name or by a documented merge."""
    return same_key(key, patient.key) or merged(key, patient)


def merged(key: tuple[str, str], patient: Known) -> bool:
    """Tell whether the archive says that the old ID is this patient's too. Ref: PS3.3 C.7.1.4 (0010,1002), retired (0010,1000)."""
    return not same_key(key, patient.key) and any(ident == key[0] and same_key(key, (ident, issuer)) for ident, issuer in patient.others)


def contested(identities: Iterable[Identity]) -> tuple[str, ...]:
    """Give the keywords of PERSON that two identities tell differently."""
    known = list(identities)
    return tuple(keyword for keyword in PERSON if len({value for entry in known if (value := normal(keyword, entry.get(keyword, "")))}) > 1)


def confirms(patient: Known, keyword: str, identities: Iterable[Identity]) -> bool:
    """Tell whether the archive's value is one of those that came."""
    value = normal(keyword, patient.identity.get(keyword, ""))
    return bool(value) and any(normal(keyword, entry.get(keyword, "")) == value for entry in identities)


def corrected(received: Identity, patient: Known) -> tuple[str, ...]:
    """Give the keywords whose value at the archive is another than what came; what the archive does not tell stays."""
    return tuple(
        keyword
        for keyword in IDENTITY
        if (value := normal(keyword, patient.identity.get(keyword, ""))) and value != normal(keyword, received.get(keyword, ""))
    )


def usual(identities: Sequence[Identity]) -> Identity:
    """Give each keyword's most frequent value; of two as frequent the first in order of text, so that it is always the same."""
    chosen = {}
    for keyword in IDENTITY:
        counted = Counter(value for entry in identities if (value := entry.get(keyword)))
        if counted:
            chosen[keyword] = min(counted, key=lambda value: (-counted[value], value))
    return chosen


def normal(keyword: str, value: str) -> str:
    """Give a value without what does not matter: case and padding of a name, dots of an old date. Example: "DOE^JOHN^^ " -> "doe^john"."""
    text = value.strip(" \0")
    if keyword == "PatientName":
        groups = ["^".join(part.strip() for part in group.split("^")).rstrip("^").casefold() for group in text.split("=")]
        return next((group for group in groups if group), "")
    if keyword == "PatientBirthDate":
        return text.replace(".", "")
    return text.upper() if keyword == "PatientSex" else text


def quoted(text: str, identities: Iterable[Identity]) -> str | None:
    """Tell which attribute of a patient a text quotes, or None. Names count by their parts of three letters and more."""
    words = {word.strip(".,;:()'\"/").casefold() for word in text.split()}
    whole = "".join(character for character in text.casefold() if character.isalnum())
    for identity in identities:
        for keyword, value in identity.items():
            if keyword == "PatientName":
                parts = {part.casefold() for group in value.split("=") for part in group.replace("^", " ").split()}
                if any(part in words for part in parts if len(part) > 2):
                    return keyword
            elif keyword in {"PatientID", "AccessionNumber", "PatientBirthDate"}:
                bare = "".join(character for character in value.casefold() if character.isalnum())
                if value.casefold() in words or (len(bare) > 3 and bare in whole):
                    return keyword
    return None
