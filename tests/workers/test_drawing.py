"""Pictures are drawn where the numbers say, and in colours that can be told from them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from overread.readback import _rgb  # the demo's witness converts colours by code of its own
from workers import drawing
from workers.drawing import Mark, View, Window


@pytest.mark.parametrize("cielab", [(69, -24, -21), (78, -18, 48), (58, 66, 50), (63, 33, 41), (100, 0, 0), (0, 0, 0)])
def test_a_cards_colour_is_the_one_that_viewers_make_of_the_seg(cielab: tuple[int, int, int]) -> None:
    """The same sRGB comes out of the scaled value in the SEG, to within rounding."""
    scaled = [round(cielab[0] / 100 * 65535), *(round((part + 128) / 255 * 65535) for part in cielab[1:])]
    assert np.abs(np.array(drawing.rgb(cielab)) - np.array(_rgb(scaled))).max() <= 1


@pytest.mark.parametrize(
    ("direction", "name"),
    [((1, 0, 0), "L"), ((-1, 0, 0), "R"), ((0, 1, 0), "P"), ((0, 0, -1), "F"), ((0.7, 0.1, -0.71), "FL"), ((0.1, -0.99, 0.1), "A")],
)
def test_directions_have_the_patients_letters(direction: tuple[float, float, float], name: str) -> None:
    """The strongest part comes first, a slight lean does not count."""
    assert drawing.letters(direction) == name


def test_an_axial_slice_has_the_right_at_the_left_and_the_front_on_top() -> None:
    """Columns run to the left, rows to the back."""
    told = drawing.sides("L", "P")
    assert (told.left, told.right, told.top, told.bottom) == ("R", "L", "A", "P")
    assert drawing.sides("LF", "PR").left == "RH"


def test_pixels_that_are_not_square_are_shown_square() -> None:
    """100 rows of 2 mm beside 100 columns of 1 mm stand twice as high as wide, in the middle of their place."""
    view = drawing.fit(View(index=0, rows=(0, 100), columns=(0, 100), left=10, top=20, width=300, height=300), (2.0, 1.0))
    assert (view.left, view.top, view.width, view.height) == (85, 20, 150, 300)


@pytest.mark.parametrize("scale", [1, 3, 7])
@pytest.mark.parametrize("outside", [True, False])
def test_an_outline_follows_the_mask(scale: int, outside: bool) -> None:  # noqa: FBT001
    """Inside or around, no coloured pixel is farther from the mask's border than its width and half a pixel of the slice."""
    mask = np.zeros((20, 30), bool)
    mask[5:9, 20:27] = True
    view = View(index=0, rows=(0, 20), columns=(0, 30), left=0, top=0, width=30 * scale, height=20 * scale)
    page = Image.new("RGB", (30 * scale, 20 * scale))
    drawing.outline(page, view, [Mark(mask=mask, colour=(255, 0, 0), outside=outside)])
    rows, columns = np.nonzero(np.asarray(page)[:, :, 0])
    near = 0.5 * scale + 1
    assert 5 * scale - near <= rows.min() <= 5 * scale + near
    assert 9 * scale - near <= rows.max() + 1 <= 9 * scale + near
    assert 20 * scale - near <= columns.min() <= 20 * scale + near
    assert 27 * scale - near <= columns.max() + 1 <= 27 * scale + near
    middle = np.asarray(page)[7 * scale, 23 * scale]
    assert not middle.any(), "the middle is not covered"


def test_a_mask_cut_by_the_view_has_no_line_along_the_cut() -> None:
    """A line there would say that the organ ends where the picture does."""
    mask = np.ones((10, 10), bool)
    view = View(index=0, rows=(2, 8), columns=(2, 8), left=0, top=0, width=60, height=60)
    page = Image.new("RGB", (60, 60))
    drawing.outline(page, view, [Mark(mask=mask, colour=(255, 0, 0))])
    assert not np.asarray(page).any()


def test_a_grey_or_dark_colour_is_made_visible() -> None:
    """Grey cannot be told from the image, nor can a blue that is nearly black."""
    assert drawing.visible((200, 200, 200)) == (255, 221, 64)
    assert drawing.visible((0, 0, 75)) == (0, 0, 150)
    assert drawing.visible((250, 20, 20)) == (250, 20, 20)


def test_what_is_no_number_is_black() -> None:
    """NaN and infinities neither crash nor shine."""
    plane = np.array([[np.nan, -np.inf, 0.0, 50.0, 100.0]])
    assert drawing.greys(plane, Window(low=0, high=100)).tolist() == [[0, 0, 0, 128, 255]]
    assert drawing.greys(plane, Window(low=5, high=5)).shape == (1, 5)


@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_an_image_of_one_value_has_a_window(value: float) -> None:
    """Nothing divides by zero."""
    window = drawing.spread(np.full((3, 4, 5), value, np.float32), 1, 99)
    assert window.high > window.low


@pytest.mark.parametrize(("reach", "length"), [(73.0, 50.0), (4.5, 2.0), (1.0, 1.0), (100.0, 100.0), (0.3, 0.2)])
def test_the_scale_bar_has_a_round_length(reach: float, length: float) -> None:
    """1, 2 or 5 times a power of ten."""
    assert drawing.bar_mm(reach) == pytest.approx(length)
