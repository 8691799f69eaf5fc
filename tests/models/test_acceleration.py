"""Acceleration: OpenVINO runs what it runs alike and faster, and everything else stays with torch and says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models import registry
from models.networks import acceleration, verdicts
from models.networks.program import Program, outputs_of
from models.vocabulary import Volume
from tests.models import cards
from tests.models.cards import lines
from tests.models.grids import grid


class Net(torch.nn.Module):
    """A convolution; what it gives in a trace can be told apart."""

    def __init__(self, *, shifted: float = 0.0, known: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.shifted, self.known = torch.nn.Conv3d(1, 3, 3, padding=1), shifted, known

    def forward(self, seen: torch.Tensor) -> torch.Tensor:
        """Give three channels."""
        result: torch.Tensor = self.layer(seen)
        if not torch.jit.is_tracing():
            return result
        return result + self.shifted if self.known else torch.fft.fftn(result).real.cumprod(0).logdet()


def network(module: torch.nn.Module, key: str) -> acceleration.Network:
    """Give the network as a stage does."""
    run = Program(run=lambda windows: outputs_of(module(windows)), device="cpu", facts={"runtime": "test"}, module=module)
    return acceleration.Network(key=key, program=run, shape=(1, 1, 16, 16, 16), activate=lambda scores: torch.softmax(scores, dim=1))


def test_the_same_probabilities_come_out() -> None:
    """A converted network gives torch's probabilities, in batches of any size, and its facts name it."""
    asked = network(Net(), "same")
    found = acceleration._converted(asked)
    assert acceleration._differs(asked, found, 3) == ""
    seen = torch.rand(3, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(found(seen)[0], asked.program(seen)[0], atol=1e-4)
    assert found.facts["engine"].startswith("openvino ")
    assert found.facts["runtime"] == "test"


def test_other_results_stay_with_torch() -> None:
    """A conversion that gives anything else is not taken, the reason is told, and the next load asks no more."""
    asked = network(Net(shifted=torch.tensor([0.0, 0.3, 0.0]).view(1, 3, 1, 1, 1)), "other")  # type: ignore[arg-type]
    for _ in range(2):
        found = acceleration.fastest(asked)
        assert found.run is asked.program.run
        assert found.facts["engine"] == "torch; openvino gives other probabilities"
    assert ("other", torch.get_num_threads()) in acceleration._refused


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Path]:
    """Give the folder in which verdicts are kept meanwhile."""
    verdicts.keep_in(tmp_path / "engines")
    yield tmp_path / "engines"
    verdicts.keep_in(None)


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_a_verdict_is_found_once_on_a_machine(kept: Path, shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next process takes what the first one's trial said, for or against, and measures no more."""
    asked = network(Net(shifted=torch.tensor([0.0, shift, 0.0]).view(1, 3, 1, 1, 1)), f"kept {shift}")  # type: ignore[arg-type]
    timed: list[str] = []
    monkeypatch.setattr(acceleration, "_is_slower", lambda *_: timed.append("again") or "")
    first = acceleration.fastest(asked).facts["engine"]
    assert first.startswith("torch; openvino gives other" if shift else "openvino ")
    assert len(list(kept.iterdir())) == 1
    acceleration._refused.clear()
    tried = list(timed)
    assert acceleration.fastest(asked).facts["engine"] == first
    assert timed == tried
    (place,) = kept.iterdir()
    place.write_bytes(b"{")
    acceleration._refused.clear()
    acceleration.fastest(asked)
    assert json.loads(place.read_bytes())["why"] == ("gives other probabilities" if shift else "")


def test_a_kept_verdict_does_not_speak_for_other_results(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the conversion gives something else than it did when it was tried, torch runs, and the verdict is turned round."""
    monkeypatch.setattr(acceleration, "_is_slower", lambda *_: "")
    assert acceleration.fastest(network(Net(), "turned")).facts["engine"].startswith("openvino ")
    other = network(Net(shifted=torch.tensor([0.0, 0.3, 0.0]).view(1, 3, 1, 1, 1)), "turned")  # type: ignore[arg-type]
    assert acceleration.fastest(other).facts["engine"] == "torch; openvino gives other probabilities"
    (place,) = kept.iterdir()
    assert json.loads(place.read_bytes())["why"] == "gives other probabilities"


def test_a_verdict_holds_for_what_it_was_found_with(kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With other weights, threads, libraries, runtime, or on another processor, nothing is known."""
    monkeypatch.setattr(acceleration, "_converted", lambda network: network.program)  # what is kept is looked at, not what ran
    acceleration.accelerate(registry.load(lines(tmp_path / "model"), "cpu"))
    (found,) = kept.iterdir()
    asked = json.loads(found.read_bytes())["of"]
    here = {name: asked.pop(name) for name in ("processor", "processors", "torch", "openvino")}
    assert verdicts.known(asked) is not None
    assert set(asked) == {"model", "threads", "bounds", "runs"}
    assert set(asked["runs"]) == {"runtime", "torch", "monai"}
    for name in asked:
        assert verdicts.known({**asked, name: "another"}) is None
    real = verdicts._facts(asked)
    assert real == {**asked, **here}
    for name in here:
        with monkeypatch.context() as patched:
            patched.setattr(verdicts, "_facts", lambda _asked, name=name: {**real, name: "another"})
            assert verdicts.known(asked) is None
    with monkeypatch.context() as patched:
        patched.setattr(cards, "LINES", ((0.0, 0.5), *cards.LINES[1:]))
        acceleration.accelerate(registry.load(lines(tmp_path / "other"), "cpu"))
    assert len(list(kept.iterdir())) == 2


def test_a_disk_that_takes_no_verdict_is_no_error(tmp_path: Path) -> None:
    """Where verdicts cannot be kept, nothing is known, and the trial is made as ever."""
    (tmp_path / "file").touch()
    verdicts.keep_in(tmp_path / "file" / "engines")
    try:
        verdicts.keep({"model": "a model"}, "is not faster")
        assert verdicts.known({"model": "a model"}) is None
    finally:
        verdicts.keep_in(None)


def test_what_cannot_be_converted_stays_with_torch() -> None:
    """A network that OpenVINO does not know is no error."""
    found = acceleration.fastest(network(Net(known=False), "unknown"))
    assert found.facts["engine"].startswith("torch; openvino not converted: ")


def test_a_network_without_a_module_stays_with_torch() -> None:
    """Where the file gives nothing to convert, nothing is tried."""
    bare = Program(run=lambda windows: (windows,), device="cpu", facts={})
    asked = acceleration.Network(key="bare", program=bare, shape=(1, 1, 8, 8, 8), activate=lambda scores: scores)
    assert acceleration.fastest(asked).facts["engine"] == "torch; openvino does not run this model"


def test_an_accelerated_model_gives_the_same_prediction(tmp_path: Path) -> None:
    """Whatever was chosen, labels and findings are torch's, and the variant says which library ran."""
    model = registry.load(lines(tmp_path), "cpu")
    source = grid("axial", (20, 60, 60), (2.0, 1.2, 1.2))
    array = np.full(source.shape, -300, dtype=np.int16)
    array[4:12, 20:50, 20:50] = 170
    array[6:10, 30:38, 30:38] = 400
    volumes = {"ct": Volume(array=array, grid=source, unit="HU", modality="CT")}
    plain = model.predict(volumes, lambda _: None)
    acceleration.accelerate(model)
    other = model.predict(volumes, lambda _: None)
    assert "engine" not in plain.variant
    assert other.variant["engine"].startswith(("openvino ", "torch; openvino "))
    assert np.array_equal(plain.labels, other.labels)
    assert [finding.box for finding in plain.findings] == [finding.box for finding in other.findings]
    assert len(plain.findings) == 1
