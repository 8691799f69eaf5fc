"""What no chest is, and what of one is not shown: on lungs by formula, and on drawn scans whose values are spoiled."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.chest import guard
from models.chest.guard import Guard
from models.chest.lungfield import Field
from models.starter.chest_ct import generator
from models.vocabulary import Unfit

SPACING_MM = 4.0
LIMITS = Guard(least_ml=300, least_height_mm=90, least_aerated=0.6, least_sure=0.8, densest_hu=-450)
WHOLE = (slice(None),) * 3


def chest(part: tuple[slice, slice, slice] = WHOLE, *, right: float = 1.0, circle: bool = False) -> tuple[Field, NDArray[np.float32]]:
    """Give two ellipsoids of lung in a body of tissue in air, cut to a part; LPS grows with the indices, so left is at high x.

    right scales the right lung's axes; circle puts air outside a round field of view that ends in both lungs.
    """
    z, y, x = np.meshgrid(*(np.arange(count) * SPACING_MM for count in (80, 70, 100)), indexing="ij")
    z, y, x = z - 160, y - 140, x - 200
    body = (x / 185) ** 2 + (y / 120) ** 2 < 1
    left = ((x - 85) / 60) ** 2 + (y / 80) ** 2 + (z / 130) ** 2 < 1
    other = ((x + 85) / 60) ** 2 + (y / 80) ** 2 + (z / 130) ** 2 < right**2
    hu = np.where(body, 40.0, -1000.0)
    mask = left | other
    hu[mask] = -850
    if circle:
        beyond = np.hypot(x, y) > 110
        hu[beyond], mask = -1024, mask & ~beyond
    leftness = np.sign(x)
    border = np.where(mask, 1.0, -1.0)
    field = Field(
        mask=mask[part], border=border[part].astype(np.float32), leftness=leftness[part].astype(np.float32), aerated=1.0, sure=1.0
    )
    return field, hu[part].astype(np.float32)


CUTS: dict[str, tuple[tuple[slice, slice, slice], tuple[str, ...]]] = {
    "below": ((slice(20, None), slice(None), slice(None)), ("left lung is cut off below;", "right lung is cut off below;")),
    "above": ((slice(0, 60), slice(None), slice(None)), ("left lung is cut off above;", "right lung is cut off above;")),
    "in front": ((slice(None), slice(25, None), slice(None)), ("left lung is cut off in front;", "right lung is cut off in front;")),
    "at the back": ((slice(None), slice(0, 45), slice(None)), ("left lung is cut off at the back;", "right lung is cut off at the back;")),
    "on the right": ((slice(None), slice(None), slice(22, None)), ("right lung is cut off on the right;",)),
    "on the left": ((slice(None), slice(None), slice(0, 78)), ("left lung is cut off on the left;",)),
    "twice": (
        (slice(20, None), slice(None), slice(0, 78)),
        ("left lung is cut off below and on the left;", "right lung is cut off below;"),
    ),
}


@pytest.mark.parametrize("name", CUTS)
def test_what_is_cut_off_is_said_by_lung_and_side(name: str) -> None:
    """A part of the formula's chest says which lung ends where, and nothing of the other."""
    part, words = CUTS[name]
    said = guard.unseen(*chest(part), SPACING_MM)
    assert len(said) == len(words)
    for sentence, expected in zip(said, words, strict=True):
        assert expected in sentence
        assert sentence.isascii()


def test_a_whole_chest_says_nothing_and_a_round_field_of_view_is_noticed() -> None:
    """Lungs with wall around them are whole; those that a circle of air ends are cut."""
    assert guard.unseen(*chest(), SPACING_MM) == ()
    said = guard.unseen(*chest(circle=True), SPACING_MM)
    assert [sentence.split(" is ")[0] for sentence in said] == ["The left lung", "The right lung"]
    assert all("round field of view" in sentence for sentence in said)


def test_one_lung_alone_is_judged_and_the_other_named() -> None:
    """A right lung of a tenth is called right, the mirrored scan's is called left; both whole say nothing; both gone are no chest."""
    field, hu = chest(right=0.4)
    mirrored = replace(field, mask=field.mask[:, :, ::-1], leftness=-field.leftness[:, :, ::-1])
    for name, one, values in (("right", field, hu), ("left", mirrored, hu[:, :, ::-1])):
        guard.lungs(one, values, SPACING_MM, LIMITS)
        (said,) = guard.airless(one, SPACING_MM, LIMITS)
        assert re.match(rf"The {name} lung was not judged: only 1\d\d ml of air ", said)
        assert said.isascii()
    guard.lungs(*chest(), SPACING_MM, LIMITS)
    assert guard.airless(chest()[0], SPACING_MM, LIMITS) == ()
    none = replace(field, mask=np.zeros_like(field.mask))
    with pytest.raises(Unfit, match="No lungs were found"):
        guard.lungs(none, hu, SPACING_MM, LIMITS)


def test_a_lung_of_half_the_others_air_is_told() -> None:
    """A right lung of 0.8 of the left one's axes has half its air: it is judged, and what lacks is said not to be."""
    field, hu = chest(right=0.8)
    guard.lungs(field, hu, SPACING_MM, LIMITS)
    (said,) = guard.airless(field, SPACING_MM, LIMITS)
    assert re.match(r"The right lung shows 1\d{3} ml of air, the left one 2\d{3} ml: .* was not judged\.$", said)


def test_images_cut_to_one_lung_are_declined_for_it_may_be_either() -> None:
    """The left half of the body alone: its lung called left, called right, or taken for two lungs, is not judged."""
    field, hu = chest((slice(None), slice(None), slice(50, None)))
    everywhere = np.ones_like(field.leftness)
    for leftness in (everywhere, -everywhere):
        with pytest.raises(Unfit, match="which lung is shown is not certain"):
            guard.lungs(replace(field, leftness=leftness), hu, SPACING_MM, LIMITS)
    off = np.where(np.arange(field.mask.shape[2]) < 4, -1000, hu).astype(np.float32)  # a margin of air about the cut body
    with pytest.raises(Unfit, match="which lung is shown is not certain"):
        guard.lungs(replace(field, leftness=everywhere), off, SPACING_MM, LIMITS)
    halved = everywhere * np.where(np.arange(field.mask.shape[2]) > 21, 1, -1).astype(np.float32)
    with pytest.raises(Unfit, match="could not be told apart"):
        guard.lungs(replace(field, leftness=halved), hu, SPACING_MM, LIMITS)


def test_lungs_that_meet_before_the_heart_and_a_core_called_otherwise_are_no_single_lung() -> None:
    """A bridge of 30 x 200 mm between the lungs, and an eighth of the right one called left in its middle: judged."""
    field, hu = chest()
    mask = field.mask.copy()
    mask[15:65, 31:39, 40:60] = True
    guard.lungs(replace(field, mask=mask), hu, SPACING_MM, LIMITS)
    leftness = field.leftness.copy()
    leftness[24:56, 25:45, 22:36] = 1
    guard.lungs(replace(field, leftness=leftness), hu, SPACING_MM, LIMITS)


def test_one_small_lung_alone_and_two_short_ones_are_declined() -> None:
    """One lung over 120 mm of its height is not enough; of two lungs 80 mm high both are named."""
    field, hu = chest(right=0.0)
    with pytest.raises(Unfit, match="too small to be judged alone"):
        guard.lungs(*chest((slice(25, 55), slice(None), slice(None)), right=0.0), SPACING_MM, LIMITS)
    guard.lungs(field, hu, SPACING_MM, LIMITS)
    with pytest.raises(Unfit, match=r"Left lung: only 80 mm .* Right lung: only 80 mm"):
        guard.lungs(*chest((slice(35, 55), slice(None), slice(None))), SPACING_MM, LIMITS)


@pytest.mark.parametrize("median", [-1000, -400])
def test_lungs_of_no_lungs_density_are_declined(median: float) -> None:
    """Lungs as thin as air itself, or as dense as fluid, say that values or lungs are not as expected."""
    field, hu = chest()
    hu[field.mask] = median
    with pytest.raises(Unfit, match=f"median is {median} HU"):
        guard.lungs(field, hu, SPACING_MM, LIMITS)


