"""Work files and parcels on the disk."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.vocabulary import Box, Finding, Grid, Prediction, Volume
from node.errors import NoRoom
from node.study import Job, JobState, Mode, Stage
from tests import disks
from workers import workspace
from workers.frames import Origin, Source

GRID = Grid(shape=(2, 3, 4), origin_mm=(10.5, -20.25, 30.125), axes=((0, 0, 1), (0, 1, 0), (1, 0, 0)), spacing_mm=(2.5, 0.7, 0.7))
JOB = Job(
    job_id="a" * 64,
    generation=2,
    study_instance_uid="1.2.3",
    revision=1,
    model="m",
    version="1",
    card_digest="d",
    inputs={"ct": ("1.2.3.1",)},
    mode=Mode.LIVE,
    priority=5,
    destinations=(),
    state=JobState.RUNNING,
    stage=Stage.COMPOSE,
    attempt=1,
    fence=7,
    created_at=0.0,
)
ORIGIN = Origin(sources=(Source(sop_instance_uid="1.2", frame=7), Source(sop_instance_uid="1.1")), given=4, remark="echo 1")


def shelf(root: Path, fence: int = 7, generation: int = 2) -> workspace.Shelf:
    """See the work folder as that claim does."""
    return workspace.Shelf(root=root, job_id=JOB.job_id, generation=generation, fence=fence)


def volume(fill: int = 5) -> Volume:
    """Make a volume of one value."""
    return Volume(array=np.full(GRID.shape, fill, np.int16), grid=GRID, unit="HU", modality="CT")


def prediction() -> Prediction:
    """Make a prediction with one finding and a score that no short decimal holds."""
    instances = np.zeros(GRID.shape, np.uint16)
    instances[1, 2, 3] = 1
    finding = Finding(number=1, label=3, score=0.1 + 0.2, box=Box(low=(1, 2, 3), high=(2, 3, 4)), deviation=0.1 / 3)
    return Prediction(
        grid=GRID,
        labels=np.arange(24, dtype=np.uint8).reshape(GRID.shape),
        instances=instances,
        findings=(finding,),
        remarks=("The left lung is cut off below.",),
        variant={"device": "cpu"},
    )


def test_volumes_come_back_to_the_last_bit(tmp_path: Path) -> None:
    """A volume, its grid and its sources' order read back as they were written."""
    workspace.save_volumes(shelf(tmp_path), {"ct": volume()}, ORIGIN)
    volumes, origin = workspace.load_volumes(shelf(tmp_path, fence=9))
    assert origin == ORIGIN
    assert volumes["ct"].grid == GRID
    assert volumes["ct"].array.dtype == np.int16
    assert np.array_equal(volumes["ct"].array, volume().array)


def test_a_radiographs_grid_stays_one(tmp_path: Path) -> None:
    """That a grid is a picture's own, and without millimetres, is not lost between the stages."""
    flat = replace(GRID, shape=(1, 4, 5), space="image", calibrated=False)
    picture = Volume(array=np.zeros(flat.shape, np.float32), grid=flat, unit="1", modality="DX")
    workspace.save_volumes(shelf(tmp_path), {"x": picture}, Origin(sources=(Source(sop_instance_uid="1.2"),), given=1))
    assert workspace.load_volumes(shelf(tmp_path))[0]["x"].grid == flat


def test_a_prediction_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    """Labels, instances, findings and variant read back as they were written; floats lose nothing."""
    workspace.save_prediction(shelf(tmp_path), prediction())
    back, wanted = workspace.load_prediction(shelf(tmp_path)), prediction()
    assert back.findings == wanted.findings
    assert back.grid == GRID
    assert back.variant == {"device": "cpu"}
    assert back.instances is not None
    assert np.array_equal(back.labels, wanted.labels)
    assert back.instances.dtype == np.uint16
    assert back.instances[1, 2, 3] == 1


def test_the_newest_fence_is_read_and_a_later_claims_file_is_not(tmp_path: Path) -> None:
    """A stage reads what the newest claim up to its own wrote, never a younger claim's or another generation's."""
    for fence, fill in ((1, 10), (3, 30), (8, 80)):
        workspace.save_volumes(shelf(tmp_path, fence), {"ct": volume(fill)}, ORIGIN)
    workspace.save_volumes(shelf(tmp_path, 5, generation=1), {"ct": volume(50)}, ORIGIN)
    volumes, _ = workspace.load_volumes(shelf(tmp_path, fence=7))
    assert volumes["ct"].array.flat[0] == 30


