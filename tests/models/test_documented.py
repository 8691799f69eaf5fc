"""docs/models.md: every card it shows is read, and its options are those of its format; the tables name every key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from models import card
from models.answers import boxes, heads
from models.pipelines import intensity, pipeline, stages
from models.runtimes import state_dict

DOCS = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", DOCS, flags=re.DOTALL | re.MULTILINE)
WHOLE = {tomllib.loads(text)["model"]["name"]: text for text in EXAMPLES if "schema_version" in text}
STAGES: dict[str, type[stages.Stage]] = {
    "state-dict": state_dict.Stage,
    "torchscript": stages.Stage,
    "exported-program": stages.Stage,
    "onnx": stages.Stage,
}
SHOWN = {"glioma", "liver", "nodule-boxes", "chest-xray-scores", "nodules-drawn"}


def test_every_kind_of_example_is_there() -> None:
    """Several roles and an ensemble, masks, boxes, scores, two networks; what is no whole card is TOML at least."""
    assert set(WHOLE) >= SHOWN
    for text in EXAMPLES:
        tomllib.loads(text)


@pytest.mark.parametrize("name", WHOLE)
def test_a_documented_card_is_a_good_card(tmp_path: Path, name: str) -> None:
    """Read as a site's card is, with the options its format takes, and the network's files named as its options name them."""
    path = tmp_path / "card.toml"
    path.write_text(WHOLE[name])
    shelved = card.read(path)
    card.runtime_of(shelved)
    if shelved.card.runtime.format in STAGES:
        wanted = pipeline.stages_of(shelved.card, STAGES[shelved.card.runtime.format])[1]
        assert {member for stage in wanted for member in stage[0].weights} == set(shelved.card.runtime.files)


KEYS: list[Any] = [
    state_dict.Stage, heads.Findings, heads.Scores, boxes.Centres, boxes.Rows, boxes.Suppression, intensity.Window, intensity.ZScore,
    intensity.Percentiles, intensity.Fixed, card.InputPart, card.Accept, card.Score, card.LabelPart, card.MeasurementPart,
]  # fmt: skip


@pytest.mark.parametrize("part", KEYS, ids=lambda part: str(part.__name__))
def test_every_key_is_in_a_table(part: Any) -> None:
    """A key that the card reader takes and that the page does not name would be found by reading code alone."""
    missing = [key for key in part.model_fields if not re.search(rf"[`{{ .]{key}\b", DOCS)]
    assert missing == []
