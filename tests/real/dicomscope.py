"""DICOMscope on a display of its own: it opens a presentation state with its image, and its window is read as a picture.

DICOMscope is the reference viewer of presentation states, from their authors. It is driven with the mouse, at places that
follow from a fixed size of the display. Debian: dicomscope, default-jre, xvfb, xdotool.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageGrab

from tests.real.processes import end, wait_for
from tests.servers import require

Picture = NDArray[np.uint8]
JAR = Path("/usr/share/java/DICOMscope.jar")
SETTINGS = Path("/etc/dcmtk/DICOMscope.cfg")
SIZE = (1280, 1024)
# Rows of the browser's tree: the study, the states' series below the images' one, its only state.
STUDY, SERIES, STATE = (200, 96), (246, 129), (290, 145)


@contextlib.contextmanager
def _display(folder: Path) -> Iterator[str]:
    """Run an X server without a screen; gives its name."""
    read, write = os.pipe()
    with (folder / "xvfb.log").open("ab") as log:
        server = subprocess.Popen(
            [require("Xvfb"), "-displayfd", str(write), "-screen", "0", f"{SIZE[0]}x{SIZE[1]}x24", "-nolisten", "tcp", "-noreset"],
            stdout=log, stderr=log, pass_fds=[write], start_new_session=True,
        )  # fmt: skip
    os.close(write)
    try:
        with os.fdopen(read) as told:
            yield f":{told.readline().strip()}"
    finally:
        end(server)


def opened(folder: Path, files: Sequence[Path]) -> Picture:
    """Open the one state among the files, and give the window, (y, x, 3), once image and overlay are there."""
    for program in ("dicomscope", "java", "xdotool", "dcmqridx"):
        require(program)
    data = folder / "database"
    for each in (data, folder / "log", folder / "spool"):
        each.mkdir(parents=True)
    text = SETTINGS.read_text(encoding="latin-1").replace("/var/lib/dcmtk/db/READWRITE", str(data))
    (folder / "DICOMscope.cfg").write_text(text, encoding="latin-1")
    placed = []
    for path in files:
        placed.append(data / path.name)
        placed[-1].write_bytes(path.read_bytes())
    subprocess.run([require("dcmqridx"), str(data), *map(str, placed)], check=True, capture_output=True)
    with _display(folder) as display, (folder / "dicomscope.log").open("ab") as log:
        viewer = subprocess.Popen(
            [require("java"), f"-Djava.library.path={_native()}", "-jar", str(JAR)],
            cwd=folder, env={**os.environ, "DISPLAY": display}, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            return _driven(display)
        finally:
            end(viewer)


def _native() -> Path:
    """Find the folder of DICOMscope's native library, which is named after the machine."""
    return next(Path("/usr/lib").glob("*/jni/libjInterface.so")).parent


def _driven(display: str) -> Picture:
    for place in (STUDY, SERIES, STATE):
        wait_for(lambda place=place: _written(display, place), seconds=120, what="a row of DICOMscope's tree")
        click = ["mousemove", *map(str, place), "click", "--repeat", "2", "--delay", "120", "1"]
        subprocess.run([require("xdotool"), *click], env={**os.environ, "DISPLAY": display}, check=True)
    wait_for(lambda: (_window(display) == 229).all(axis=-1).sum() > 1000, seconds=120, what="the image in DICOMscope")
    return _at_rest(display)


def _at_rest(display: str) -> Picture:
    """Give the window once two pictures three seconds apart are the same: the overlay comes after the image."""
    seen = [_window(display)]

    def still() -> bool:
        time.sleep(3)
        seen.append(_window(display))
        return bool(np.array_equal(seen[-1], seen[-2]))

    wait_for(still, seconds=120, what="DICOMscope's window to rest")
    return seen[-1]


def _window(display: str) -> Picture:
    shot: Any = ImageGrab.grab(xdisplay=display)
    return np.asarray(shot.convert("RGB"), dtype=np.uint8)


def _written(display: str, place: tuple[int, int]) -> bool:
    """Tell whether a row of the tree holds text, dark on light: before the viewer starts all is black."""
    row = _window(display)[place[1] - 6 : place[1] + 7, 90:400]
    return bool((row.max(axis=-1) < 100).sum() > 30 and (row.min(axis=-1) > 180).mean() > 0.7)