@pytest.mark.parametrize("how", ["gone", "cut", "flipped", "pickle"])
def test_a_lost_or_damaged_work_file_is_known_as_such(tmp_path: Path, how: str) -> None:
    """A work file that is missing, cut short, changed in one byte or a pickle raises LostWork with its name."""
    workspace.save_volumes(shelf(tmp_path), {"ct": volume()}, ORIGIN)
    path = tmp_path / JOB.job_id / "7" / "volumes" / "ct.npy"
    blob = bytearray(path.read_bytes())
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(blob[:-3])
    elif how == "flipped":
        blob[-1] ^= 1
        path.write_bytes(blob)
    else:
        np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(workspace.LostWork) as caught:
        workspace.load_volumes(shelf(tmp_path))
    assert caught.value.name == "volumes"


def test_nothing_on_the_shelf_is_lost_work(tmp_path: Path) -> None:
    """A job whose work folder was removed raises LostWork, so that it goes back to the stage that writes it."""
    with pytest.raises(workspace.LostWork):
        workspace.load_prediction(shelf(tmp_path))


def test_a_half_written_file_is_never_read(tmp_path: Path) -> None:
    """What a killed stage left under its temporary name counts as nothing."""
    workspace.save_volumes(shelf(tmp_path, 6), {"ct": volume(6)}, ORIGIN)
    part = tmp_path / JOB.job_id / "7" / ".volumes.dead"
    part.mkdir(parents=True)
    (part / "ct.npy").write_bytes(b"half")
    volumes, _ = workspace.load_volumes(shelf(tmp_path, fence=7))
    assert volumes["ct"].array.flat[0] == 6


def test_a_parcel_is_kept_once_and_named_by_its_content(tmp_path: Path) -> None:
    """The same bytes twice give the same paths and one copy; other bytes never touch the first."""
    blobs = [("seg", b"SEG bytes"), ("sr", b"SR bytes")]
    first = workspace.keep_parcel(tmp_path, JOB, blobs)
    assert workspace.keep_parcel(tmp_path, JOB, blobs) == first
    other = workspace.keep_parcel(tmp_path, JOB, [("seg", b"other"), ("sr", b"SR bytes")])
    assert set(first).isdisjoint(other)
    assert [(tmp_path / path).read_bytes() for path in first] == [b"SEG bytes", b"SR bytes"]
    assert [Path(path).name for path in first] == ["01-seg.dcm", "02-sr.dcm"]
    assert sorted(path.name for path in (tmp_path / "parcels" / JOB.job_id / "2").iterdir()) == sorted(
        {Path(p).parent.name for p in (*first, *other)}
    )


def test_a_damaged_copy_of_a_parcel_is_written_again(tmp_path: Path) -> None:
    """A parcel folder with other bytes than its name says is replaced, not trusted."""
    blobs = [("seg", b"SEG bytes")]
    path = tmp_path / workspace.keep_parcel(tmp_path, JOB, blobs)[0]
    path.write_bytes(b"damaged")
    workspace.keep_parcel(tmp_path, JOB, blobs)
    assert path.read_bytes() == b"SEG bytes"


def test_a_full_disk_takes_a_work_file_later_and_nothing_of_it_before(tmp_path: Path) -> None:
    """Neither volumes nor a parcel leave a part behind; with room again they are written."""
    large = Volume(array=np.zeros((8, 512, 512), np.int16), grid=replace(GRID, shape=(8, 512, 512)), unit="HU", modality="CT")
    with disks.small_disk(tmp_path / "disk", 16) as disk:
        other = disks.fill(disk, 1024**2)
        before = free(disk)
        with pytest.raises(NoRoom, match="the disk of work/ is full"):
            workspace.save_volumes(shelf(disk / "work"), {"ct": large}, ORIGIN)
        with pytest.raises(NoRoom, match="the disk of parcels/ is full"):
            workspace.keep_parcel(disk, JOB, [("seg", bytes(2 * 1024**2))])
        assert before - free(disk) < 64 * 1024
        other.unlink()
        workspace.save_volumes(shelf(disk / "work"), {"ct": large}, ORIGIN)
        assert workspace.load_volumes(shelf(disk / "work"))[0]["ct"].array.shape == (8, 512, 512)
        (path,) = workspace.keep_parcel(disk, JOB, [("seg", bytes(2 * 1024**2))])
        assert (disk / path).stat().st_size == 2 * 1024**2


def free(disk: Path) -> int:
    """Give the bytes that are free."""
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize
