"""The chest CT starter: its recipe learns, its weights are the card's, left stays left, what is no chest is declined."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import ndimage

from models import card, registry
from models.evaluation.froc import MISSED, Reading, Scored
from models.starter.chest_ct import calibrate, course, lessons, real, train_lungs, train_nodules
from models.starter.chest_ct.body import View
from models.starter.chest_ct.course import Order, Pool, Rate, begin, keep
from models.starter.chest_ct.evaluation import baseline, cases
from models.starter.chest_ct.generator import AXES, LEFT, RIGHT, Scan, draw, draw_other, draw_view
from models.vocabulary import Grid, Model, Prediction, Unfit, Volume
from tests.servers import shared

CARD = Path(lessons.__file__).with_name("card.toml")
COARSE = (4.0, 3.0, 3.0)


@cache
def _scan(seed: int = 41) -> Scan:
    return draw(seed, COARSE, nodules=(5, 8))


@cache
def _model() -> Model:
    return registry.load(card.read(CARD), "cpu")


@cache
def _predicted() -> tuple[Scan, Prediction]:
    scan = draw(900_101, (2.5, 2.0, 2.0), nodules=(3, 5))
    return scan, _model().predict({"ct": scan.volume}, lambda _share: None)


def _middle_mm(volume: Volume, mask: np.ndarray) -> np.ndarray:
    middle: np.ndarray = volume.grid.to_world_mm(np.argwhere(mask).mean(axis=0, keepdims=True))[0]
    return middle


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@cache
def _block() -> Scan:
    return draw_view(5, View(spacing_mm=(2.5, 2.5, 2.5), box_mm=(150.0, 150.0, 150.0)), (6, 9))


def test_lessons_are_right_where_a_nodule_is_and_wrong_elsewhere() -> None:
    """A place in a nodule of 4 mm or more is RIGHT, one at its rim is left out, one far from all is WRONG."""
    scan = _block()
    nodule = max(scan.nodules, key=lambda entry: entry.diameter_mm)
    inside = np.argwhere(scan.instances == nodule.number)
    away = ndimage.distance_transform_edt(scan.instances == 0, sampling=scan.volume.grid.spacing_mm)
    rim, far = np.argwhere((away > 2) & (away < 3.5))[:1], np.argwhere(away > 30)[:1]
    answers = lessons.judge(scan, np.concatenate([inside[len(inside) // 2 :][:1], rim, far]))
    assert list(answers) == [lessons.RIGHT, lessons.SKIP, lessons.WRONG]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coarse scans, small patches and few lessons, for speed."""
    monkeypatch.setattr(train_lungs, "draw", lambda seed, _spacing, belly: draw(seed, (9.0, 9.0, 9.0), belly=belly))
    monkeypatch.setattr(train_lungs, "PATCH", (16, 32, 32))
    monkeypatch.setattr(train_nodules, "block", lambda _seed, _known: _block())
    few = train_nodules.Setting(steps=8, batch=6, extra=4, by_chance=1, renew_every=2)
    monkeypatch.setitem(train_nodules.SETTINGS, "small", few)

    @contextmanager
    def beside(_setting: str) -> Iterator[tuple[Executor, int]]:
        with ThreadPoolExecutor(1) as threads:  # another process would not see what is replaced here
            yield threads, 1

    monkeypatch.setattr(course, "beside", beside)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("part", [train_lungs, train_nodules])
def test_a_recipe_gives_the_same_weights_again_also_after_an_interruption(part: Any, tmp_path: Path) -> None:
    """Four steps in one go, and as two and two from the checkpoint: the same bytes, and other ones than after two."""

    def after(name: str, until: int) -> bytes:
        out = tmp_path / name
        part.train(Order(out=out, checkpoint=out.with_suffix(".checkpoint"), until=until))
        return out.read_bytes()

    half = after("two", 2)
    whole = after("one", 4)
    assert half != whole
    assert after("two", 4) == whole


