"""State dicts with the names and shapes of the published checkpoints, filled with reproducible pseudo-weights."""

import functools
import json
from pathlib import Path

import torch

from core.golden_weights import fill

DATA = Path(__file__).parent / "data"
_SHAPES = json.loads((DATA / "official_state_dict_keys.json").read_text(encoding="utf-8"))


@functools.cache
def _filled(variant, classes):
    shapes = {
        name: [classes, *shape[1:]] if name.startswith("final_conv.") else shape
        for name, shape in _SHAPES[variant].items()
    }
    return fill(shapes)


def october(variant, classes=9):
    """A full network as the files of October 2025 hold it."""
    values = _filled(variant, classes)
    return {name: torch.tensor(value) if value.shape else torch.tensor(0) for name, value in values.items()}


def january(variant, classes=9):
    """The files of January 2025 lack the dead attention and second norms of the encoder."""
    full = october(variant, classes)
    alive = {name.rsplit(".att.", 1)[0] for name in full if ".att." in name and _mixes(name)}
    return {
        name: value
        for name, value in full.items()
        if ".ln2." not in name and (".att." not in name or name.rsplit(".att.", 1)[0] in alive)
    }


def encoder_file(variant):
    """An ImageNet encoder: the encoder's names without their prefix."""
    prefix = "encoder."
    return {name.removeprefix(prefix): value for name, value in october(variant).items() if name.startswith(prefix)}


def _mixes(name):
    _, stage, block, *_ = name.split(".")
    return stage in ("stage3", "stage4") and block != "0"
