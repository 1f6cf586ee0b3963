"""Runs of a few steps on small slices, in this process."""

from pathlib import Path

from rwkv_core.training.recipe import Job, Recipe
from rwkv_core.training.run import train

RECIPE = {
    "variant": "T",
    "preprocessing": {
        "orientations": ["SPL"],
        "intensity": {"method": "zscore"},
        "resampling": {"method": "stretch", "height": 32, "width": 32},
    },
    "epochs": 2,
    "batch": 4,
    "learning_rate": 1e-3,
    "augmentation": {"turn_and_flip": 0.5, "rotate": 0.5, "crop": 0.5, "noise": 0.5},
    "workers": 0,
}

VARYING = ("seconds", "slices_per_second", "loader_share")
"""Figures of metrics.csv that no two runs share."""


def job(data, name="tiny", unlabelled=None, **changes):
    return Job(str(data), name, Recipe.model_validate({**RECIPE, **changes}), unlabelled and str(unlabelled))


def run(data, folder, **options):
    """Train on the CPU; options of the recipe and of `train` alike."""
    ours = {key: options.pop(key) for key in ("cancel", "store") if key in options}
    return train(job(data, **options), Path(folder), device="cpu", **ours)


def resume(folder, **options):
    return train(None, Path(folder), resume=True, device="cpu", **options)


def curve(rows):
    """The rows without what varies."""
    return [{key: value for key, value in row.items() if key not in VARYING} for row in rows]
