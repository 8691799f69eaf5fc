"""Nouns shared by models, node and workers: numpy and the standard library only.

Arrays are (z, y, x). World coordinates are millimetres in the DICOM patient system, LPS:
x grows to the patient's left, y to the back, z to the head (Ref: PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from models.execution import PLAIN, Execution, Need

Triple = tuple[float, float, float]
Progress = Callable[[float], None]


class Unfit(Exception):  # noqa: N818 -- it is a verdict on the input, not a fault of the program
    """The input is not one this model may judge; the reason is written for a technologist."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Broken(Exception):  # noqa: N818 -- it is a verdict on the run, not on the program
    """The model gave what can be no result, NaN for instance; it may succeed again, the reason says what was seen."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A coded concept. Ref: PS3.3 8.8."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Where the voxels of an array lie in the patient, or the pixels of a radiograph on its own picture.

    shape       voxels along (z, y, x)
    origin_mm   LPS position of the centre of voxel (0, 0, 0)
    axes        three LPS unit vectors: the directions in which z, y and x indices grow
    spacing_mm  centre to centre distance along (z, y, x)
    space       "patient"; "image" for a projection, which no coordinates place in the patient: there the shape is
                (1, rows, columns), the origin (0, 0, 0), x grows along the rows to the right, y down the columns
    calibrated  whether spacing_mm are millimetres in the patient. Those of a projection rarely are: then they keep the
                pixels' proportions (at the detector, else 1), and no length or area in mm may be taken from them

    Example: origin (10, 20, 30), axes ((0,0,1),(0,1,0),(1,0,0)), spacing (2, 0.5, 0.5):
    index (3, 4, 8) lies at (10 + 8*0.5, 20 + 4*0.5, 30 + 3*2) = (14, 22, 36).
    Ref: PS3.3 C.7.6.2.1.1, 10.7.1
    """

    shape: tuple[int, int, int]
    origin_mm: Triple
    axes: tuple[Triple, Triple, Triple]
    spacing_mm: Triple
    space: Literal["patient", "image"] = "patient"
    calibrated: bool = True

    @property
    def is_projection(self) -> bool:
        """Tell a single picture, without depth and without a place in the patient."""
        return self.space == "image"

    @property
    def affine(self) -> NDArray[np.float64]:
        """Give the 4 x 4 matrix that takes (z, y, x, 1) to LPS (x_mm, y_mm, z_mm, 1)."""
        matrix = np.eye(4)
        matrix[:3, :3] = np.asarray(self.axes, dtype=float).T * np.asarray(self.spacing_mm)
        matrix[:3, 3] = self.origin_mm
        return matrix

    @property
    def voxel_mm3(self) -> float:
        """Give the volume of one voxel, right for sheared grids too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def between_planes_mm(self) -> float:
        """Give the distance of two z planes along their normal; less than spacing_mm[0] where the grid is sheared.

        Example: steps of (0, 1.27, 3.79) mm between planes with the normal (0, 0, 1): 3.79 mm, where spacing_mm[0] is 4.
        """
        normal = np.cross(np.asarray(self.axes[2], dtype=float), np.asarray(self.axes[1], dtype=float))
        along = float(abs(np.asarray(self.axes[0], dtype=float) @ normal) / np.linalg.norm(normal))
        return self.spacing_mm[0] if self.is_orthogonal() else self.spacing_mm[0] * along

    def to_world_mm(self, indices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take (n, 3) fractional (z, y, x) indices to (n, 3) LPS millimetres."""
        matrix = self.affine
        return np.asarray(indices, dtype=float) @ matrix[:3, :3].T + matrix[:3, 3]

    def to_index(self, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
        """Take (n, 3) LPS millimetres to (n, 3) fractional (z, y, x) indices."""
        matrix = self.affine
        inverse = np.linalg.inv(matrix[:3, :3])
        return (np.asarray(points_mm, dtype=float) - matrix[:3, 3]) @ inverse.T

    def is_orthogonal(self, tolerance: float = 1e-3) -> bool:
        """Tell whether the axes stand at right angles; a tilted gantry's do not."""
        axes = np.asarray(self.axes, dtype=float)
        return bool(np.abs(axes @ axes.T - np.eye(3)).max() < tolerance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One input of a model: an array on its grid.

    array     (z, y, x), rescaled to `unit`
    unit      "HU" for CT, "1" where intensities have no absolute meaning. A radiograph is given as it is displayed, with its
              window or look-up table, from 0, black, to 1, white: MONOCHROME1 is inverted, so that more is denser
    modality  DICOM Modality (0008,0060)
    """

    array: NDArray[np.int16] | NDArray[np.int32] | NDArray[np.float32]
    grid: Grid
    unit: str
    modality: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A half-open box of voxel indices, (z, y, x): low is inside, high is not."""

    low: tuple[int, int, int]
    high: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One lesion a model marked.

    number     from 1, also its value in `Prediction.instances`; ordered by position (z, y, x)
    label      index of the card's output label
    score      the model's probability, 0..1
    box        bounding box on the prediction's grid; where the prediction has no instances, all that is marked
    deviation  how far the model's own opinions of it lie apart: the standard deviation, 0..0.5, of the probabilities it gives
               to changed views of the finding; None where the model has one opinion only
    """

    number: int
    label: int
    score: float
    box: Box
    deviation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One number with its meaning and UCUM unit; a value that is not known is an absent Measurement."""

    concept: Code
    value: float
    unit: Code
    derivation: Code | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a model says of the input as a whole: the card's label applies with this probability, 0..1."""

    label: int
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says, on the reference input's grid exactly.

    labels         uint8 (z, y, x): 0 or the card's index of an organ label; exclusive
    instances      uint16 (z, y, x): 0 or a Finding's number; a voxel of a finding is 0 in `labels`,
                   so that these segments do not overlap. None where findings are boxes alone, or there are none.
    masks          card index -> bool (z, y, x), for organ labels that may overlap each other and all else; such an index
                   does not occur in `labels`
    scores         what is said of the input as a whole
    probabilities  card index -> uint8 (z, y, x) in steps of 1/255, where the model gives them
    remarks        what a reader must know of the input: sentences in ASCII, without a word of the patient's
    variant        what made it: device, precision, batch, runtime and their versions
    """

    grid: Grid
    labels: NDArray[np.uint8]
    instances: NDArray[np.uint16] | None = None
    findings: tuple[Finding, ...] = ()
    masks: Mapping[int, NDArray[np.bool_]] = field(default_factory=dict)
    scores: tuple[Score, ...] = ()
    probabilities: Mapping[int, NDArray[np.uint8]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    variant: Mapping[str, str] = field(default_factory=dict)


class Model(Protocol):
    """A loaded model, warm on its device."""

    def need(self, grids: Mapping[str, Grid], execution: Execution) -> Need:
        """Estimate, without running anything, what predicting volumes on these grids (one a role) would take."""
        ...

    def predict(self, volumes: Mapping[str, Volume], progress: Progress, execution: Execution = PLAIN) -> Prediction:
        """Analyse one volume a role; raises Unfit. `progress` takes 0..1."""
        ...