def test_some_lessons_are_learnt() -> None:
    """A few steps of the recipe on one batch lower its loss."""
    torch.manual_seed(0)
    batch = train_nodules.batch_of([lessons.lessons_of(_block(), 1)], 0)
    run = train_nodules.begin(train_nodules.PatchNet(), Order(out=Path("none"), checkpoint=Path("no checkpoint")), 8)
    run.rate(2e-3)
    before = train_nodules.train_step(run, batch)
    for _ in range(6):
        after = train_nodules.train_step(run, batch)
    assert sum(after[:2]) < 0.8 * sum(before[:2])


def test_of_extra_wrong_places_the_likeliest_are_learnt() -> None:
    """Right places and some wrong ones by chance stay; of the others the network judges, those it takes for nodules are kept."""

    class Bright(torch.nn.Module):
        def forward(self, near: torch.Tensor, _wide: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return near.mean((1, 2, 3, 4)), near

    setting = train_nodules.Setting(steps=1, batch=12, extra=8, by_chance=3, renew_every=1)
    batch = train_nodules.batch_of([lessons.lessons_of(_block(), 1)], 0, setting.batch, setting.extra)
    right = int(batch[3].sum())
    assert (len(batch[3]), right, list(batch[3][:right])) == (20, 5, [1.0] * 5)
    near, wide, voxels, answers = train_nodules.hardest(Bright(), batch, setting)
    brightness = batch[0].mean((1, 2, 3, 4))
    wanted = torch.cat([torch.arange(8), 8 + torch.argsort(brightness[8:], descending=True)[:4]])
    for kept, drawn in zip((near, wide, voxels, answers), batch, strict=True):
        assert torch.equal(kept, drawn[wanted])


def test_a_checkpoint_of_another_course_is_refused(tmp_path: Path) -> None:
    """One of 8 steps goes on as such; for 24 steps it would have taken the rates of another course."""
    what = Order(out=tmp_path / "out", checkpoint=tmp_path / "checkpoint")
    keep(begin(torch.nn.Conv3d(1, 1, 1), what, 8), what.out, what.checkpoint)
    assert begin(torch.nn.Conv3d(1, 1, 1), what, 8).done == 0
    with pytest.raises(ValueError, match="checkpoint is of a course of 8 steps, this one has 24: remove it"):
        begin(torch.nn.Conv3d(1, 1, 1), what, 24)


def test_other_processes_draw_what_a_step_needs_and_end_with_the_training() -> None:
    """At first few things, then the last `size`, the oldest replaced; what is not begun when the training ends is not drawn."""
    with course.beside("small") as (others, count):
        pool = Pool(draw=math.factorial, beside=others, size=3, renew_every=2, at_once=2, ahead=2)
        assert count == 1
        assert pool.at(0) == [1, 1]
        assert pool.at(2) == [1, 1, 2]
        assert pool.at(7) == [2, 6, 24]
        waiting = [others.submit(time.sleep, 0.2) for _ in range(40)]
    assert sum(entry.cancelled() for entry in waiting) > 30
    with pytest.raises(RuntimeError, match="shutdown"):
        others.submit(math.factorial, 1)


def test_the_full_setting_is_the_same_course_on_more() -> None:
    """Three times as long, each stage has the same rates and shares; two patches of a step are other ones, the first that of small."""
    assert [train_lungs.stage_at(3 * step, 3) for step in (150, 500, 1000)] == [train_lungs.stage_at(step) for step in (150, 500, 1000)]
    one, organs = train_lungs.batch_of([_scan()], 5, 0.0, train_lungs.options())
    two, _ = train_lungs.batch_of([_scan()], 5, 0.0, train_lungs.options(), 2)
    assert one.shape == (1, 1, *train_lungs.PATCH) == (1, 1, *organs.shape[1:])
    assert torch.equal(one[0], two[0])
    assert not torch.equal(two[0], two[1])
    assert train_nodules.SETTINGS["full"].steps > train_nodules.SETTINGS["small"].steps


def test_the_weights_kept_are_an_average_of_the_last_steps(tmp_path: Path) -> None:
    """They follow the network slowly: after two steps they lie between its first and its present weights."""
    torch.manual_seed(0)
    run = begin(torch.nn.Conv3d(1, 1, 1), Order(out=tmp_path / "none", checkpoint=tmp_path / "no checkpoint"), 8)
    first = run.network.weight.item()
    for _ in range(2):
        run.network.weight.data.add_(1.0)
        run.stepped()
    keep(run, tmp_path / "out", tmp_path / "checkpoint")
    kept = load_file(tmp_path / "out")["weight"].item()
    assert run.done == 2
    assert first < kept < first + 1.1


def _texture(folder: Path) -> Path:
    """Write a scan of the generator as NIfTI (RAS): what a folder of real scans holds."""
    scan = draw(5, (3.0, 3.0, 3.0), nodules=(0, 0))
    folder.mkdir()
    affine = np.diag([-3.0, -3.0, 3.0, 1.0])
    nibabel.save(nibabel.Nifti1Image(scan.volume.array.transpose(2, 1, 0), affine), folder / "a.nii.gz")  # type: ignore[no-untyped-call]
    return folder


def test_real_texture_is_read_to_the_patients_axes(tmp_path: Path) -> None:
    """A NIfTI's values lie where the patient has them, and its aerated lung is the generator's."""
    scan = draw(5, (3.0, 3.0, 3.0), nodules=(0, 0))
    (known,) = real.textures(_texture(tmp_path / "scans"))
    assert known.spacing_mm == (3.0, 3.0, 3.0)
    assert _dice(known.lung, scan.organs > 0) > 0.95
    assert _dice(known.lung[:, :, ::-1], scan.organs > 0) < 0.7


def test_nodules_sown_in_real_texture_are_where_they_are_said_to_be(tmp_path: Path) -> None:
    """The brightest of a solid nodule's surroundings is inside its mask; the same seed gives the same block."""
    known = real.textures(_texture(tmp_path / "scans"))
    view = View(spacing_mm=(1.5, 1.5, 1.5), box_mm=(120.0, 120.0, 120.0))
    scan = real.real_block(7, known, view, (8, 8))
    again = real.real_block(7, known, view, (8, 8))
    assert np.array_equal(scan.volume.array, again.volume.array)
    # A round field of view may cut off the block's corners.
    shown = [nodule for nodule in scan.nodules if np.hypot(*nodule.centre_mm[:2]) + nodule.diameter_mm / 2 < 60]
    solid = [nodule for nodule in shown if nodule.kind == "solid" and nodule.site == "free" and nodule.diameter_mm > 8]
    assert solid
    for nodule in solid:
        mask = scan.instances == nodule.number
        shell = ndimage.binary_dilation(mask, iterations=3) & ~ndimage.binary_dilation(mask) & (scan.organs > 0)
        assert np.median(scan.volume.array[mask]) > np.median(scan.volume.array[shell]) + 300
        middle = scan.volume.grid.to_world_mm(np.argwhere(mask).mean(axis=0)[None])[0]
        assert np.linalg.norm(middle - np.array(nodule.centre_mm)) < 3


def test_a_folder_without_lungs_is_refused(tmp_path: Path) -> None:
    """No file, and a file that shows no lung, each with what to do or what was seen."""
    with pytest.raises(ValueError, match="no NIfTI file"):
        real.textures(tmp_path)
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 20, 20), np.int16), np.eye(4)), tmp_path / "b.nii")  # type: ignore[no-untyped-call]
    with pytest.raises(ValueError, match="shows no lung"):
        real.textures(tmp_path)


