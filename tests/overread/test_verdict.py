"""The demo's witness: it must see a result that is wrong, not only one that is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from models import card as cards
from models.vocabulary import Box, Finding, Prediction
from node.settings import ResultsSection
from node.study import Job, JobState, Mode, Stage
from overread import pictures, readback, verdict
from overread.sample import Truth
from tests import phantoms
from workers import load, results

CHEST = cards.STARTERS / "chest_ct" / "card.toml"


@dataclass(frozen=True)
class Study:
    """A phantom and a way to write any prediction on it as SEG and SR."""

    truth: Truth
    folder: Path

    def written(self, change: Callable[[Prediction], Prediction] = lambda same: same) -> tuple[Path, Path]:
        """Write the truth, changed, as SEG and SR; give their paths."""
        loaded = load.load(self.truth.files)
        grid = loaded.volume.grid
        indices = np.stack(np.meshgrid(*(np.arange(count) for count in grid.shape), indexing="ij"), axis=-1).reshape(-1, 3)
        centres = grid.to_world_mm(indices.astype(float)).reshape(*grid.shape, 3)
        on_grid = phantoms.on_grid(self.truth, centres)
        prediction = Prediction(grid=grid, labels=on_grid.labels, instances=on_grid.instances, findings=_findings(on_grid.instances))
        request = results.ComposeRequest(
            job=_job(self.truth),
            card=cards.read(CHEST),
            prediction=change(prediction),
            volume=loaded.volume,
            sources=loaded.sources,
            settings=ResultsSection(),
        )
        paths = {}
        for entry in results.compose(request).objects:
            paths[entry.kind] = self.folder / f"{entry.kind}.dcm"
            paths[entry.kind].write_bytes(entry.dataset_bytes)
        return paths["seg"], paths["sr"]

    @property
    def sources(self) -> dict[str, Path]:
        """Give the images by SOP Instance UID."""
        return {str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path for path in self.truth.files}


def _findings(instances: np.ndarray) -> tuple[Finding, ...]:
    found = []
    for number in range(1, int(instances.max()) + 1):
        where = np.argwhere(instances == number)
        low, high = where.min(axis=0), where.max(axis=0) + 1
        box = Box(low=tuple(int(v) for v in low), high=tuple(int(v) for v in high))  # type: ignore[arg-type]
        found.append(Finding(number=number, label=3, score=0.9, box=box))
    return tuple(found)


def _job(truth: Truth) -> Job:
    return Job(
        job_id="b" * 64,
        generation=1,
        study_instance_uid=truth.study_instance_uid,
        revision=1,
        model="chest-ct",
        version="0.1.0",
        card_digest="d",
        inputs={},
        mode=Mode.LIVE,
        priority=5,
        destinations=(),
        state=JobState.RUNNING,
        stage=Stage.COMPOSE,
        attempt=1,
        fence=3,
        created_at=1_767_000_000.0,
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Make the phantom once."""
    folder = tmp_path_factory.mktemp("study")
    return Study(truth=phantoms.thorax(folder / "images"), folder=folder)


def test_a_true_result_passes_every_check(study: Study) -> None:
    """The generator's own masks, written as SEG and SR, agree with its formulas and with the images."""
    seg, sr = study.written()
    segments, report = readback.segments(seg), readback.report(sr)
    known = {*study.sources, *(str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in (seg, sr))}
    checks = verdict.against_truth(study.truth, segments)
    checks += verdict.on_the_images(segments, seg, study.sources)
    checks += verdict.report_agrees(report, segments, known)
    assert [check for check in checks if not check.holds] == []
    assert len(checks) == 2 + 3 + 3 + 2


def mirrored(prediction: Prediction) -> Prediction:
    """Swap left and right."""
    labels = prediction.labels.copy()
    labels[prediction.labels == 1], labels[prediction.labels == 2] = 2, 1
    return replace(prediction, labels=labels)


def without_the_last_nodule(prediction: Prediction) -> Prediction:
    """Miss a nodule."""
    assert prediction.instances is not None
    instances = prediction.instances.copy()
    instances[instances == len(prediction.findings)] = 0
    return replace(prediction, instances=instances, findings=prediction.findings[:-1])


def upside_down(prediction: Prediction) -> Prediction:
    """Turn the stack over."""
    assert prediction.instances is not None
    flipped = np.ascontiguousarray(prediction.instances[::-1])
    return replace(prediction, labels=np.ascontiguousarray(prediction.labels[::-1]), instances=flipped, findings=_findings(flipped))


@pytest.mark.parametrize(
    ("fault", "names"),
    [(mirrored, ("left lung", "right lung")), (without_the_last_nodule, ("nodule 3",)), (upside_down, ("left lung", "nodule 1"))],
)
def test_a_wrong_result_fails(study: Study, fault: Callable[[Prediction], Prediction], names: tuple[str, ...]) -> None:
    """Swapped sides, a missed nodule and a stack turned over are each seen as what they are."""
    seg, _sr = study.written(fault)
    failed = [check.name for check in verdict.against_truth(study.truth, readback.segments(seg)) if not check.holds]
    assert all(any(name.startswith(wanted) for name in failed) for wanted in names), failed


def test_a_seg_on_other_images_fails(study: Study, tmp_path: Path) -> None:
    """A frame that lies elsewhere than its image, and a reference to an unknown image, are seen."""
    seg, _sr = study.written()
    dataset = pydicom.dcmread(seg)
    dataset.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[2] += 1.0
    moved = tmp_path / "moved.dcm"
    dataset.save_as(moved)
    assert not all(check.holds for check in verdict.on_the_images(readback.segments(moved), moved, study.sources))
    without_one = dict(list(study.sources.items())[:20])
    assert not all(check.holds for check in verdict.on_the_images(readback.segments(seg), seg, without_one))


def test_an_sr_that_says_another_volume_fails(study: Study, tmp_path: Path) -> None:
    """A volume in the SR that is not that of the SEG's voxels is seen."""
    seg, sr = study.written()
    text = pydicom.dcmread(sr)
    groups = next(item for item in text.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010").ContentSequence
    number = next(item for group in groups for item in group.ContentSequence if item.ValueType == "NUM")
    number.MeasuredValueSequence[0].NumericValue = "1"
    wrong = tmp_path / "wrong.dcm"
    text.save_as(wrong)
    segments = readback.segments(seg)
    known = {*study.sources, str(pydicom.dcmread(seg, stop_before_pixels=True).SOPInstanceUID)}
    assert all(check.holds for check in verdict.report_agrees(readback.report(sr), segments, known))
    assert not all(check.holds for check in verdict.report_agrees(readback.report(wrong), segments, known))
    assert not all(check.holds for check in verdict.report_agrees(readback.report(sr), segments, set()))


def test_pictures_show_each_segments_largest_slice(study: Study, tmp_path: Path) -> None:
    """Every segment has its outline, in its colour, on the picture of its largest slice."""
    seg, _sr = study.written()
    segments = readback.segments(seg)
    files = pictures.draw(segments, study.sources, tmp_path)
    seen = set()
    for path in files:
        with Image.open(path) as picture:
            assert min(picture.size) > 300
            seen |= {colour for _count, colour in picture.getcolors(1 << 24) or ()}
    assert {segment.colour for segment in segments} <= seen
