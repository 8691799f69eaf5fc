"""A volume as MONAI's reader would give it from the same volume's NIfTI file, and arrays of MONAI back in our order.

Our arrays are (z, y, x) in LPS, those of the reader (x, y, z) in RAS: the order of the axes is reversed, and the first two world
axes change their signs. A radiograph is read as a picture is: (x, y), without a place in the patient.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel
import numpy as np
from monai.config.type_definitions import DtypeLike, KeysCollection
from monai.data.image_reader import NibabelReader
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform
from monai.transforms.utility.array import EnsureChannelFirst
from monai.utils.type_conversion import convert_to_dst_type
from numpy.typing import NDArray

from models.vocabulary import Grid, Volume

Array = NDArray[Any]
SETTINGS = frozenset({"reader", "dtype", "image_only", "ensure_channel_first", "simple_keys", "meta_key_postfix", "affine_lps_to_ras"})
"""Arguments of LoadImaged that are known. A reader's name changes nothing: every reader gives the same axes, of which
`affine_lps_to_ras` is the convention that is given here."""


def affine(grid: Grid) -> NDArray[np.float64]:
    """Give the 4 x 4 matrix from (x, y, z, 1) indices to RAS mm, in the single precision that a NIfTI header keeps.

    Example: a voxel step of 2 mm along z to the head, 0.8 mm along y to the back, 1.1 mm along x to the left, origin LPS
    (-11, 23, 5): the columns are (-1.1, 0, 0), (0, -0.8, 0), (0, 0, 2) and (11, -23, 5).
    """
    turned = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine[:, [2, 1, 0, 3]]
    single: NDArray[np.float64] = turned.astype(np.float32).astype(np.float64)
    return single


def back(array: Array) -> Array:
    """Give (x, y, z) as (z, y, x), and (x, y) as (1, y, x)."""
    return np.ascontiguousarray(array.T if array.ndim == 3 else array.T[None])


class Received(MapTransform):
    """Stands where a bundle has LoadImaged, with its arguments: what it is given under a key are volumes, not file names.

    Several volumes become the channels of one image, as several files do; they must lie on one grid.
    """

    def __init__(self, keys: KeysCollection, *, allow_missing_keys: bool = False, **settings: Any) -> None:
        super().__init__(keys, allow_missing_keys)
        if unknown := sorted(set(settings) - SETTINGS):
            raise TypeError(f"LoadImaged's {', '.join(unknown)} cannot be honoured: a volume comes from memory")
        if settings.get("affine_lps_to_ras", True) is not True:
            raise TypeError("LoadImaged's affine_lps_to_ras = false cannot be honoured: images lie in RAS here")
        self._dtype: DtypeLike = settings.get("dtype", np.float32)
        self._image_only = bool(settings.get("image_only", True))
        self._channel_first = bool(settings.get("ensure_channel_first", False))
        self._simple_keys = bool(settings.get("simple_keys", False))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Give images in the place of volumes."""
        made = dict(data)
        for key in self.key_iterator(made):
            image = self._read(made[key])
            if not self._image_only:
                made[f"{key}_meta_dict"] = dict(image.meta)
            made[key] = image
        return made

    def _read(self, volumes: Sequence[Volume]) -> Any:
        array, meta = _picture(volumes) if volumes[0].grid.is_projection else _stack(volumes)
        array = convert_to_dst_type(array, dst=array, dtype=self._dtype)[0]
        image = MetaTensor.ensure_torch_and_prune_meta(array, meta, self._simple_keys)
        return EnsureChannelFirst()(image) if self._channel_first else image


def _stack(volumes: Sequence[Volume]) -> tuple[Array, dict[str, Any]]:
    """Let MONAI's own reader read the volumes from memory."""
    image: Any = nibabel.Nifti1Image  # untyped
    images = [image(volume.array.T, affine(volume.grid)) for volume in volumes]
    reader = NibabelReader()
    reader.filenames = [""] * len(images)
    array, meta = reader.get_data(images)
    return array, meta


def _picture(volumes: Sequence[Volume]) -> tuple[Array, dict[str, Any]]:
    pictures = [volume.array[0].T for volume in volumes]
    several = len(pictures) > 1
    meta = {
        "affine": np.eye(4),
        "original_affine": np.eye(4),
        "spatial_shape": np.array(pictures[0].shape),
        "original_channel_dim": 0 if several else float("nan"),
    }
    return (np.stack(pictures) if several else pictures[0]), meta
