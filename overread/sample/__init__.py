"""A generated chest CT with known truth: the demo's study, and the ground the tests stand on.

Nobody's images: the thorax is a set of formulas in patient space (LPS mm), sampled at each voxel's
position, so that truth never passes through the code that reads or writes images.
"""

from __future__ import annotations

from overread.sample.scan import Patient, Scan
from overread.sample.study import Truth, write
from overread.sample.thorax import Nodule, Thorax

__all__ = ["Nodule", "Patient", "Scan", "Thorax", "Truth", "write"]