def test_a_mirrored_patch_renames_its_lungs() -> None:
    """Training may mirror a patch; the left lung is then still the one at greater x."""
    sides = []
    for seed in range(12):
        _, organs = train_lungs.cut(np.random.default_rng(seed), _scan(), train_lungs.options(), (96, 112, 144))
        left, right = organs.numpy() == LEFT, organs.numpy() == RIGHT
        if left.sum() > 500 and right.sum() > 500:
            sides.append(np.argwhere(left)[:, 2].mean() > np.argwhere(right)[:, 2].mean())
    assert len(sides) >= 3
    assert all(sides)


def test_a_probability_is_fitted_to_what_was_right() -> None:
    """Answers drawn with sigmoid(0.5 * logit - 1) give about these two numbers back."""
    rng = np.random.default_rng(4)
    logits = rng.normal(0, 3, 20_000)
    right = (rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits - 1)))).astype(float)
    assert calibrate.fit(logits, right) == pytest.approx((0.5, -1.0), abs=0.05)


def test_a_calibration_turns_scores_to_probabilities_and_keeps_what_was_missed() -> None:
    """Of two scans: three marks, the best of each nodule; a score of 0.75 is a logit of log 3, under (2, -1) of 2 log 3 - 1."""
    readings = [
        Reading(lesions=(Scored(size_mm=8, kind="solid", score=0.75), Scored(size_mm=9, kind="solid", score=MISSED)), false_marks=(0.25,)),
        Reading(lesions=(), false_marks=(0.5,)),
    ]
    said, right = calibrate.marks(readings)
    assert (said.tolist(), right.tolist()) == ([0.75, 0.25, 0.5], [1.0, 0.0, 0.0])
    assert calibrate.logits(said) == pytest.approx([np.log(3), -np.log(3), 0.0])
    again = calibrate.calibrated(readings[0], (2.0, -1.0))
    assert [lesion.score for lesion in again.lesions] == pytest.approx([9 / (9 + np.e), MISSED])
    assert again.false_marks == pytest.approx((1 / (1 + 9 * np.e),))


