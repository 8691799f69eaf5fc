"""nnU-Net results folders: every voxel's label is the one that nnU-Net's own predictor gives."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its documentation's own name
from numpy.typing import NDArray
from safetensors.torch import load
from scipy import ndimage

from models import drafts, registry
from models.card import BadCard
from models.execution import PLAIN, Execution
from models.shelving import conversion
from models.vocabulary import Broken, Grid, Unfit, Volume
from tests.models.grids import AXES, grid
from tests.models.trained import LABELS, REGIONS, Training, adopt, configuration, first_plans, probabilities, reference, residual, train

SHAPE, SPACING_MM = (20, 40, 33), (2.5, 0.8, 0.9)
MASKED = {"normalization_schemes": ["ZScoreNormalization"] * 2, "use_mask_for_norm": [True, True]}
CASES: dict[str, tuple[Training, Grid]] = {
    "3-D, two folds, mirrored": (Training(folds=2), grid("axial", SHAPE, SPACING_MM)),
    "as the first plans had it": (Training(configurations={"3d_fullres": first_plans()}), grid("axial", SHAPE, SPACING_MM)),
    "residual encoder": (Training(configurations={"3d_fullres": residual()}), grid("axial", SHAPE, SPACING_MM)),
    "transposed, one axis mirrored": (Training(forward=(1, 0, 2), mirroring=(0,)), grid("axial", (40, 20, 33), (0.8, 2.5, 0.9))),
    "sagittal": (Training(forward=(2, 0, 1)), grid("sagittal", (18, 30, 34), (3.0, 0.9, 0.9))),
    "slices apart": (
        Training(configurations={"3d_fullres": configuration((4, 16, 16), (5.0, 1.2, 1.2))}, mirroring=None),
        grid("axial", (14, 40, 33), (4.0, 0.8, 0.9)),
    ),
    "2-D": (
        Training(configurations={"2d": configuration((16, 16), (1.2, 1.2))}, mirroring=(0, 1)),
        grid("axial", (9, 40, 33), (4.0, 0.8, 0.9)),
    ),
    "regions and an ignore label": (Training(labels=REGIONS, order=(1, 2, 3)), grid("axial", SHAPE, SPACING_MM)),
    "smaller than the patch": (
        Training(configurations={"3d_fullres": configuration((16, 32, 32))}, mirroring=None),
        grid("axial", (10, 24, 25), (2.5, 0.8, 0.9)),
    ),
    "two channels, normalised where they are not 0": (
        Training(configurations={"3d_fullres": configuration(**MASKED)}, channels=("T1", "FLAIR"), mirroring=None),
        grid("axial", SHAPE, SPACING_MM),
    ),
    "at its own spacing": (
        Training(configurations={"3d_fullres": configuration(spacing=SPACING_MM)}, mirroring=None),
        grid("axial", SHAPE, SPACING_MM),
    ),
    "many classes": (
        Training(labels={"background": 0, **{f"part {index}": index for index in range(1, 30)}}, mirroring=None, seed=3),
        grid("axial", SHAPE, SPACING_MM),
    ),
    "cubic scores, class by class": (
        Training(
            configurations={"3d_fullres": configuration(resampling_fn_probabilities_kwargs={"is_seg": False, "order": 3, "order_z": 0})},
            mirroring=None,
        ),
        grid("axial", SHAPE, SPACING_MM),
    ),
    "a cascade": (
        Training(
            configurations={
                "3d_lowres": configuration(spacing=(3.0, 3.0, 3.0)),
                "3d_cascade_fullres": configuration(previous_stage="3d_lowres"),
            },
            mirroring=(0, 1),
        ),
        grid("axial", SHAPE, SPACING_MM),
    ),
}


def image(channels: int, of: Grid) -> NDArray[np.float32]:
    """Give whole numbers that change smoothly, 0 around them as in a skull-stripped head."""
    noise = np.random.default_rng(7).normal(size=(channels, *of.shape))
    smooth = ndimage.gaussian_filter(noise, (0, 2, 2, 2))
    whole = np.round(200 * smooth / smooth.std()).astype(np.float32)
    whole[:, :1], whole[:, :, -3:] = 0, 0
    return whole


def volumes(training: Training, array: NDArray[np.float32], of: Grid) -> dict[str, Volume]:
    """Give each channel its role."""
    mr = len(training.channels) > 1
    roles = [name.lower() for name in training.channels]
    return {
        role: Volume(array=part, grid=of, unit="1" if mr else "HU", modality="MR" if mr else "CT")
        for role, part in zip(roles, array, strict=True)
    }


@pytest.mark.parametrize("name", CASES)
def test_every_label_is_that_of_its_own_predictor(tmp_path: Path, name: str) -> None:
    """Windows, mirroring, folds, both stages, normalisation and resampling there and back leave no voxel with another label."""
    training, of = CASES[name]
    path = train(training, tmp_path)
    array = image(len(training.channels), of)
    expected = reference(path, array, of.spacing_mm)
    assert len(np.unique(expected)) >= 3, "the case says something"
    model = registry.load(adopt(path, tmp_path / "card"), "cpu")
    told: list[float] = []
    prediction = model.predict(volumes(training, array, of), told.append)
    assert prediction.grid == of
    assert prediction.labels.dtype == np.uint8
    assert np.count_nonzero(prediction.labels != expected) == 0
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize("execution", [Execution(stitch="host"), Execution(batch=3)], ids=["host", "batch"])
def test_how_it_is_run_changes_no_label(tmp_path: Path, execution: Execution) -> None:
    """Stitching on the host, tiles and batches give the same labels, and the prediction says how it was run."""
    training, of = CASES["3-D, two folds, mirrored"]
    path = train(training, tmp_path)
    array = image(1, of)
    model = registry.load(adopt(path, tmp_path / "card"), "cpu")
    plain, other = (model.predict(volumes(training, array, of), lambda _: None, way) for way in (PLAIN, execution))
    assert np.array_equal(plain.labels, other.labels)
    assert other.variant["batch"] == str(execution.batch)
    assert other.variant["stitch"] == execution.stitch
    assert (other.variant["runtime"], other.variant["scores"]) == ("nnunet", "in slabs")
    need = model.need({"ct": of}, execution)
    assert need.device > 0
    assert need.host > 4 * array.size


def test_a_finding_is_each_part_of_its_label(tmp_path: Path) -> None:
    """Every connected part has a number, its box, and the softmax's highest value as its score; small and unsure ones are none."""
    training, of = CASES["at its own spacing"]
    path = train(training, tmp_path)
    array = image(1, of)
    expected, levels = reference(path, array, of.spacing_mm), probabilities(path, array, of.spacing_mm)[3]
    shelved = adopt(path, tmp_path / "card", {"output.labels.3.kind": "finding", "output.labels.3.min_volume_ml": 0.007})
    prediction = registry.load(shelved, "cpu").predict(volumes(training, array, of), lambda _: None)
    parts, count = ndimage.label(expected == 3, structure=np.ones((3, 3, 3)))
    large = [number for number in range(1, count + 1) if np.count_nonzero(parts == number) * of.voxel_mm3 >= 7]
    assert 1 < len(large) < count
    assert np.array_equal(prediction.labels, np.where(expected == 3, 0, expected))
    assert np.array_equal(prediction.instances > 0, np.isin(parts, large))
    assert [finding.number for finding in prediction.findings] == list(range(1, len(large) + 1))
    for finding in prediction.findings:
        voxels = np.argwhere(prediction.instances == finding.number)
        (number,) = np.unique(parts[prediction.instances == finding.number])
        assert (finding.label, finding.box.low, finding.box.high) == (3, tuple(voxels.min(axis=0)), tuple(voxels.max(axis=0) + 1))
        assert finding.score == pytest.approx(levels[parts == number].max(), abs=2e-3)
    sure = adopt(path, tmp_path / "sure", {"output.labels.3.kind": "finding", "output.labels.3.threshold": 0.999999})
    assert registry.load(sure, "cpu").predict(volumes(training, array, of), lambda _: None).findings == ()


