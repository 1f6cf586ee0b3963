"""Images generated from label maps: no scan is needed to train (SynthSeg's idea, Billot et al., Medical Image
Analysis 2023; all code is our own, over their 20 published label maps).

Every image is one slice through one label map: posed, scaled, bent, cut in one of the three planes, painted with a
random intensity per tissue, averaged over the slice thickness, blurred, shaded and made noisy. Runs on any device; all
samples of a batch are made at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor
from torch.nn import functional as F

PLANES = ("SPL", "AIL", "LIP")
"""Directions toward which slices, rows and columns run in an axial, a coronal and a sagittal image."""

TOWARD = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
"""Axes of the label maps."""
_FIRST_EXTRACEREBRAL_ID = 500
_CSF_ID = 24


@dataclass(frozen=True)
class LabelMaps:
    """Label maps and intensity priors of one folder, with ids replaced by their index in `ids`.

    Attributes:
        maps: (N, X, Y, Z) uint8, 1 mm voxels running toward Right, Anterior, Superior.
        ids: (L,) FreeSurfer id of each index.
        tissue: (L,) tissue of each index when every structure has its own contrast.
        tissue_t1: (L,) tissue of each index in the T1 priors.
        t1_mean, t1_std: (2, tissues) mean and spread of each tissue's mean and standard deviation in T1 images.
        brain: (N, 2, 3) first and last voxel of the brain along X, Y, Z.
    """

    maps: Tensor
    ids: Tensor
    tissue: Tensor
    tissue_t1: Tensor
    t1_mean: Tensor
    t1_std: Tensor
    brain: Tensor

    def to(self, device: torch.device | str) -> "LabelMaps":
        return LabelMaps(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def read_label_maps(folder: Path) -> LabelMaps:
    """Read `training_seg_*.nii.gz` and `labels_classes_priors/*.npy` as SynthSeg publishes them.

    Raises:
        FileNotFoundError: when the folder holds no label map, or the priors are missing.
        ValueError: for a map with an id that the priors do not know, or voxels other than 1 mm.
    """
    files = sorted(folder.glob("training_seg_*.nii.gz"))
    if not files:
        raise FileNotFoundError(f"no training_seg_*.nii.gz in {folder}")
    priors = folder / "labels_classes_priors"
    ids = np.load(priors / "generation_labels.npy")
    index_of_id = np.full(int(ids.max()) + 1, 255, np.uint8)
    index_of_id[ids] = np.arange(len(ids))
    maps, brain = [], []
    for file in files:
        image = sitk.DICOMOrient(sitk.ReadImage(str(file)), "RAS")  # voxels run toward these
        if not np.allclose(image.GetSpacing(), 1.0, atol=1e-3):
            raise ValueError(f"{file.name}: voxels of {image.GetSpacing()} mm; 1 mm expected")
        array = sitk.GetArrayViewFromImage(image).astype(np.int64).transpose(2, 1, 0)
        indices = index_of_id[array]
        if (indices == 255).any():
            unknown = np.unique(array[indices == 255])
            raise ValueError(f"{file.name}: ids {unknown.tolist()} are not in generation_labels.npy")
        inside = np.argwhere((array > 0) & (array < _FIRST_EXTRACEREBRAL_ID) & (array != _CSF_ID))
        maps.append(indices)
        brain.append((inside.min(0), inside.max(0)))
    return LabelMaps(
        maps=torch.from_numpy(np.stack(maps)),
        ids=torch.from_numpy(ids.astype(np.int64)),
        tissue=torch.from_numpy(np.load(priors / "generation_classes.npy")),
        tissue_t1=torch.from_numpy(np.load(priors / "generation_classes_contrast_specific.npy")),
        t1_mean=torch.from_numpy(np.load(priors / "prior_means_t1.npy")).float(),
        t1_std=torch.from_numpy(np.load(priors / "prior_stds_t1.npy")).float(),
        brain=torch.from_numpy(np.array(brain)).float(),
    )


class SliceGenerator:
    """Makes batches of (image, label) slices.

    Args:
        label_maps: from `read_label_maps`.
        classes: FreeSurfer ids of class 1, 2, ...; ids that are in none are background.
        spacing: pixel size, mm.
        seed: two generators with the same seed on the same device make the same images.
    """

    def __init__(self, label_maps: LabelMaps, classes: Sequence[Sequence[int]], spacing: float, seed: int):
        self.source = label_maps
        self.spacing = spacing
        self.device = label_maps.maps.device
        self.random = torch.Generator(self.device).manual_seed(seed)
        class_of_index = [
            next((c for c, ids in enumerate(classes, 1) if label in ids), 0) for label in label_maps.ids.tolist()
        ]
        self.class_of_index = torch.tensor(class_of_index, device=self.device)

    def __call__(self, batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Images (batch, 1, height, width), float32 in [0, 1], and labels (batch, height, width), int64."""
        indices = self._cut(batch, height, width)  # (B, layers, H, W)
        stripped = self._chance(0.2, batch)
        indices = self._strip(indices, stripped)
        image = self._paint(indices, stripped).mean(1)
        image = self._degrade(image)
        label = self.class_of_index[indices[:, indices.shape[1] // 2]]
        return self._normalise(image)[:, None], label

    def _cut(self, batch: int, height: int, width: int) -> Tensor:
        """Label indices of slices in random pose; three layers through the slice's thickness."""
        which = self._integers(len(self.source.maps), batch)
        low, high = self.source.brain[which].unbind(1)  # (B, 3)
        planes = torch.tensor([[TOWARD[letter] for letter in plane] for plane in PLANES], device=self.device)
        axes = planes[self._integers(len(PLANES), batch)].float()  # (B, 3 = slice, row, column, 3 = x, y, z)

        along = self._uniform(-0.53, 0.53, batch, 1) * (high - low)  # a little beyond the brain on both sides
        slice_axis = axes[:, 0].abs()
        jitter = self._uniform(-18, 18, batch, 3)
        centre = (low + high) / 2 + along * slice_axis + jitter * (1 - slice_axis)
        axes = axes @ self._rotations(batch, degrees=15)
        axes = axes * self._uniform(0.85, 1.18, batch, 3, 1)  # stretched along each axis of the image
        mirrored = torch.where(self._uniform(0, 1, batch, 1) < 0.5, -1.0, 1.0)

        row = (torch.arange(height, device=self.device) - (height - 1) / 2) * self.spacing
        column = (torch.arange(width, device=self.device) - (width - 1) / 2) * self.spacing
        bend = self._smooth_noise(batch, 3, height, width, knots=(3, 8)) * self._uniform(0, 4, batch, 1, 1, 1)
        in_plane = (
            row[None, :, None, None] * axes[:, None, None, 1]
            + column[None, None, :, None] * axes[:, None, None, 2]
            + bend.permute(0, 2, 3, 1)
        )  # (B, H, W, 3)
        thickness = self._uniform(1, 6, batch) * (self._uniform(0, 1, batch) < 0.6)
        layers = thickness[:, None] * torch.tensor([-1 / 3, 0, 1 / 3], device=self.device)  # (B, 3), mm
        offset = layers[:, :, None] * axes[:, None, 0]  # (B, 3, 3)
        point = in_plane[:, None] + offset[:, :, None, None]
        point[..., 0] *= mirrored[:, :, None, None]  # left and right are one class here
        voxel = (point + centre[:, None, None, None]).round().long()

        shape = torch.tensor(self.source.maps.shape[1:], device=self.device)
        outside = ((voxel < 0) | (voxel >= shape)).any(-1)
        voxel = voxel.clamp_min(0).minimum(shape - 1)
        x, y, z = voxel.unbind(-1)
        indices = self.source.maps[which[:, None, None, None], x, y, z]
        return torch.where(outside, 0, indices.long())

    def _strip(self, indices: Tensor, stripped: Tensor) -> Tensor:
        """Takes all outside the brain away from the samples `stripped` (B,), from half of them the fluid too."""
        outer = self.source.ids >= _FIRST_EXTRACEREBRAL_ID
        fluid = self._chance(0.5, len(indices), 1) & (self.source.ids == _CSF_ID)
        removed = (outer | fluid) & stripped[:, None]  # (B, L)
        sample = torch.arange(len(indices), device=self.device)[:, None, None, None]
        return torch.where(removed[sample, indices], 0, indices)

    def _paint(self, indices: Tensor, stripped: Tensor) -> Tensor:
        """Intensities: normal per tissue, with means from T1 priors or drawn freely."""
        source, batch, labels = self.source, len(indices), len(self.source.ids)
        tissues, tissues_t1 = int(source.tissue.max()) + 1, source.t1_mean.shape[1]
        mean_t1 = source.t1_mean[0] + 1.5 * source.t1_mean[1] * self._normal(batch, tissues_t1)
        std_t1 = (source.t1_std[0] + source.t1_std[1] * self._normal(batch, tissues_t1)).abs()
        std_t1 = std_t1 * self._uniform(0.2, 0.8, batch, 1)
        mean_free = self._uniform(10, 245, batch, tissues)[:, source.tissue]
        coarse = self._uniform(10, 245, batch, tissues_t1)[:, source.tissue_t1]  # both hemispheres alike
        mean_free = torch.where(self._chance(0.6, batch, 1), 0.25 * mean_free + 0.75 * coarse, mean_free)
        std_free = self._uniform(2, 20, batch, tissues)[:, source.tissue]

        like_t1 = self._chance(0.5, batch, 1)
        mean = torch.where(like_t1, mean_t1[:, source.tissue_t1], mean_free)  # (B, labels)
        std = torch.where(like_t1, std_t1[:, source.tissue_t1], std_free)
        dark_air = self._chance(0.8, batch) | stripped
        seen = ~stripped  # a stripped image is zero outside
        mean[:, 0] = torch.where(dark_air, self._uniform(0, 15, batch) * seen, mean[:, 0])
        std[:, 0] = torch.where(dark_air, self._uniform(0, 5, batch) * seen, std[:, 0])

        sample = torch.arange(batch, device=self.device)[:, None, None, None] * labels + indices
        return mean.flatten()[sample] + std.flatten()[sample] * self._normal(*indices.shape)

    def _degrade(self, image: Tensor) -> Tensor:
        """Resolution (one axis may be far coarser), coil shading, noise."""
        batch, height, width = image.shape
        sigma = self._uniform(0, 0.7, batch, 2)
        axis = torch.arange(2, device=self.device) == self._integers(2, batch)[:, None]
        coarse = axis & self._chance(0.25, batch, 1)
        sigma = torch.where(coarse, self._uniform(0.7, 2.2, batch, 2), sigma)
        image = _blur(image, sigma)
        shading = self._smooth_noise(batch, 1, height, width, knots=(2, 5))[:, 0] * self._uniform(0, 0.25, batch, 1, 1)
        noise = self._normal(batch, height, width) * self._uniform(0, 8, batch, 1, 1)
        return image * torch.exp(shading) + noise

    def _normalise(self, image: Tensor) -> Tensor:
        """To [0, 1] between percentiles, as at inference; the gain stands in for percentiles of the whole volume."""
        batch = len(image)
        low, high = torch.quantile(image.flatten(1), torch.tensor([0.005, 0.995], device=self.device), dim=1)
        gain = self._uniform(0.55, 1.15, batch)
        image = (image - low[:, None, None]) * (gain / (high - low).clamp_min(1))[:, None, None]
        gamma = torch.exp(0.25 * self._normal(batch, 1, 1))
        return image.clamp(0, 1) ** gamma

    def _smooth_noise(self, batch: int, channels: int, height: int, width: int, knots: tuple[int, int]) -> Tensor:
        """Cubic interpolation of unit normal values at a few knots; (B, channels, H, W)."""
        n = int(torch.randint(knots[0], knots[1] + 1, (), generator=self.random, device=self.device))
        coarse = self._normal(batch, channels, n, n)
        return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)

    def _rotations(self, batch: int, degrees: float) -> Tensor:
        """Rotation matrices (B, 3, 3) by up to `degrees` about each axis."""
        angle = torch.deg2rad(self._uniform(-degrees, degrees, 3, batch))
        zero, one = torch.zeros(batch, device=self.device), torch.ones(batch, device=self.device)
        c, s = angle.cos(), angle.sin()
        about_x = torch.stack([one, zero, zero, zero, c[0], -s[0], zero, s[0], c[0]], 1)
        about_y = torch.stack([c[1], zero, s[1], zero, one, zero, -s[1], zero, c[1]], 1)
        about_z = torch.stack([c[2], -s[2], zero, s[2], c[2], zero, zero, zero, one], 1)
        return about_x.view(-1, 3, 3) @ about_y.view(-1, 3, 3) @ about_z.view(-1, 3, 3)

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.random, device=self.device)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random, device=self.device)

    def _integers(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=self.random, device=self.device)

    def _chance(self, probability: float, *shape: int) -> Tensor:
        return self._uniform(0, 1, *shape) < probability


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of (B, H, W) with a standard deviation per image and axis, (B, 2) pixels."""
    offset = torch.arange(-6, 7, device=image.device)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp_min(0.05)[..., None]) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)  # (B, 2, 13)
    batch = len(image)
    padded = F.pad(image[None], (6, 6, 6, 6), mode="replicate")
    padded = F.conv2d(padded, kernel[:, 0][:, None, :, None], groups=batch)
    return F.conv2d(padded, kernel[:, 1][:, None, None, :], groups=batch)[0]
