"""Several networks of one kind that answer together: the mean of their probabilities, and how far they agreed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from models.answers.heads import Heads
from models.answers.outcome import activate
from models.networks.program import Outputs, Program

HALF = 0.5


class Ensemble:
    """Runs its members one after the other; its output is probabilities.

    Of what any member marks (another class than none, or a probability of at least 0.5), the share that all of them mark alike
    is their agreement; of scores of the whole input it is 1 minus the widest distance of two members.
    """

    def __init__(self, members: Sequence[Program], heads: Heads, *, activated: bool) -> None:
        self._members, self._heads, self._activated = members, heads, activated
        self._marked, self._alike, self._spread = 0, 0, 0.0

    def __call__(self, windows: torch.Tensor) -> Outputs:
        """Give the mean; the first output of each member counts."""
        found = []
        for member in self._members:
            raw = member(windows.clone())[0].float()  # one that scales its input in place scales no other's
            found.append(raw if self._activated else activate(self._heads, raw))
        self._compare(found)
        total = found[0].clone()
        for each in found[1:]:
            total += each
        return (total / len(found),)

    def _compare(self, found: Sequence[torch.Tensor]) -> None:
        if self._heads.scores:
            every = torch.stack([each[:, list(self._heads.scores.channels)] for each in found])
            self._spread = max(self._spread, float((every.amax(dim=0) - every.amin(dim=0)).max()))
            return
        marks = [[each[:, channel] >= HALF for each in found] for channel in self._heads.sigmoid_channels]
        if shared := list(self._heads.softmax_channels):
            marks.append([each[:, shared].argmax(dim=1) for each in found])
        for mark in marks:
            every = torch.stack(mark).long()
            marked = (every != 0).any(dim=0)
            self._marked += int(marked.sum())
            self._alike += int((marked & (every == every[0]).all(dim=0)).sum())

    def swap(self, change: Callable[[Program, int], Program]) -> None:
        """Change how each member runs, by its place."""
        self._members = [change(member, place) for place, member in enumerate(self._members)]

    def begin(self) -> None:
        """Forget what was compared."""
        self._marked, self._alike, self._spread = 0, 0, 0.0

    def facts(self) -> dict[str, str]:
        """Say how many members there are, and how far they agreed since `begin`."""
        share = 1 - self._spread if self._heads.scores else self._alike / self._marked if self._marked else 1.0
        engines = {member.facts["engine"] for member in self._members if "engine" in member.facts}
        return {
            "members": str(len(self._members)),
            "agreement": f"{share:.3f}",
            **({"engine": ", ".join(sorted(engines))} if engines else {}),
        }
