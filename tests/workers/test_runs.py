"""Tests for runs of equal pixels: counts and boxes are those of the masks themselves."""

from __future__ import annotations

import numpy as np
import pytest

from workers.runs import Cover, covers


@pytest.mark.parametrize(("seed", "dtype"), [(0, np.uint8), (1, np.uint8), (2, np.uint16)])
def test_each_value_covers_what_its_mask_does(seed: int, dtype: type) -> None:
    """Of every value and slice the number of pixels and the rows and columns around them are those of the mask; 0 is none."""
    random = np.random.default_rng(seed)
    array = random.integers(0, 5, size=(4, 9, 7)).astype(dtype) * random.integers(0, 2, size=(4, 9, 1)).astype(dtype)
    array[2] = 0
    array[array == 3] = np.iinfo(dtype).max
    wanted: dict[int, dict[int, Cover]] = {}
    for value in np.unique(array[array > 0]).tolist():
        for z in range(4):
            rows, columns = np.nonzero(array[z] == value)
            if len(rows):
                around = (int(rows.min()), int(rows.max()) + 1), (int(columns.min()), int(columns.max()) + 1)
                wanted.setdefault(value, {})[z] = Cover(z, len(rows), *around)
    assert covers(array) == wanted


def test_a_run_goes_over_the_end_of_a_row() -> None:
    """The docstring's example: three pixels at a row's end and the next one's beginning are around all columns."""
    array = np.array([[[0, 0, 7, 7], [7, 0, 0, 0]]], dtype=np.uint8)
    assert covers(array) == {7: {0: Cover(0, 3, (0, 2), (0, 4))}}
    assert covers(None) == covers(np.zeros((2, 3, 3), np.uint8)) == {}
