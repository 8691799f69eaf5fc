"""Pages become PNG files that anybody can look at."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image

from node.profiles import Profile
from overread import pictures
from tests.workers.results import scans
from workers.results import compose


def test_every_page_and_nothing_else_becomes_a_picture(tmp_path: Path) -> None:
    """The picture has the page's name and its pixels; SEG and SR give none."""
    request = replace(scans.request(), profile=Profile(name="pictured", objects=("seg", "sc", "sr")))
    files = []
    for number, entry in enumerate(compose(request).objects, start=1):
        files.append(tmp_path / f"{number:02d}-{entry.kind}.dcm")
        files[-1].write_bytes(entry.dataset_bytes)
    (picture,) = pictures.pages(files, tmp_path / "out")
    assert picture == tmp_path / "out" / "02-sc.png"
    assert np.array_equal(np.asarray(Image.open(picture)), pydicom.dcmread(BytesIO(files[1].read_bytes())).pixel_array)