def test_without_mirroring_where_the_card_says_so(tmp_path: Path) -> None:
    """The option mirroring = false is nnU-Net's --disable_tta, and it is not the same as with it."""
    training, of = CASES["3-D, two folds, mirrored"]
    path = train(training, tmp_path)
    array = image(1, of)
    expected = reference(path, array, of.spacing_mm, mirroring=False)
    model = registry.load(adopt(path, tmp_path / "card", {"runtime.options.mirroring": False}), "cpu")
    assert np.array_equal(model.predict(volumes(training, array, of), lambda _: None).labels, expected)
    assert not np.array_equal(expected, reference(path, array, of.spacing_mm))


@pytest.mark.parametrize("name", AXES)
def test_images_are_turned_as_the_training_had_them(tmp_path: Path, name: str) -> None:
    """A series of any plane gives the labels that nnU-Net gives on the same image turned by ITK to right, front, up."""
    of = grid(name, (18, 30, 24), (3.0, 1.1, 1.4))
    training = Training(mirroring=None, reader="SimpleITKIOWithReorient")
    path = train(training, tmp_path)
    array = image(1, of)
    itk = sitk.GetImageFromArray(array[0])
    itk.SetSpacing(of.spacing_mm[::-1])
    itk.SetOrigin(of.origin_mm)
    itk.SetDirection(np.array(of.axes[::-1]).T.ravel().tolist())
    turned = sitk.DICOMOrient(itk, "RAS")
    expected = sitk.GetImageFromArray(reference(path, sitk.GetArrayFromImage(turned)[None], turned.GetSpacing()[::-1]))
    expected.CopyInformation(turned)
    code = sitk.DICOMOrientImageFilter_GetOrientationFromDirectionCosines(itk.GetDirection())
    model = registry.load(adopt(path, tmp_path / "card"), "cpu")
    prediction = model.predict(volumes(training, array, of), lambda _: None)
    assert np.array_equal(prediction.labels, sitk.GetArrayFromImage(sitk.DICOMOrient(expected, code)))