def test_small_fields_of_view_lose_image_and_truth_alike() -> None:
    """What a narrowed patch no longer shows is neither image nor lung, and what it shows is as before."""
    image, organs = train_lungs.cut(np.random.default_rng(0), _scan(), train_lungs.options(), (96, 112, 144))
    seen, truth = image.clone(), organs.clone()
    train_lungs.narrowed(np.random.default_rng(3), seen, truth)
    kept = seen[0] == image[0]
    assert not bool(seen[0][~kept].any())
    assert 0 < int((truth > 0).sum()) < int((organs > 0).sum())
    assert bool((truth[truth > 0] == organs[truth > 0]).all())


def test_the_rate_rises_stays_and_falls() -> None:
    """Over 600 steps: half the peak at step 49, the peak from 100 to 400, half again at 500."""
    rate = Rate(peak=0.004, lowest=0.0)
    assert [rate.at(step, 600) for step in (49, 100, 400, 500)] == pytest.approx([0.002, 0.004, 0.004, 0.002])


@pytest.mark.parametrize("name", ["lungs", "nodules"])
def test_the_weights_are_those_the_card_names(name: str) -> None:
    """The card's sha256 is that of the file beside it, and the file is small enough for git."""
    wanted = card.read(CARD).card.runtime.files[name]
    data = CARD.with_name(wanted.path).read_bytes()
    assert hashlib.sha256(data).hexdigest() == wanted.sha256
    assert len(data) < 10_000_000


def test_lungs_of_an_unseen_scan_are_found_on_their_own_side() -> None:
    """Through card, registry and resampling: both lungs at Dice 0.9 or more; exchanged sides would give 0."""
    scan, prediction = _predicted()
    for side in (LEFT, RIGHT):
        assert _dice(prediction.labels == side, (scan.organs == side) & (prediction.instances == 0)) > 0.9


