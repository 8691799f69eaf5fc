"""Draw what a training printed as curves of its losses.

    make train-chest-ct | tee training.log
    python -m models.starter.chest_ct.curves training.log --out curves.png

One picture for each training in the files, told apart by the names of their figures; a run that went on from a checkpoint goes
on in its curve, and steps done twice count as they were done last.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

STEP = re.compile(r"^step (\d+)/\d+  (.+)  \d+ CPU s$")
Courses = dict[tuple[str, ...], dict[int, tuple[float, ...]]]


def read(lines: Iterable[str]) -> Courses:
    """Give, by the names of a training's figures, their values at each step told; lines of another form are passed over.

    Example: "step 20/700  lungs 0.199  20 CPU s" gives {("lungs",): {20: (0.199,)}}
    """
    courses: Courses = {}
    for line in lines:
        told = STEP.match(line.strip())
        if told is None:
            continue
        figures = [part.rsplit(" ", 1) for part in told[2].split("  ")]
        course = courses.setdefault(tuple(name for name, _ in figures), {})
        course[int(told[1])] = tuple(float(value) for _, value in figures)
    return courses


def draw(courses: Courses, out: Path) -> None:
    """Write the picture (PNG); raises ValueError where there is nothing to draw."""
    if not courses:
        raise ValueError("no line of these files is a training's report: step 20/700  lungs 0.199  20 CPU s")
    figure = Figure(figsize=(7, 3.2 * len(courses)), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for row, (names, course) in enumerate(courses.items(), start=1):
        axes = figure.add_subplot(len(courses), 1, row)
        steps = sorted(course)
        for column, name in enumerate(names):
            axes.plot(steps, [course[step][column] for step in steps], label=name)
        axes.set(xlabel="step", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(out, metadata={"Software": None})


def main() -> None:
    """Read the command line, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("curves.png"))
    given = parser.parse_args()
    draw(read(line for log in given.logs for line in log.read_text(encoding="utf-8").splitlines()), given.out)


if __name__ == "__main__":
    main()