def test_labels_of_the_draft_are_those_of_the_dataset(tmp_path: Path) -> None:
    """The draft has the dataset's names and numbers, its channel as a role, and asks only for what no file tells."""
    path = train(Training(mirroring=(0, 1)), tmp_path)
    draft = drafts.inspect(path)
    labels: list[dict[str, Any]] = draft.card["output"]["labels"]
    assert [(label["index"], label["label"]) for label in labels] == [(1, "Liver"), (2, "Spleen"), (3, "Left kidney")]
    assert draft.card["inputs"] == [{"role": "ct", "reference": True, "accept": {"modality": ["CT"]}}]
    assert draft.card["runtime"]["options"]["mirroring_axes"] == [0, 1]
    assert set(draft.files) == {"plans", "dataset", "fold_0"}
    names = load(conversion.convert(draft.files["fold_0"].path).safetensors(once=draft.files["fold_0"].tied))
    assert not any(name.replace(".conv.", ".all_modules.0.") in names for name in names if ".conv." in name), "each tensor once"
    wanted = {entry.key for entry in draft.missing}
    assert "runtime.options.orientation" in wanted
    assert {f"output.labels.{LABELS[name]}.type" for name in LABELS if name != "background"} <= wanted


def changed(path: Path, what: str, key: str, value: Any) -> None:
    """Put one value into a results folder's JSON, at a dotted key; None takes the key away."""
    table = json.loads((path / what).read_text())
    here = table
    *way, last = key.split(".")
    for part in way:
        here = here[part]
    if value is None:
        del here[last]
    else:
        here[last] = value
    (path / what).write_text(json.dumps(table))


