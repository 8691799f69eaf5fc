"""Put the patient right in the source headers that a result inherits from: what the job's row says, and nothing else.

Ref: PS3.3 C.7.1.1; PS3.5 6.1.2.3
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from pydicom import config
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from node.patients import IDENTITY, normal

UNICODE = "ISO_IR 192"


def apply(sources: Sequence[Dataset], record: Mapping[str, Any] | None) -> tuple[Dataset, ...]:
    """Give the headers with the identity of the record (node.demographics); those it says nothing new of stay as they are.

    A value that only differs in case or padding is kept verbatim, unless the images differ among themselves. Where the
    images' character set cannot hold a corrected value, all of the header becomes UTF-8.
    """
    wanted: Mapping[str, str] = (record or {}).get("use", {})
    changed = {keyword: wanted[keyword] for keyword in IDENTITY if keyword in wanted and _is_news(sources, keyword, wanted[keyword])}
    if not changed:
        return tuple(sources)
    return tuple(_corrected(source, changed) for source in sources)


def _is_news(sources: Sequence[Dataset], keyword: str, value: str) -> bool:
    there = {str(source.get(keyword) or "") for source in sources}
    return len(there) > 1 or any(normal(keyword, text) != normal(keyword, value) for text in there)


def _corrected(source: Dataset, changed: Mapping[str, str]) -> Dataset:
    copy = deepcopy(source)
    if not all(_fits(value, copy) for value in changed.values()):
        copy.decode()  # while the old character set is still told
        copy.SpecificCharacterSet = UNICODE
    for keyword, value in changed.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        if value:
            # Unvalidated: the archive's values are kept like the images', and a warning would quote them.
            copy[tag] = DataElement(tag, dictionary_VR(keyword), value, validation_mode=config.IGNORE)
        elif keyword in copy:
            del copy[tag]
    return copy


def _fits(value: str, source: Dataset) -> bool:
    """Tell whether a text can be written in the header's one character set; with code extensions only ASCII surely can."""
    if value.isascii():
        return True
    named = source.get("SpecificCharacterSet")
    terms = [named] if isinstance(named, str) else list(named or ())
    if len(terms) != 1:
        return False
    try:
        value.encode(python_encoding.get(terms[0].strip(), "ascii"))
    except (UnicodeEncodeError, LookupError):
        return False
    return True