def test_a_scan_mirrored_in_its_array_has_its_lungs_exchanged() -> None:
    """A planted flip: x reversed in the array but not in the grid puts each lung on the other side, and the model says so."""
    scan, prediction = _predicted()
    flipped = replace(scan.volume, array=scan.volume.array[:, :, ::-1].astype(np.int16))
    answer = _model().predict({"ct": flipped}, lambda _share: None).labels[:, :, ::-1]
    assert _dice(answer == RIGHT, prediction.labels == LEFT) > 0.9
    assert _dice(answer == LEFT, prediction.labels == LEFT) < 0.05


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_what_is_no_chest_is_declined_never_called_clean(seed: int) -> None:
    """A scan without lungs is Unfit with a reason, so that no empty answer leaves the node."""
    with pytest.raises(Unfit) as caught:
        _model().predict({"ct": draw_other(seed, COARSE).volume}, lambda _share: None)
    assert caught.value.reason


def _nifti(path: Path) -> Volume:
    """Read NIfTI (RAS) into LPS: x and y grow the other way there."""
    image: Any = nibabel.as_closest_canonical(nibabel.load(path))  # type: ignore[no-untyped-call]
    array = np.asanyarray(image.dataobj)[::-1, ::-1].transpose(2, 1, 0)
    x, y, z = (float(v) for v in image.header.get_zooms()[:3])
    grid = Grid(shape=(len(array), array.shape[1], array.shape[2]), origin_mm=(0, 0, 0), axes=AXES, spacing_mm=(z, y, x))
    return Volume(array=np.rint(array).astype(np.int16), grid=grid, unit="HU", modality="CT")


def test_a_chest_cut_off_below_says_so() -> None:
    """The upper two thirds of a chest are judged, and the result says of each lung that it goes on below; the whole is not cut there."""
    scan, whole = _predicted()
    assert not any("below" in remark for remark in whole.remarks)
    begin = scan.volume.array.shape[0] // 3
    upper = np.ascontiguousarray(scan.volume.array[begin:])
    grid = replace(scan.volume.grid, shape=(len(upper), *scan.volume.grid.shape[1:]))
    remarks = _model().predict({"ct": replace(scan.volume, array=upper, grid=grid)}, lambda _share: None).remarks
    assert [remark.split(" below")[0] for remark in remarks] == [f"The {side} lung is cut off" for side in ("left", "right")]


@pytest.mark.parametrize("name", ["example_ct", "example_ct_sm"])
def test_a_real_abdomen_is_declined(name: str) -> None:
    """A patient's abdomen with bowel gas and a table shows no lungs to judge, or too little of them."""
    with pytest.raises(Unfit, match="No lungs were found"):
        _model().predict({"ct": _nifti(shared(f"data/abdomen_ct_totalseg/{name}.nii.gz"))}, lambda _share: None)


def test_a_real_chest_has_its_lungs_on_their_sides() -> None:
    """In a patient's cropped CT angiogram both lungs are found, left of and right of the heart, and hold air."""
    volume = _nifti(shared("data/chest_cta_totalseg/aorta_report/test_result/models/ct_cropped.nii.gz"))
    labels = _model().predict({"ct": volume}, lambda _share: None).labels
    left, right = _middle_mm(volume, labels == LEFT), _middle_mm(volume, labels == RIGHT)
    assert left[0] - right[0] > 60
    air = ndimage.binary_opening((volume.array < -600) & (volume.array > -960), iterations=2)
    assert (labels[air] > 0).mean() > 0.85
    assert np.median(volume.array[labels > 0]) < -600


def test_the_baseline_is_a_working_method() -> None:
    """Else the comparison was unfair: its lungs are right on an easy scan, and its best marks lie at solid nodules."""
    scan, _ = _predicted()
    labels, marks = baseline.judge(scan.volume)
    assert _dice(labels > 0, scan.organs > 0) > 0.8
    solid = [lesion for lesion in cases.case_of(scan).lesions if lesion.size_mm >= 8 and lesion.kind.startswith("solid")]
    assert solid
    assert all(any(lesion.is_hit(mark.centre_mm) for mark in marks[:20]) for lesion in solid)