FULL = "configurations.3d_fullres"
BAD: dict[str, tuple[str, str, Any, str]] = {
    "plans of nnU-Net v1": ("plans.json", "configurations", None, "not nnU-Net v2's"),
    "no such configuration": ("plans.json", "configurations", {}, "no configuration '3d_fullres'"),
    "an architecture that is code": (
        "plans.json",
        f"{FULL}.architecture.network_class_name",
        "os.system",
        "'os.system' is not one of dynamic_network_architectures",
    ),
    "an operation that is code": ("plans.json", f"{FULL}.architecture.arch_kwargs.nonlin", "subprocess.Popen", "is no operation"),
    "an operation by a path in torch that is none": (
        "plans.json",
        f"{FULL}.architecture.arch_kwargs.nonlin",
        "torch.load",
        "is no operation",
    ),
    "other arguments": ("plans.json", f"{FULL}.architecture.arch_kwargs.features_per_stage", [4, 16], "weights do not fit"),
    "a patch that cannot be halved": ("plans.json", f"{FULL}.patch_size", [15, 16, 16], "does not take its patch"),
    "an unknown normalisation": ("plans.json", f"{FULL}.normalization_schemes", ["MyNormalization"], "'MyNormalization' is not one of"),
    "an unknown resampling": ("plans.json", f"{FULL}.resampling_fn_data", "my_resampling", "'my_resampling' is not one of"),
    "an unknown preprocessor": ("plans.json", f"{FULL}.preprocessor_name", "MyPreprocessor", "only DefaultPreprocessor"),
    "an unknown reader": ("plans.json", "image_reader_writer", "MyIO", "'MyIO' is not one of"),
    "labels with a gap": ("dataset.json", "labels.spleen", 5, "without a gap"),
    "more labels than channels": (
        "dataset.json",
        "labels.more",
        4,
        "weights do not fit the network of the plans with 1 input and 5 output",
    ),
    "more channels than inputs": ("dataset.json", "channel_names", {"0": "CT", "1": "PT"}, "dataset.json has 2"),
    "no background": ("dataset.json", "labels.background", None, "background = 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_folder_is_told_when_it_is_loaded(tmp_path: Path, name: str) -> None:
    """What does not fit, and what would run code, is named before any patient waits."""
    what, key, value, reason = BAD[name]
    path = train(Training(mirroring=None), tmp_path)
    shelved = adopt(path, tmp_path / "card")
    changed(tmp_path / "card", what, key, value)
    files = {
        entry: file.model_copy(update={"sha256": hashlib.sha256((tmp_path / "card" / file.path).read_bytes()).hexdigest()})
        for entry, file in shelved.card.runtime.files.items()
    }
    runtime = shelved.card.runtime.model_copy(update={"files": files})
    with pytest.raises(BadCard, match=reason):
        registry.load(replace(shelved, card=shelved.card.model_copy(update={"runtime": runtime})), "cpu")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"runtime.options.trainer": "nnUNetTrainerUMambaBot"}, "'nnUNetTrainerUMambaBot' is not one of nnU-Net's own"),
        ({"runtime.options.configuration": "2d"}, "no configuration '2d'"),
        ({"runtime.options.folds": ["0", "1"]}, "runtime.files must be"),
        ({"runtime.options.mirroring_axes": [3]}, "not axes of a patch of 3"),
        ({"runtime.options.orientation": "SPA"}, "names one direction twice"),
        ({"runtime.options.step": 0.0}, "step"),
        ({"runtime.options.surprise": 1}, "surprise"),
        ({"output.inverse": "labels-nearest"}, "output.inverse"),
        (
            {"output.labels.3.index": 4, "measurements.3.label": 4},
            r"labels are \[1, 2, 3\], the card's output.labels have the indices \[1, 2, 4\]",
        ),
        ({"output.kind": "masks"}, "output.kind"),
    ],
)
def test_a_card_that_does_not_fit_its_folder_is_bad(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    """A wrong word in the card is named when the model is loaded."""
    path = train(Training(mirroring=None), tmp_path)
    with pytest.raises(BadCard, match=reason):
        registry.load(adopt(path, tmp_path / "card", change), "cpu")


def test_a_trainer_that_a_human_vouches_for_is_taken(tmp_path: Path) -> None:
    """A trainer of a site's own is run where the card says that it builds the network of the plans."""
    path = train(Training(mirroring=None, trainer="nnUNetTrainer"), tmp_path)
    values = {"runtime.options.trainer": "nnUNetTrainerOfOurs", "runtime.options.trainer_as_planned": True}
    assert registry.load(adopt(path, tmp_path / "card", values), "cpu")


@pytest.mark.parametrize("trainer", ["nnUNetTrainer_4000epochs_NoMirroring", "nnUNetTrainerDA5", "nnUNetTrainer_onlyMirror01_1500ep"])
def test_trainers_that_build_the_network_of_the_plans_are_taken(tmp_path: Path, trainer: str) -> None:
    """Of nnU-Net's own trainers those that change only how is trained are run without a word from a human."""
    path = train(Training(mirroring=None), tmp_path)
    assert registry.load(adopt(path, tmp_path / "card", {"runtime.options.trainer": trainer}), "cpu")


def test_a_folder_without_folds_or_with_half_a_file_cannot_be_drafted(tmp_path: Path) -> None:
    """Missing folds, a checkpoint that was copied in part, and a cascade without its first stage are named."""
    path = train(Training(mirroring=None), tmp_path / "one")
    checkpoint = path / "fold_0" / "checkpoint_final.pth"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    with pytest.raises(BadCard, match="cannot be read as a checkpoint"):
        drafts.inspect(path)
    checkpoint.unlink()
    with pytest.raises(BadCard, match="no fold_0"):
        drafts.inspect(path)
    cascade, _ = CASES["a cascade"]
    path = train(cascade, tmp_path / "two")
    (tmp_path / "two" / "nnUNetTrainer__nnUNetPlans__3d_lowres").rename(tmp_path / "two" / "elsewhere")
    with pytest.raises(BadCard, match="nnUNetTrainer__nnUNetPlans__3d_lowres must lie beside it"):
        drafts.inspect(path)


def test_the_folder_above_and_one_of_the_first_version_are_told(tmp_path: Path) -> None:
    """A dataset's folder is as good as the one results folder in it; of several one must be named, and v1 is refused with advice."""
    path = train(Training(mirroring=None), tmp_path / "Dataset001_Small")
    assert drafts.inspect(path.parent).files == drafts.inspect(path).files
    train(Training(configurations={"2d": configuration((16, 16), (1.2, 1.2))}), tmp_path / "Dataset001_Small")
    with pytest.raises(BadCard, match="give one of nnUNetTrainer__nnUNetPlans__2d, nnUNetTrainer__nnUNetPlans__3d_fullres"):
        drafts.inspect(path.parent)
    (tmp_path / "old" / "fold_0").mkdir(parents=True)
    (tmp_path / "old" / "plans.pkl").write_bytes(b"")
    with pytest.raises(BadCard, match="nnU-Net v1"):
        drafts.inspect(tmp_path / "old")


def test_channels_on_other_voxels_are_laid_over_the_reference(tmp_path: Path) -> None:
    """A second series that begins some whole voxels elsewhere is moved over the first by its place in the patient, 0 where it ends."""
    training, of = CASES["two channels, normalised where they are not 0"]
    path = train(training, tmp_path)
    array = image(2, of)
    model = registry.load(adopt(path, tmp_path / "card"), "cpu")
    given = volumes(training, array, of)
    along = of.origin_mm[1] + 4 * of.spacing_mm[1]
    given["flair"] = replace(
        given["flair"],
        array=array[1][:, 4:-2],
        grid=replace(of, shape=(of.shape[0], of.shape[1] - 6, of.shape[2]), origin_mm=(of.origin_mm[0], along, of.origin_mm[2])),
    )
    seen = array.copy()
    seen[1, :, :4], seen[1, :, -2:] = 0, 0
    prediction = model.predict(given, lambda _: None)
    expected = reference(path, seen, of.spacing_mm)
    assert np.mean(prediction.labels != expected) < 1e-3  # interpolation at whole voxels rounds in single precision
    assert prediction.variant["interpolated"] == "flair"


def test_a_channel_of_another_place_is_unfit(tmp_path: Path) -> None:
    """A second series that shows nothing of what the first shows is refused."""
    training, of = CASES["two channels, normalised where they are not 0"]
    model = registry.load(adopt(train(training, tmp_path), tmp_path / "card"), "cpu")
    given = volumes(training, image(2, of), of)
    given["flair"] = replace(given["flair"], grid=replace(of, origin_mm=(of.origin_mm[0] + 500, *of.origin_mm[1:])))
    with pytest.raises(Unfit, match="flair shows no part"):
        model.predict(given, lambda _: None)


def test_scores_that_are_no_numbers_break_the_run(tmp_path: Path) -> None:
    """An image that makes the network overflow gives no result instead of a wrong one."""
    training, of = CASES["at its own spacing"]
    array = image(1, of)
    array[0, 5, 5, 5] = np.nan
    model = registry.load(adopt(train(training, tmp_path), tmp_path / "card"), "cpu")
    with pytest.raises(Broken, match="no finite numbers"):
        model.predict(volumes(training, array, of), lambda _: None)
