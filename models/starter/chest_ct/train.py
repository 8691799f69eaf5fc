"""Train both networks of the chest CT starter from nothing but its generator, one after the other.

    make train-chest-ct

Each goes on from its checkpoint where there is one; options of a part: `python -m models.starter.chest_ct.train_lungs --help`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from models.starter.chest_ct import train_lungs, train_nodules
from models.starter.chest_ct.course import Order

HERE = Path(__file__).parent


def main() -> None:
    """Train the lungs, then the nodules, into the card's folder."""
    torch.set_num_threads(1)
    for name, part in (("lungs", train_lungs), ("nodules", train_nodules)):
        out = HERE / f"{name}.safetensors"
        part.train(Order(out=out, checkpoint=out.with_suffix(".checkpoint"), steps=part.STEPS, until=part.STEPS))


if __name__ == "__main__":
    main()
