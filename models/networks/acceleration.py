"""A faster run of a network on a processor: OpenVINO instead of torch, where it was measured to give the same and to be faster.

Nothing here is an error: what cannot be converted, differs or is slower stays with torch, and the variant of every prediction
says which of them ran it. OpenVINO is an extra; without it everything stays with torch.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, runtime_checkable

import torch
from torch.nn import functional

from models.networks import verdicts
from models.networks.program import Outputs, Program
from models.vocabulary import Model

AGREE = 0.9999
"""Share of voxels whose most probable class must be the same, and of those on the same side of a half."""
APART = 1e-3
"""How far two probabilities may lie apart."""
FASTER = 0.95
"""Of torch's time that it may take at most: less is no gain worth another library."""
ROUNDS = 3
_refused: dict[tuple[str, int], str] = {}
"""What was decided against in this process, by the model's key and the number of threads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network and what a window of it is.

    key       of the model and its place in it
    program   as it runs by torch
    shape     (1, channels, *window): the one shape that it is run on
    activate  its first output -> probabilities
    """

    key: str
    program: Program
    shape: tuple[int, ...]
    activate: Callable[[torch.Tensor], torch.Tensor]


@runtime_checkable
class Willing(Protocol):
    """A model whose networks can be run by something else."""

    def accelerate(self) -> None:
        """Let each network run by what is fastest here with the same results."""
        ...


def accelerate(model: Model) -> None:
    """Let a loaded model run by what is fastest on this processor; one that cannot be stays as it is.

    Takes seconds a network, the first time. Raises nothing but what running the model itself would.
    """
    if isinstance(model, Willing):
        model.accelerate()


def fastest(network: Network) -> Program:
    """Give the program that runs the network fastest on a processor with the same results; its facts say which and why.

    What the trial said once on this machine holds (models.networks.verdicts), but that both give the same is looked at again at
    each load, on one window: a library may be built anew under the same version, and a wrong result costs more than a second.
    """
    key = (network.key, torch.get_num_threads())
    asked = {"model": network.key, "threads": key[1], "bounds": [AGREE, APART, FASTER], "runs": dict(network.program.facts)}
    why = _refused.get(key) or _not_to_be_had(network) or verdicts.known(asked)
    if not why:
        try:
            other = _converted(network)
            tried = why is None
            why = _differs(network, other, 3 if tried else 1) or (_is_slower(network, other) if tried else "")
            if tried or why:
                verdicts.keep(asked, why)
        except Exception as error:  # noqa: BLE001 -- a library raises what it likes, and torch runs all the same
            why = f"not converted: {type(error).__name__}"
    if why:
        _refused[key] = why
        return replace(network.program, facts={**network.program.facts, "engine": f"torch; openvino {why}"})
    return other


def _not_to_be_had(network: Network) -> str:
    try:
        version("openvino")
    except PackageNotFoundError:
        return "is not installed"
    if torch.device(network.program.device).type != "cpu" or network.program.module is None:
        return "does not run this model"
    return ""


def _converted(network: Network) -> Program:
    """Convert for exactly this shape and single precision: half, its own choice where the processor has it, would differ."""
    import openvino  # noqa: PLC0415 -- an extra that takes seconds to import

    module: Any = network.program.module
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # a trace warns of every shape that it takes for fixed
        graph = openvino.convert_model(module, example_input=torch.zeros(network.shape), input=[list(network.shape)])
    wanted = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    compiled = openvino.Core().compile_model(graph, "CPU", wanted)

    def run(windows: torch.Tensor) -> Outputs:
        if torch.is_autocast_enabled("cpu"):
            return network.program.run(windows)  # half precision was asked for
        return (torch.from_numpy(compiled([windows.contiguous().numpy()])[0]),)

    facts = {**network.program.facts, "engine": f"openvino {version('openvino')}"}
    return replace(network.program, run=run, single=True, facts=facts)


def _differs(network: Network, other: Program, windows: int) -> str:
    """Say how the results differ, on so many windows as models see them; empty where they are the same."""
    for seen in _windows(network.shape)[:windows]:
        with torch.inference_mode():
            ours, theirs = (network.activate(program(seen)[0].float()) for program in (network.program, other))
        if ours.shape != theirs.shape or not bool(torch.isfinite(theirs).all()) or float((ours - theirs).abs().max()) > APART:
            return "gives other probabilities"
        classes = (ours.argmax(dim=1) == theirs.argmax(dim=1)).float().mean()
        sides = ((ours >= 0.5) == (theirs >= 0.5)).float().mean()
        if min(float(classes), float(sides)) < AGREE:
            return "gives other labels"
    return ""


def _windows(shape: tuple[int, ...]) -> list[torch.Tensor]:
    """Make areas beside air, areas with noise of intensities from 0 to 1, and some around 0 with deviation 1; the hardest first.

    Not air alone: there instance norms divide by nothing, and rounding decides in every library.
    """
    random = torch.Generator().manual_seed(0)
    coarse = torch.randn((1, shape[1], *(max(2, size // 12) for size in shape[2:])), generator=random)
    areas = functional.interpolate(coarse, shape[2:], mode="trilinear" if len(shape) == 5 else "bilinear")
    noisy = areas + 0.1 * torch.randn(shape, generator=random)
    beside_air = (0.5 + noisy / 2).clamp(0, 1)
    beside_air[..., : shape[-1] // 2] = 0
    return [beside_air, (0.5 + noisy / 2).clamp(0, 1), noisy]


def _is_slower(network: Network, other: Program) -> str:
    """Time both in turn, so that what else the machine does meets both."""
    seen, spent = _windows(network.shape)[0], {False: float("inf"), True: float("inf")}
    for _ in range(ROUNDS):
        for theirs, program in ((False, network.program), (True, other)):
            begin = time.perf_counter()
            with torch.inference_mode():
                program(seen)
            spent[theirs] = min(spent[theirs], time.perf_counter() - begin)
    return "" if spent[True] < FASTER * spent[False] else "is not faster"
