"""Running models on this host's devices, so that no study stops the next one.

    hardware  which devices there are, what they can do, one job at a time on each
    memory    what is free, whether an error means that it ran out, giving it back
    loaded    models kept warm within a budget; the least recently used leaves
    ladder    one prediction, in the fastest way that the memory allows
    watchdog  the end of a process that hangs, or whose device is broken

torch is imported inside functions throughout: the parent of a prefork worker must never have it, or its children hang.
"""

from __future__ import annotations

from workers.gpu.hardware import devices, home, lease, precision, processes, set_threads
from workers.gpu.ladder import Policy, predict
from workers.gpu.loaded import choose, warm, warm_up
from workers.gpu.memory import budget, gigabytes, whole
from workers.gpu.watchdog import POISONED, Patience, Poisoned, Watchdog, leave

__all__ = [
    "POISONED",
    "Patience",
    "Poisoned",
    "Policy",
    "Watchdog",
    "budget",
    "choose",
    "devices",
    "gigabytes",
    "home",
    "lease",
    "leave",
    "precision",
    "predict",
    "processes",
    "set_threads",
    "warm",
    "warm_up",
    "whole",
]
