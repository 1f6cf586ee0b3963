"""Blocks of voxels generated from label maps, for volumetric networks; `synthesis` does the same for slices."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rwkv_core.training.synthesis import PLANES, TOWARD, SliceGenerator


class BlockGenerator(SliceGenerator):
    """Makes batches of (image, label) blocks whose slices, rows and columns run as those of axial slices do."""

    def blocks(self, batch: int, depth: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Images (batch, 1, depth, height, width), float32 in [0, 1], and labels without the channel, int64."""
        indices = self._cut_blocks(batch, (depth, height, width))
        stripped = self._chance(0.2, batch)
        indices = self._strip(indices, stripped)
        image = self._worsen(self._paint(indices, stripped))
        return self._normalise(image.flatten(2)).view_as(image)[:, None], self.class_of_index[indices]

    def _cut_blocks(self, batch: int, size: tuple[int, int, int]) -> Tensor:
        """Label indices (B, D, H, W) of blocks in random pose, with their centres in the brain."""
        which = self._integers(len(self.source.maps), batch)
        low, high = self.source.brain[which].unbind(1)  # (B, 3)
        centre = (low + high) / 2 + self._uniform(-0.4, 0.4, batch, 3) * (high - low)
        axes = torch.tensor([TOWARD[letter] for letter in PLANES[0]], device=self.device).float()
        axes = axes.expand(batch, 3, 3) @ self._rotations(batch, degrees=15)
        axes = axes * self._uniform(0.85, 1.18, batch, 3, 1)
        mirrored = torch.where(self._uniform(0, 1, batch, 1, 1, 1) < 0.5, -1.0, 1.0)
        steps = [(torch.arange(side, device=self.device) - (side - 1) / 2) * self.spacing for side in size]
        grid = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1)  # (D, H, W, 3 = along slices, rows, columns)
        bend = self._smooth_volume(batch, 3, size) * self._uniform(0, 4, batch, 1, 1, 1, 1)
        point = torch.einsum("dhwa,bax->bdhwx", grid, axes) + bend.permute(0, 2, 3, 4, 1)
        point[..., 0] *= mirrored
        voxel = (point + centre[:, None, None, None]).round().long()
        shape = torch.tensor(self.source.maps.shape[1:], device=self.device)
        outside = ((voxel < 0) | (voxel >= shape)).any(-1)
        x, y, z = voxel.clamp_min(0).minimum(shape - 1).unbind(-1)
        indices = self.source.maps[which[:, None, None, None], x, y, z].long()
        indices = torch.where(mirrored < 0, self.twin[indices], indices)
        return torch.where(outside, 0, indices)

    def _worsen(self, image: Tensor) -> Tensor:
        """Thick slices along one axis in a third of the samples, blur, coil shading, noise."""
        batch, *size = image.shape
        sigma = self._uniform(0, 0.6, batch, 3)
        axis = torch.arange(3, device=self.device) == self._integers(3, batch)[:, None]
        thick = axis & self._chance(0.35, batch, 1)
        sigma = torch.where(thick, self._uniform(0.6, 2.0, batch, 3), sigma)
        image = _blur(image, sigma)
        shading = self._smooth_volume(batch, 1, tuple(size))[:, 0] * self._uniform(0, 0.25, batch, 1, 1, 1)
        return image * torch.exp(shading) + self._normal(*image.shape) * self._uniform(0, 8, batch, 1, 1, 1)

    def _smooth_volume(self, batch: int, channels: int, size: tuple[int, ...]) -> Tensor:
        """Smooth unit noise (B, channels, D, H, W) from a few knots."""
        n = int(torch.randint(3, 6, (), generator=self.random, device=self.device))
        coarse = self._normal(batch, channels, n, n, n)
        return F.interpolate(coarse, size=size, mode="trilinear", align_corners=True)


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Compute the Gaussian blur of (B, D, H, W) with a standard deviation per image and axis, (B, 3) voxels."""
    offset = torch.arange(-5, 6, device=image.device)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp_min(0.05)[..., None]) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)  # (B, 3, 11)
    batch = len(image)
    for axis in range(3):
        shape, pad = [1, 1, 1], [0] * 6
        shape[axis] = len(offset)
        pad[4 - 2 * axis] = pad[5 - 2 * axis] = len(offset) // 2
        padded = F.pad(image[None], pad, mode="replicate")
        image = F.conv3d(padded, kernel[:, axis].reshape(batch, 1, *shape), groups=batch)[0]
    return image
