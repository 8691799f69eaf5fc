"""The strictest reading there is: pydicom's own rule of each VR on every value. Reading alone, even in its strict mode, lets most pass.

Ref: PS3.5 6.2
"""

from __future__ import annotations

from pydicom import config
from pydicom.dataset import Dataset
from pydicom.valuerep import validate_value

TEXT_VRS = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"},
)


def broken(dataset: Dataset, *, but: frozenset[str] = frozenset()) -> list[str]:
    """Give each attribute whose value breaks its VR, besides those that are let pass."""
    found = []
    for element in dataset.iterall():
        if element.VR not in TEXT_VRS or element.keyword in but or element.value is None:
            continue
        values = element.value if element.VM > 1 else [element.value]
        for value in values:
            try:
                validate_value(element.VR, str(value), config.RAISE)
            except ValueError as error:
                found.append(f"{element.keyword or element.tag}: {error}")
    return found
