"""Few slices made many: geometry and intensity drawn anew for every sample of a batch."""

import torch
from torch import Tensor
from torch.nn import functional as F


class Augmentation:
    """Random views of slices.

    Args:
        seed: of the random numbers.
    """

    def __init__(self, seed: int):
        self.random = torch.Generator().manual_seed(seed)

    def __call__(self, image: Tensor, maps: Tensor, clipped: bool) -> tuple[Tensor, Tensor]:
        """Images (B, 1, H, W) and what belongs to their pixels (B, M, H, W), both in the same new pose.

        What moves in from outside repeats the border in the image, and is zero in the maps. `clipped`: images
        lie in [0, 1], and stay there.
        """
        grid = self._grid(*image.shape[:1], *image.shape[2:])
        image = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
        maps = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return self._intensity(image, clipped), maps

    def _grid(self, batch: int, height: int, width: int) -> Tensor:
        """Where every pixel comes from (B, H, W, 2): rotated, scaled, moved and bent a little."""
        angle = torch.deg2rad(self._uniform(-12, 12, batch))
        stretch = torch.exp(self._uniform(-0.15, 0.15, batch, 2))
        shift = self._uniform(-0.06, 0.06, batch, 2)
        aspect = width / height
        cos, sin = angle.cos(), angle.sin()
        rows = [
            torch.stack([cos * stretch[:, 0], -sin * stretch[:, 1] / aspect, shift[:, 0]], 1),
            torch.stack([sin * stretch[:, 0] * aspect, cos * stretch[:, 1], shift[:, 1]], 1),
        ]
        affine = torch.stack(rows, 1)  # (B, 2, 3)
        grid = F.affine_grid(affine, [batch, 1, height, width], align_corners=False)
        knots = torch.randn(batch, 2, 6, 6, generator=self.random) * 0.015
        bend = F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=True)
        return grid + bend.permute(0, 2, 3, 1)

    def _intensity(self, image: Tensor, clipped: bool) -> Tensor:
        """Contrast, brightness, a smooth shading, noise."""
        batch, _, height, width = image.shape
        spread = image.std((2, 3), keepdim=True)
        mean = image.mean((2, 3), keepdim=True)
        gain = torch.exp(self._uniform(-0.2, 0.2, batch, 1, 1, 1))
        image = (image - mean) * gain + mean * torch.exp(self._uniform(-0.1, 0.1, batch, 1, 1, 1))
        if clipped:
            image = image.clamp(0, 1) ** torch.exp(self._uniform(-0.25, 0.25, batch, 1, 1, 1))
        knots = torch.randn(batch, 1, 4, 4, generator=self.random) * 0.08
        shading = F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=True)
        image = image * torch.exp(shading)
        noise = torch.randn(image.shape, generator=self.random) * spread * self._uniform(0, 0.1, batch, 1, 1, 1)
        image = image + noise
        return image.clamp(0, 1) if clipped else image

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.random)