@cache
def drawn() -> NDArray[np.int32]:
    """Give a drawn thorax."""
    return np.asarray(generator.draw(3, (4.0, 3.0, 3.0), nodules=(0, 0)).volume.array, dtype=np.int32)


SPOILED: dict[str, tuple[Any, str]] = {
    "all zero": (lambda hu: 0 * hu, "empty"),
    "all air": (lambda hu: 0 * hu - 1024, "empty"),
    "upside down": (lambda hu: -hu, "dense as bone.*inverted"),
    "stored values without intercept": (lambda hu: hu + 1024, "dense as bone"),
    "intercept twice": (lambda hu: hu - 1024, "density of tissue"),
    "as displayed in 8 bits": (lambda hu: np.clip((hu + 1000) // 6, 0, 255), "density of air"),
}


@pytest.mark.parametrize("name", SPOILED)
def test_values_that_are_no_hounsfield_units_are_told_from_those_that_are(name: str) -> None:
    """Each way of spoiling is declined with what was seen; the scan itself passes."""
    spoil, words = SPOILED[name]
    guard.values(torch.from_numpy(drawn().astype(np.float32)))
    with pytest.raises(Unfit, match=words):
        guard.values(torch.from_numpy(np.asarray(spoil(drawn()), dtype=np.float32)))


def orders() -> dict[str, NDArray[np.int64]]:
    """Give wrong orders of the drawn thorax's slices: by chance, and its two halves and three thirds interleaved."""
    count = len(drawn()) // 6 * 6
    orders = {f"{parts} parts interleaved": np.arange(count).reshape(parts, -1).T.ravel() for parts in (2, 3)}
    return {"shuffled": np.random.default_rng(5).permutation(count), **orders}


@pytest.mark.parametrize("name", ["shuffled", "2 parts interleaved", "3 parts interleaved"])
def test_slices_in_a_wrong_order_are_declined(name: str) -> None:
    """The drawn thorax with its slices at each other's places is declined with what was seen."""
    with pytest.raises(Unfit, match=r"Neighbouring images differ by .* not in the order"):
        guard.order(drawn()[orders()[name]], (4.0, 3.0, 3.0))


def test_slices_in_order_pass_whatever_their_noise_and_so_do_images_that_are_alike_everywhere() -> None:
    """Of either end first, with much noise, only a part of them: in order. Noise alone, and too few slices, say nothing."""
    rng = np.random.default_rng(4)
    for hu in (drawn(), drawn()[::-1], drawn() + rng.normal(scale=100, size=drawn().shape), drawn()[10:40]):
        guard.order(hu, (4.0, 3.0, 3.0))
    guard.order(rng.normal(loc=-850, scale=30, size=(40, 60, 60)), (4.0, 3.0, 3.0))
    guard.order(drawn()[::20], (4.0, 3.0, 3.0))


@pytest.mark.parametrize("sigma_hu", [15.0, 110.0, 130.0, 350.0])
def test_more_noise_than_was_tried_is_said(sigma_hu: float) -> None:
    """White noise of that strength over smooth lungs is measured as such, vessels and all; over 120 HU there is a remark."""
    field, hu = chest()
    rng = np.random.default_rng(3)
    hu[40, :, ::9] = 0  # vessels
    noised = (hu + rng.normal(scale=sigma_hu, size=hu.shape)).astype(np.int16)
    assert guard.noise_hu(field.mask, noised) == pytest.approx(sigma_hu, rel=0.03)
    said = guard.noisy(field.mask, noised, SPACING_MM**3, 1.25)
    assert [words.startswith("The images are noisy") for words in said] == [True] * (sigma_hu > 120)
    eighth = guard.noisy(field.mask, noised, 1.25**3 / 8, 1.25)  # eight voxels to one of the model's: 0.35 of the noise
    assert len(eighth) == (sigma_hu > 120 * 8**0.5)


def test_no_lung_has_no_noise() -> None:
    """Nothing is measured where nothing is."""
    field, hu = chest()
    assert guard.noise_hu(np.zeros_like(field.mask), hu.astype(np.int16)) == 0.0
