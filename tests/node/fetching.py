"""What tests of fetching start from: a node's settings, ledger and spool, and studies in an archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from pydicom import dcmread

from node import fetch
from node.archive import Archive
from node.fetch import known
from node.ledger import Ledger, instances, open_ledger
from node.ledger.schema import INSTANCES
from node.settings import Peer, Settings
from node.spool import Spool, StoreCommand
from node.study import Instance


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A node without its processes."""

    settings: Settings
    ledger: Ledger
    spool: Spool

    @property
    def peer(self) -> Peer:
        """Give its one peer."""
        return self.settings.peers[0]

    def files(self) -> list[Path]:
        """Give every file in the spool."""
        return sorted(self.settings.data_dir.glob("incoming/*/*.dcm"))

    def parts(self) -> list[Path]:
        """Give what was left half-written."""
        return sorted(self.settings.data_dir.glob("parts/*"))

    def held(self, study_uid: str) -> set[str]:
        """Give the indexed images of a study."""
        return set(known.held(self.ledger, study_uid))

    def rows(self, study_uid: str) -> list[Instance]:
        """Give the index rows of a study."""
        with self.ledger.reading() as connection:
            mine = sa.select(INSTANCES).where(INSTANCES.c.study_instance_uid == study_uid)
            return [instances.instance_of(row) for row in connection.execute(mine)]

    def receive(self, paths: Sequence[Path]) -> None:
        """Take files in as if a modality had sent them."""
        for path in paths:
            whole = dcmread(path)
            content = path.read_bytes()
            start = 144 + int.from_bytes(content[140:144], "little")
            stored = self.spool.store(_command(whole), content[start:])
            instances.index(self.ledger, [stored.instance])


def _command(whole: Any) -> StoreCommand:
    return StoreCommand(
        sop_class_uid=str(whole.SOPClassUID),
        sop_instance_uid=str(whole.SOPInstanceUID),
        transfer_syntax_uid=str(whole.file_meta.TransferSyntaxUID),
        calling_ae="PACS",
        called_ae="OVERREAD",
        peer_host="127.0.0.1",
    )


def place(folder: Path, port: int, **peer: Any) -> Place:
    """Make a node whose one peer is an archive on loopback; waits are short."""
    values = {
        "name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": port, "retrieve": "c-get", "retry_first_s": 0.01,
        "retrieve_timeout_s": 20, **peer,
    }  # fmt: skip
    node = {"data_dir": folder, "free_disk_min_mb": 0, "association_timeout_s": 5, "network_timeout_s": 5}
    settings = Settings.model_validate({"node": node, "peers": [values]})
    return Place(settings=settings, ledger=open_ledger(settings), spool=Spool(folder))


def fill(archive: Archive, paths: Sequence[Path]) -> list[str]:
    """Put files into an archive; gives their SOP Instance UIDs."""
    return [archive.add(path) for path in paths]


def run(node: Place, study_uid: str, series_uid: str | None = None) -> fetch.FetchOutcome:
    """Plan and retrieve."""
    plan = fetch.missing(node.settings, node.ledger, study_uid, series_uid)
    return fetch.retrieve(node.settings, node.ledger, node.spool, plan)


def moved(node: Place, port: int, **changes: Any) -> Place:
    """Point a node at another port."""
    peer = node.peer.model_copy(update={"port": port, **changes})
    return Place(settings=node.settings.model_copy(update={"peers": (peer,)}), ledger=node.ledger, spool=node.spool)
