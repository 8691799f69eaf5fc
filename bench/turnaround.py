"""From the last image's acknowledgement to the SR in the archive, less the quiet time: beside the bare forward of the study.

Three numbers of the same run, on real processes (`overread up`, an archive):

    forward      the study sent to the archive alone: what any route through the network costs at least
    stages       prepare + infer + compose, as the ledger has them: what the analysis itself costs on this machine
    turnaround   last acknowledgement by the node -> the SR's file in the archive, less the quiet time of the settings

turnaround / stages says what queueing, polling, the ledger and the delivery add; turnaround / forward says how much later than
the images a result arrives. One study runs first to warm everything; the median of the others counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console

from node import send
from node.archive.holdings import Holdings
from node.ledger import Ledger, open_ledger
from overread import machine, progress, sample
from overread.commands.status import stage_seconds
from workers import folder

QUIET_S = 2.0
WAIT_S = 900.0
SR = "1.2.840.10008.5.1.4.1.1.88.34"
# turnaround as a multiple, at most
GOALS = {"turnaround / stages": 1.25}


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Seconds of one study."""

    forward: float
    stages: float
    turnaround: float


def measure(site: machine.Machine, ledger: Ledger, study: Path) -> Round:
    """Send one study to the archive, then to the node, and wait for the archive's copy of the SR."""
    files = folder.read(study)
    uid = files[0].study_instance_uid
    begin = time.perf_counter()
    if send.store(site.settings, site.archive, files).stored != len(files):
        raise SystemExit("the archive did not take the study")
    forward = time.perf_counter() - begin
    if send.store(site.settings, site.node, files).stored != len(files):
        raise SystemExit("the node did not take the study")
    acknowledged = time.time()
    facts = progress.Follower(Console(quiet=True), ledger, uid).follow(WAIT_S)
    if [job["state"] for job in facts["jobs"]] != ["WRITTEN"]:
        raise SystemExit(f"the study was not analysed: {json.dumps(facts['revisions'])}")
    assert site.archive_dir is not None
    arrived = [entry.path.stat().st_mtime for entry in Holdings(site.archive_dir).study(uid) if entry.sop_class_uid == SR]
    if not arrived:
        raise SystemExit("no SR in the archive")
    return Round(
        forward=forward,
        stages=sum(seconds for _stage, seconds in stage_seconds(facts)),
        turnaround=arrived[0] - acknowledged - QUIET_S,
    )


def main() -> int:
    """Run the rounds, print the table or the object; exit code 0 when the goals hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slices", type=int, default=90, help="images a study")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    scan = sample.Scan(slices=options.slices)
    with tempfile.TemporaryDirectory(prefix="overread-turnaround-") as temporary:
        home = Path(temporary)
        studies = [home / f"study-{seed}" for seed in range(options.rounds + 1)]
        for seed, study in enumerate(studies):
            sample.write(study, seed=seed + 1, scan=scan)
        plan = machine.Plan(home=home / "site", sections={"assembly": {"quiet_s": QUIET_S}})
        with machine.run(plan) as site:
            ledger = open_ledger(site.settings)
            rounds = [measure(site, ledger, study) for study in studies][1:]
            ledger.close()
    return report(rounds, as_json=options.json)


def report(rounds: list[Round], *, as_json: bool) -> int:
    """Print the medians and their ratios."""
    middle = {name: statistics.median(getattr(entry, name) for entry in rounds) for name in ("forward", "stages", "turnaround")}
    ratios = {
        "turnaround / stages": statistics.median(entry.turnaround / entry.stages for entry in rounds),
        "turnaround / forward": statistics.median(entry.turnaround / entry.forward for entry in rounds),
    }
    holds = all(ratios[name] <= goal for name, goal in GOALS.items())
    if as_json:
        print(json.dumps({"name": "turnaround", "seconds": middle, "ratios": ratios, "goals": GOALS, "holds": holds}))
        return 0 if holds else 1
    for name, seconds in middle.items():
        print(f"{name:<22} {seconds:8.2f} s")
    for name, ratio in ratios.items():
        print(f"{name:<22} {ratio:8.2f}   {f'goal {GOALS[name]}' if name in GOALS else ''}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
