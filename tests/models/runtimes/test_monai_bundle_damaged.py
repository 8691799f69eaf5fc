"""A bundle with one word of it replaced by anything either loads or is refused by a BadCard; nothing else comes out of loading."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from models import registry
from models.card import BadCard
from tests.models.runtimes import bundles
from tests.models.runtimes.bundles import INFERENCE, METADATA

ANYTHING: list[Any] = [
    None, 5, -1, "", "x", "@network", "@nothing", "$1/0", "$[", "%network_def", "@preprocessing::transforms::0", [], {}, [[]], {"a": 1},
    {"_target_": 5}, {"_target_": "Compose", "transforms": None}, "$None", 1e9, "@#", "@##x", [None], {"_target_": "SaveImaged"},
    "$lambda x: x", "$torch.float32", {"_disabled_": True},
]  # fmt: skip
NEEDED = ("network_def", "network", "preprocessing", "inferer", "postprocessing", "evaluator", "handlers", "spacing", "image_key")


def places(part: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the way to every entry of a configuration."""
    entries = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    for key, entry in entries:
        yield (*way, key)
        yield from places(entry, (*way, key))


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_bundle_loads_or_is_bad(tmp_path: Path, seed: int) -> None:
    """Twelve damages a seed, in configuration and metadata."""
    chance = random.Random(seed)  # noqa: S311 -- a test that can be repeated
    weights = bundles.network()
    refused = 0
    for number in range(12):
        inference, metadata = copy.deepcopy(INFERENCE), copy.deepcopy(METADATA)
        damaged = metadata if number % 4 == 0 else inference
        *way, last = chance.choice([place for place in places(damaged) if damaged is metadata or place[0] in NEEDED])
        here: Any = damaged
        for key in way:
            here = here[key]
        here[last] = copy.deepcopy(chance.choice(ANYTHING))
        folder = bundles.write(tmp_path / str(number), inference, metadata, weights)
        refused += 1
        with suppress(BadCard):
            registry.load(bundles.card(folder), "cpu")
            refused -= 1
    assert refused > 3
