"""The same analysis written again is the same bytes, whoever writes it and when."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.profiles import ORDER

SCRIPT = """
import datetime, hashlib, sys

class Later(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + datetime.timedelta(days=int(sys.argv[1]), seconds=7.25)

datetime.datetime = Later  # before any library takes it

import dataclasses
import numpy
from tests.workers.results import scans, sources
from workers.results import compose

for arguments in ({}, {"nodules": 0}, {"finds": False}, {"scan": scans.Scan(shape=(10, 25, 31), plane="sagittal")}):
    for entry in compose(scans.request(**arguments)).objects:
        print(entry.kind, entry.sop_instance_uid, hashlib.sha256(entry.dataset_bytes).hexdigest())

request = scans.request(scan=scans.Scan(shape=(6, 24, 32)), nodules=1)
maps = {3: (numpy.arange(request.prediction.labels.size) % 251).astype("uint8").reshape(request.prediction.labels.shape)}
request = dataclasses.replace(request, prediction=dataclasses.replace(request.prediction, probabilities=maps))
for profile in sources.PROFILES.values():
    for entry in compose(dataclasses.replace(request, profile=profile)).objects:
        print(entry.kind, entry.sop_instance_uid, hashlib.sha256(entry.dataset_bytes).hexdigest())
"""


def composed_by_another_process(seed: str, days: str, zone: str) -> list[str]:
    """Compose in a process with its own hash seed, clock and time zone."""
    environment = os.environ | {"PYTHONHASHSEED": seed, "TZ": zone, "PYTHONPATH": "."}
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", SCRIPT, days], env=environment, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(600)
def test_two_processes_write_the_same_bytes() -> None:
    """Neither hash order nor clock nor time zone decides a byte of any kind of object under any profile."""
    first = composed_by_another_process("1", "0", "UTC")
    assert {line.split()[0] for line in first} == set(ORDER)
    assert len({line.split()[1] for line in first}) < len(first)  # the four analyses share a job id here, so kinds share UIDs
    assert composed_by_another_process("4242", "400", "Asia/Tokyo") == first
