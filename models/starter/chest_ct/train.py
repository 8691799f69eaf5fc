"""Train both networks of the chest CT starter, one after the other, from its generator and, where given, the texture of real scans.

    make train-chest-ct
    make train-chest-ct REAL=FOLDER

Each goes on from its checkpoint where there is one; options of a part: `python -m models.starter.chest_ct.train_lungs --help`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from models.starter.chest_ct import train_lungs, train_nodules
from models.starter.chest_ct.course import Order, add_common, common

HERE = Path(__file__).parent


def main() -> None:
    """Train the lungs, then the nodules, into the card's folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    shared = common(parser.parse_args())
    torch.set_num_threads(1)
    for name, part in (("lungs", train_lungs), ("nodules", train_nodules)):
        out = HERE / f"{name}.safetensors"
        part.train(Order(out=out, checkpoint=out.with_suffix(".checkpoint"), **shared))


if __name__ == "__main__":
    main()
