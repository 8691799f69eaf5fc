"""`overread check`: try everything the node needs; each failing line says what to do."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from models.card import BadCard
from node.errors import OverreadError
from node.settings import Peer, Settings

GIB = 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing tried. `remedy` says what to do where it does not hold."""

    name: str
    holds: bool
    detail: str
    remedy: str = ""


def main(settings: Settings, *, as_json: bool) -> int:
    """Try everything; exit code 0 when all holds, else 1."""
    lines = list(tried(settings))
    if as_json:
        print(json.dumps({"holds": all(line.holds for line in lines), "checks": [asdict(line) for line in lines]}, indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for line in lines:
            mark = "[green]ok  [/]" if line.holds else "[red]FAIL[/]"
            console.print(f"{mark} {line.name}: {escape(line.detail)}")
            if not line.holds:
                console.print(f"     -> {escape(line.remedy)}")
    return 0 if all(line.holds for line in lines) else 1


def tried(settings: Settings) -> Iterator[Line]:
    """Try one thing after the other; none stops the next."""
    yield _disk(settings)
    yield _work_folder(settings)
    yield _try("ledger", lambda: _ledger(settings), "start PostgreSQL or correct [ledger] url; sqlite needs a local, writable data_dir")
    yield _try("broker", lambda: _broker(settings), "start `overread up`, or your own Redis or Valkey, and look at [broker] url")
    yield from _models(settings)
    yield _try("device", lambda: _device(settings), "install a torch build with CUDA, or set [workers] devices to what torch sees")
    yield _try(
        "listener", lambda: _listener(settings), "start `overread up` or `overread serve`; look at [node] host, port and allowed_callers"
    )
    if not settings.peers:
        yield Line(name="peers", holds=False, detail="no [[peers]]: results go nowhere", remedy="add a [[peers]] entry for your archive")
    if settings.assembly.proof == "c-find":
        asked = [peer.name for peer in settings.peers if peer.query]
        detail = f"counts are asked of {', '.join(asked)}" if asked else "no peer has query = true: the quiet time alone decides"
        yield Line(name="proof", holds=bool(asked), detail=detail, remedy='set query = true for your archive, or [assembly] proof = "none"')
    for peer in settings.peers:
        remedy = f"start it, look at host, port and ae_title of [[peers]] {peer.name}, and make {_title(settings, peer)} known there"
        yield _try(f"peer {peer.name}", lambda peer=peer: _echo(settings, peer), remedy)  # type: ignore[misc]


def _try(name: str, probe: Callable[[], str], remedy: str) -> Line:
    try:
        return Line(name=name, holds=True, detail=probe())
    except (OverreadError, BadCard) as error:
        return Line(name=name, holds=False, detail=str(error), remedy=remedy)
    except Exception as error:  # noqa: BLE001 -- a check must report every fault, never break on one
        return Line(name=name, holds=False, detail=f"{type(error).__name__}: {error}", remedy=remedy)


def _disk(settings: Settings) -> Line:
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    free, floor = shutil.disk_usage(folder).free, settings.node.free_disk_min_mb * 1024**2
    detail = f"{free / GIB:.1f} GiB free, images are refused below {floor / GIB:.1f}"
    return Line(name="disk", holds=free > floor, detail=detail, remedy=f"free space under {folder}, or lower [node] free_disk_min_mb")


def _work_folder(settings: Settings) -> Line:
    def probe() -> str:
        settings.work_dir.mkdir(parents=True, exist_ok=True)
        path = settings.work_dir / f".check-{uuid.uuid4().hex}"
        path.write_bytes(b"written")
        try:
            same = path.read_bytes() == b"written"
        finally:
            path.unlink()
        return f"{settings.work_dir} can be written and read" if same else "what was written is not what was read"

    return _try("work folder", probe, "give this user write access to [workers] work_dir; on several hosts share it")


def _ledger(settings: Settings) -> str:
    from node.ledger import open_ledger  # noqa: PLC0415

    ledger = open_ledger(settings)
    with ledger.reading():
        pass
    kind = "sqlite" if ledger.sqlite else "postgresql"
    ledger.close()
    return f"{kind} answers"


def _broker(settings: Settings) -> str:
    from node import broker  # noqa: PLC0415

    return f"answers in {broker.ping(settings) * 1000:.1f} ms"


def _models(settings: Settings) -> Iterator[Line]:
    from workers import pipeline  # noqa: PLC0415

    try:
        shelf = pipeline.known_cards(settings)
    except BadCard as error:
        yield Line(name="models", holds=False, detail=str(error), remedy="correct that card, or take its folder away")
        return
    if not shelf:
        yield Line(name="models", holds=False, detail="no model card found", remedy="set [models] dir, or starters = true")
    for name, entry in shelf.items():

        def probe(entry: Any = entry) -> str:
            from models import card, registry  # noqa: PLC0415

            card.runtime_of(entry)
            registry.weights(entry, tuple(entry.card.runtime.files))
            return f"{entry.card.model.version}, weights are what the card says, digest {entry.digest[:12]}"

        yield _try(f"model {name}", probe, "put the weights the card names in place (or install the package they come in)")


def _device(settings: Settings) -> str:
    import torch  # noqa: PLC0415

    from workers import gpu  # noqa: PLC0415

    names = gpu.devices(settings.workers.devices)
    if os.path.exists("/dev/nvidia0") and not torch.cuda.is_available():  # noqa: PTH110 -- a device node, not a file
        raise OverreadError(f"this machine has an NVIDIA device, but torch {torch.__version__} cannot use it")
    words = []
    for name in names:
        kind = f" ({torch.cuda.get_device_name(name)})" if name.startswith("cuda") else ""
        room, precision = gpu.whole(name), gpu.precision(name, settings.workers.precision)
        budget, altogether = gpu.budget(name, settings.workers.memory_budget_gb), room.host if name == "cpu" else room.device
        words.append(f"{name}{kind}: {precision}, warm models take up to {gpu.gigabytes(budget)} of {gpu.gigabytes(altogether)}")
    return f"{'; '.join(words)}; one process each; torch {torch.__version__}"


def _listener(settings: Settings) -> str:
    host = "127.0.0.1" if settings.node.host in {"0.0.0.0", ""} else settings.node.host  # noqa: S104 -- compares, binds nothing
    title = settings.node.ae_titles[0]
    ours = Peer(name="ourselves", ae_title=title, host=host, port=settings.node.port, calling_ae=_known_caller(settings))
    return _echo(settings, ours)


def _known_caller(settings: Settings) -> str:
    callers = settings.node.allowed_callers
    return callers[0].ae_title if callers else settings.node.ae_titles[0]


def _echo(settings: Settings, peer: Peer) -> str:
    from node import peers  # noqa: PLC0415

    seconds = peers.echo(settings, peer)
    tls = " over TLS" if peer.tls else ""
    return f"{peer.ae_title} at {peer.host}:{peer.port} answers C-ECHO{tls} in {seconds * 1000:.0f} ms"


def _title(settings: Settings, peer: Peer) -> str:
    return peer.calling_ae or settings.node.ae_titles[0]
