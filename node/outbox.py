"""Which viewer profiles a job's results are written in, and whose report each replaces. Pure: the job's row and the settings decide."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from node.settings import Settings
from node.study import Job, Mode


def chains(settings: Settings, job: Job) -> dict[str | None, tuple[str, ...]]:
    """Give for each destination the profiles to try, its own first, then what that falls back to; raises Misconfigured.

    None stands for nobody: a job without a destination, or in shadow, is written in the default profile.
    """
    live = job.destinations if job.mode is Mode.LIVE else ()
    return {name: settings.chain_of(name) for name in live} or {None: settings.chain_of(None)}


def failure_profiles(settings: Settings, job: Job) -> dict[str, str]:
    """Give the profile of each destination that asks to be told of a job without a result."""
    live = job.destinations if job.mode is Mode.LIVE else ()
    return {name: profile.name for name in live if (profile := settings.profile_of(name)).send_failures}


def predecessor(settings: Settings, job: Job, profile: str) -> Mapping[str, Any] | None:
    """Give the report that this job's in that profile replaces, or None.

    It is the one that a destination of this profile has, or of one that falls back to it: of several the one in the same
    profile, then the newest. Without one it is the newest that anybody has. The row says what each has (node/ledger/lineage.py).
    """
    told = job.predecessor
    if told is None:
        return None
    mine = [name for name in job.destinations if profile in settings.chain_of(name)]
    held = [told["held"][name] for name in mine if name in told["held"]]
    same = [entry for entry in held if entry["profile"] == profile]
    chosen = max(same or held or [told["newest"]], key=lambda entry: entry["of_revision"])
    return {"revision": told["revision"], **chosen}
