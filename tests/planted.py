"""Cards for models with planted faults, and the path by which a process finds their runtime: tests/runtimes/planted.py.

Run as a program it is a worker of one queue, as `overread worker` starts them, which also knows that runtime:
`python -m tests.planted gpu SETTINGS.toml`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from models import runtimes
from models.card import ShelvedCard, read

PLACE = Path(__file__).parent / "runtimes"


def install() -> None:
    """Let this process, and what it forks, find the runtime where it looks for all of them."""
    if str(PLACE) not in runtimes.__path__:
        runtimes.__path__.append(str(PLACE))


def put(folder: Path, name: str, **options: Any) -> ShelvedCard:
    """Write a card below the folder, which then serves as [models] dir, and give it as it is on the shelf."""
    from tests import shelf  # noqa: PLC0415 -- torch comes with it, and the worker forks

    home = folder / name
    home.mkdir(parents=True, exist_ok=True)
    whole = shelf.CARD.format(name=name, sha256="0" * 64, overlap=0.25)
    before, rest = whole.split("[runtime]\n")
    after = rest[rest.index("[[inputs]]") :]
    lines = [f"{key} = {_toml(value)}" for key, value in options.items()]
    runtime = "\n".join(['[runtime]\nformat = "planted"', "[runtime.options]", *lines])
    path = home / "card.toml"
    path.write_text(f"{before}{runtime}\n{after}", encoding="utf-8")
    return read(path)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(entry)}" for key, entry in value.items()) + " }"
    return json.dumps(value)


def main(queue: str, config: Path) -> int:
    """Be a worker until SIGTERM."""
    from node import journal, settings  # noqa: PLC0415
    from workers import app  # noqa: PLC0415

    install()
    journal.configure(process=f"worker-{queue}")
    return app.run(settings.load(config), queue, config)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
