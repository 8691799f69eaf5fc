"""`overread ledger rebuild`: read the instance index again from the image files."""

from __future__ import annotations

from node.ledger import instances, open_ledger
from node.settings import Settings
from node.spool import Spool


def rebuild(settings: Settings) -> None:
    """Index every image file again; idempotent, and safe while the node runs."""
    spool = Spool(settings.data_dir, settings.node.free_disk_min_mb)
    count = instances.rebuild(open_ledger(settings), spool.scan())
    print(f"{count} images indexed")
