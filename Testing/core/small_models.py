"""Small bundles for tests. Networks named stand-ins compute a known answer, so that all around them can be checked."""

from pathlib import Path

import torch
from torch import nn

from rwkv_core.bundle.bundle import Bundle
from rwkv_core.bundle.config import BundleConfig


def config(resampling=None, orientations=("SPL",), intensity=None, values=(1, 2, 3, 4), restore="logits", **more):
    """A grey-scale segmentation model of variant T."""
    return BundleConfig.model_validate(
        {
            "id": "small",
            "title": "Small model",
            "architecture": "rwkv-unet",
            "variant": "T",
            "modality": "any",
            "classes": [
                {"value": v, "name": f"Class {v}", "color": [50 * (i + 1), 250 - 40 * i, 90]}
                for i, v in enumerate(values)
            ],
            "preprocessing": {
                "orientations": orientations,
                "intensity": intensity or {"method": "window", "low": 0, "high": 1},
                "resampling": resampling or {"method": "spacing", "pixel": 1.0},
                "restore": restore,
            },
            "licence": "Apache-2.0",
            **more,
        }
    )


def with_network(bundle_config, network):
    """A bundle that answers with `network`, whatever config.json says; nothing is read from disk."""
    bundle = Bundle(Path("nowhere"), bundle_config)
    bundle.__dict__.update(network=network, weights=network)  # where cached_property keeps them
    return bundle


class QuadrantNetwork(nn.Module):
    """Stand-in: channel 1, 2, 3, 4 for the upper left, upper right, lower left, lower right of the picture."""

    def forward(self, image):
        batch, _, height, width = image.shape
        row = torch.arange(height)[:, None] >= height / 2
        column = torch.arange(width) >= width / 2
        quadrant = 1 + 2 * row.long() + column.long()
        return 10 * nn.functional.one_hot(quadrant, 5).permute(2, 0, 1).float().expand(batch, -1, -1, -1)


class BlurredBandNetwork(nn.Module):
    """Stand-in: as BandNetwork of the mean of 9 x 9 pixels, so that what lies around a pixel matters."""

    def __init__(self):
        super().__init__()
        self.bands = BandNetwork()

    def forward(self, image):
        return self.bands(nn.functional.avg_pool2d(image, 9, 1, 4))


class BandNetwork(nn.Module):
    """Stand-in: channel n where the input lies nearest n / 4, for n = 0 to 4. Remembers the inputs' shapes."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(tuple(image.shape))
        centres = torch.arange(5).view(1, 5, *[1] * (image.ndim - 2)) / 4
        return -100 * (image - centres) ** 2
