"""Images generated from label maps: no scan is needed to train (SynthSeg's idea, Billot et al., Medical Image
Analysis 2023; all code is our own, over their 20 published label maps).

Every image is one slice through one label map: posed, scaled, bent, diseased, cut in one of the three planes, painted
with a random intensity per tissue, averaged over the slice thickness, blurred, shaded, made noisy and spoiled by the
artifacts of scanners. `Variation` says how much of each. Runs on any device; all samples of a batch are made at once.
`BlockGenerator` makes blocks of voxels likewise, for volumetric networks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

PLANES = ("SPL", "AIL", "LIP")
"""Directions toward which slices, rows and columns run in an axial, a coronal and a sagittal image."""
SAGITTAL = PLANES.index("LIP")

TOWARD = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
"""Axes of the label maps."""

SIDES = {
    2: 41,
    3: 42,
    4: 43,
    5: 44,
    7: 46,
    8: 47,
    10: 49,
    11: 50,
    12: 51,
    13: 52,
    17: 53,
    18: 54,
    25: 57,
    26: 58,
    28: 60,
    30: 62,
    31: 63,
    136: 163,
    137: 164,
}
"""FreeSurfer id of each structure of the left: that of its twin on the right."""

OUTER_FLUID, DISTANT_FLUID = 1024, 2024
"""Ids of our own for fluid (FreeSurfer's 24) between the brain's envelope and the skull, and farther away (spinal)."""

_FIRST_EXTRACEREBRAL_ID = 500
_BRAINSTEM_ID = 16
_FLUID_ID = 24
_ENVELOPE = 5.0
"""mm; sulci up to twice as wide belong to the brain's envelope."""
_DISTANT = 12.0
"""mm from brain tissue above the brainstem beyond which fluid is distant."""

_IN_BRAIN = (
    (225, 95, 130, 100, 130, 115, 115, 85, 105, 170, 60, 190, 105),  # T2
    (35, 110, 145, 110, 140, 125, 135, 110, 122, 190, 50, 110, 115),  # FLAIR
    (140, 108, 148, 112, 145, 128, 135, 105, 122, 170, 50, 140, 118),  # proton density
)
"""Typical intensities of tissues 1 to 13 of the T1 priors (fluid, white matter, ...) in other contrasts, 0 to 255."""

_AROUND_BRAIN = (
    (10, 215, 110, 60, 180, 120, 95, 25, 15, 110, 100),
    (10, 30, 75, 60, 110, 90, 110, 50, 15, 80, 110),
    (10, 140, 120, 90, 150, 120, 110, 40, 25, 120, 120),
)
"""Likewise of tissues 14 to 24: air within the head, eyes, soft tissue, muscle, mucosa, skin, spinal cord, veins,
compact bone, marrow, optic nerves."""


@dataclass(frozen=True)
class LabelMaps:
    """Label maps and intensity priors of one folder, with ids replaced by their index in `ids`.

    Attributes:
        maps: (N, X, Y, Z) uint8, 1 mm voxels running toward Right, Anterior, Superior.
        ids: (L,) FreeSurfer id of each index, or `OUTER_FLUID` and `DISTANT_FLUID`.
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
    published = np.load(priors / "generation_labels.npy")
    fluid = [int(np.flatnonzero(published == _FLUID_ID)[0])] * 2  # the same tissue in two more places
    of = np.append(np.arange(len(published)), fluid)
    ids = np.append(published, (OUTER_FLUID, DISTANT_FLUID))
    index_of_id = np.full(int(ids.max()) + 1, 255, np.uint8)
    index_of_id[ids] = np.arange(len(ids))
    maps, brain = [], []
    for file in files:
        image = sitk.DICOMOrient(sitk.ReadImage(str(file)), "RAS")  # voxels run toward these
        if not np.allclose(image.GetSpacing(), 1.0, atol=1e-3):
            raise ValueError(f"{file.name}: voxels of {image.GetSpacing()} mm; 1 mm expected")
        array = sitk.GetArrayViewFromImage(image).astype(np.int16).transpose(2, 1, 0)
        unknown = np.setdiff1d(array, published)
        if len(unknown):
            raise ValueError(f"{file.name}: ids {unknown.tolist()} are not in generation_labels.npy")
        inside = np.argwhere((array > 0) & (array < _FIRST_EXTRACEREBRAL_ID) & (array != _FLUID_ID))
        low, high = inside.min(0), inside.max(0)
        maps.append(index_of_id[tell_fluids_apart(array, low, high)])
        brain.append((low, high))
    return LabelMaps(
        maps=torch.from_numpy(np.stack(maps)),
        ids=torch.from_numpy(ids.astype(np.int64)),
        tissue=torch.from_numpy(np.load(priors / "generation_classes.npy")[of]),
        tissue_t1=torch.from_numpy(np.load(priors / "generation_classes_contrast_specific.npy")[of]),
        t1_mean=torch.from_numpy(np.load(priors / "prior_means_t1.npy")).float(),
        t1_std=torch.from_numpy(np.load(priors / "prior_stds_t1.npy")).float(),
        brain=torch.from_numpy(np.array(brain)).float(),
    )


def tell_fluids_apart(ids: NDArray[np.int16], low: NDArray[np.intp], high: NDArray[np.intp]) -> NDArray[np.int16]:
    """Divide FreeSurfer's fluid outside the ventricles in three: in the brain's envelope, around it, and farther away.

    The envelope is the brain's tissue, closed by a ball (as brain extraction tools outline it): sulci and cisterns are
    inside. Fluid between it and the skull becomes `OUTER_FLUID`; fluid along the spine becomes `DISTANT_FLUID`.

    Args:
        ids: (X, Y, Z), 1 mm voxels.
        low: first voxel of the brain along X, Y, Z.
        high: last voxel.
    """
    margin = round(_DISTANT) + 1
    box = tuple(slice(max(a - margin, 0), b + 1 + margin) for a, b in zip(low, high, strict=True))
    part = ids[box]
    fluid = part == _FLUID_ID
    tissue = (part > 0) & (part < _FIRST_EXTRACEREBRAL_ID) & ~fluid
    to_upper = ndimage.distance_transform_edt(~(tissue & (part != _BRAINSTEM_ID)))
    dilated = ndimage.distance_transform_edt(~tissue) <= _ENVELOPE
    envelope = ndimage.distance_transform_edt(dilated) > _ENVELOPE
    told = np.where(ids == _FLUID_ID, DISTANT_FLUID, ids).astype(np.int16)
    told[box][fluid & (to_upper <= _DISTANT)] = OUTER_FLUID
    told[box][fluid & envelope] = _FLUID_ID
    return told


@dataclass(frozen=True)
class Variation:
    """How the generated images vary: shares of the images that have something, and the most of it.

    Attributes:
        rotated: most degrees about each axis in most images; in a third of them it is `tilted`.
        stretched: least and most scale along each axis.
        bent: mm, largest standard deviation of the deformation.
        shifted: mm, most that the brain is off the middle of the image.
        thickness: mm of the thickest slices.
        layers: through the thickness of a slice.
        stripped: without skull; with or without fluid around the brain.
        defaced: without the face.
        covered_partly: the image ends within the head.
        ventricles: have far larger or smaller ventricles.
        atrophy: have wider sulci; as many have narrower ones.
        lesions: have lesions of the white matter; `masses`: something larger, of any intensity.
        dura: have a membrane of its own intensity between fluid and skull.
        priors: the shares of T1 images, T2/FLAIR/PD images; the others have an intensity per tissue drawn freely.
        known_outside: share of the T2/FLAIR/PD images in which bone, eyes, ... have their typical intensities, too.
        ghosts, wrapped, spikes: have these artifacts.
        shading: largest standard deviation of the logarithm of the coil's gain.
        noise: largest standard deviation, of 255.
    """

    rotated: float = 15.0
    tilted: float = 30.0
    stretched: tuple[float, float] = (0.83, 1.2)
    bent: float = 4.5
    shifted: float = 24.0
    thickness: float = 6.5
    layers: int = 5
    stripped: float = 0.22
    defaced: float = 0.08
    covered_partly: float = 0.15
    ventricles: float = 0.35
    atrophy: float = 0.12
    lesions: float = 0.2
    masses: float = 0.06
    dura: float = 0.5
    priors: tuple[float, float] = (0.35, 0.45)
    known_outside: float = 0.6
    ghosts: float = 0.08
    wrapped: float = 0.03
    spikes: float = 0.04
    shading: float = 0.3
    noise: float = 12.0


class Slices(NamedTuple):
    """A batch of generated slices: image (B, 1, H, W) in [0, 1], label (B, H, W), plane (B,), index into `PLANES`."""

    image: Tensor
    label: Tensor
    plane: Tensor


class RandomDraws:
    """Draws of one generator, on its device: base of what generates images."""

    random: torch.Generator
    device: torch.device

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=self.random, device=self.device)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random, device=self.device)

    def _integers(self, below: int, *shape: int) -> Tensor:
        return torch.randint(below, shape, generator=self.random, device=self.device)

    def _chance(self, probability: float, *shape: int) -> Tensor:
        return self._uniform(0, 1, *shape) < probability


class SliceGenerator(RandomDraws):
    """Makes batches of slices.

    Args:
        label_maps: from `read_label_maps`.
        classes: FreeSurfer ids of class 1, 2, ...; ids that are in none are background.
        spacing: pixel size, mm.
        seed: two generators with the same seed on the same device make the same images.
        variation: of the images.
    """

    def __init__(
        self,
        label_maps: LabelMaps,
        classes: Sequence[Sequence[int]],
        spacing: float,
        seed: int,
        variation: Variation | None = None,
    ):
        self.source = label_maps
        self.spacing = spacing
        self.variation = variation or Variation()
        self.device = label_maps.maps.device
        self.random = torch.Generator(self.device).manual_seed(seed)
        self.dice = torch.Generator().manual_seed(seed)  # for what the whole batch shares, without waiting for a GPU
        ids = label_maps.ids.tolist()
        class_of_index = [next((c for c, union in enumerate(classes, 1) if label in union), 0) for label in ids]
        twins = {**SIDES, **{right: left for left, right in SIDES.items()}}
        self.class_of_index = torch.tensor(class_of_index, device=self.device)
        self.twin = torch.tensor(
            [ids.index(twins.get(i, i)) if twins.get(i, i) in ids else n for n, i in enumerate(ids)]
        )
        self.twin = self.twin.to(self.device)
        self.lesion = torch.arange(len(ids), device=self.device)
        for white, lesion in ((2, 25), (41, 57)):
            if white in ids and lesion in ids:
                self.lesion[ids.index(white)] = ids.index(lesion)
        self.cortex = self._indices_of(3, 42)
        self.inner, self.outer = self._indices_of(_FLUID_ID), self._indices_of(OUTER_FLUID, DISTANT_FLUID)
        self.fluid = self.inner.long().argmax()
        self.extracerebral = (label_maps.ids >= _FIRST_EXTRACEREBRAL_ID) & ~self.outer

    def _indices_of(self, *ids: int) -> Tensor:
        return torch.isin(self.source.ids, torch.tensor(ids, device=self.device))

    def __call__(self, batch: int, height: int, width: int) -> Slices:
        """Give a batch of slices of one size."""
        plane = self._integers(len(PLANES), batch)
        indices = self._atrophy(self._cut(plane, height, width))  # (B, layers, H, W)
        stripped = self._chance(self.variation.stripped, batch)
        indices = self._strip(indices, stripped)
        middle = indices[:, indices.shape[1] // 2]
        image = self._texture(self._paint(self._lesions(indices), stripped).mean(1), middle)
        image = self._degrade(image)
        cut_out = stripped & self._chance(0.7, batch)
        image = torch.where(cut_out[:, None, None] & (middle == 0), 0.0, image)  # stripped after it was acquired
        image = self._normalise(self._spoil(image))
        seen = self._seen(batch, height, width)
        return Slices((image * seen)[:, None], self.class_of_index[middle] * seen, plane)

    def _cut(self, plane: Tensor, height: int, width: int) -> Tensor:
        """Label indices of slices in random pose; layers through the slice's thickness."""
        vary, batch = self.variation, len(plane)
        which = self._integers(len(self.source.maps), batch)
        low, high = self.source.brain[which].unbind(1)  # (B, 3)
        planes = torch.tensor([[TOWARD[letter] for letter in letters] for letters in PLANES], device=self.device)
        axes = planes[plane].float()  # (B, 3 = slice, row, column, 3 = x, y, z)

        along = self._uniform(-0.53, 0.53, batch, 1) * (high - low)  # a little beyond the brain on both sides
        slice_axis = axes[:, 0].abs()
        shift = self._uniform(-vary.shifted, vary.shifted, batch, 3)
        middle = (low + high) / 2
        centre = along * slice_axis + shift * (1 - slice_axis)
        degrees = torch.where(self._chance(1 / 3, batch), vary.tilted, vary.rotated)
        axes = axes @ self._rotations(batch, degrees)
        axes = axes * self._uniform(*vary.stretched, batch, 3, 1)  # along each axis of the image

        row = (torch.arange(height, device=self.device) - (height - 1) / 2) * self.spacing
        column = (torch.arange(width, device=self.device) - (width - 1) / 2) * self.spacing
        bend = self._smooth_noise(batch, 3, height, width, knots=(3, 9)) * self._uniform(0, vary.bent, batch, 1, 1, 1)
        in_plane = (
            row[None, :, None, None] * axes[:, None, None, 1]
            + column[None, None, :, None] * axes[:, None, None, 2]
            + bend.permute(0, 2, 3, 1)
            + centre[:, None, None]
        )  # (B, H, W, 3), mm from the middle of the brain
        thickness = self._uniform(1, vary.thickness, batch) * self._chance(0.6, batch)
        layers = thickness[:, None] * self._layers()  # (B, layers), mm
        offset = layers[:, :, None] * axes[:, None, 0]  # (B, layers, 3)
        point = in_plane[:, None] + offset[:, :, None, None]
        point = self._swell(point)
        mirrored = self._chance(0.5, batch, 1, 1, 1)
        point[..., 0] *= torch.where(mirrored, -1.0, 1.0)  # a head whose left looks as its right did
        voxel = (point + middle[:, None, None, None]).round().long()

        shape = torch.tensor(self.source.maps.shape[1:], device=self.device)
        outside = ((voxel < 0) | (voxel >= shape)).any(-1)
        voxel = voxel.clamp_min(0).minimum(shape - 1)
        x, y, z = voxel.unbind(-1)
        indices = self.source.maps[which[:, None, None, None], x, y, z].long()
        indices = torch.where(mirrored, self.twin[indices], indices)
        return torch.where(outside | self._faceless(point, high - low, indices), 0, indices)

    def _layers(self) -> Tensor:
        """Places of the layers in a slice of unit thickness, the middle one included."""
        count = self.variation.layers
        return (torch.arange(count, device=self.device) - count // 2) / count

    def _swell(self, point: Tensor) -> Tensor:
        """Enlarges or shrinks what is in the middle of some brains: the ventricles."""
        batch = len(point)
        amount = self._uniform(-0.35, 0.5, batch, 1, 1, 1, 1) * self._chance(
            self.variation.ventricles, batch, 1, 1, 1, 1
        )
        radius = self._uniform(14, 30, batch, 1, 1, 1)
        height = torch.tensor([0.0, 0.0, 8.0], device=self.device)  # of the ventricles over the brain's middle, mm
        from_middle = point - height
        near = torch.exp(-0.5 * from_middle.square().sum(-1) / radius**2)[..., None]
        return height + from_middle * (1 - amount * near)

    def _faceless(self, point: Tensor, size: Tensor, indices: Tensor) -> Tensor:
        """Find what a defacing tool takes away: all but the brain in front of an oblique plane, in some heads."""
        batch = len(point)
        angle = torch.deg2rad(self._uniform(15, 65, batch))
        forward = torch.stack([torch.zeros_like(angle), angle.cos(), -angle.sin()], 1)
        reach = (forward.abs() * size).sum(1) * self._uniform(0.3, 0.5, batch)
        reach = torch.where(self._chance(self.variation.defaced, batch), reach, 1e6)
        beyond = torch.einsum("blhwx,bx->blhw", point, forward) > reach[:, None, None, None]
        return beyond & self.extracerebral[indices]

    def _atrophy(self, indices: Tensor) -> Tensor:
        """Wider sulci in some slices, narrower ones in others, by a pixel."""
        batch = len(indices)
        cortex, inner = self.cortex[indices], self.inner[indices]
        shrunk = self._chance(self.variation.atrophy, batch, 1, 1, 1) & _neighbours(inner.to(torch.float16)).bool()
        grown = _neighbours(torch.where(cortex, indices, 0).to(torch.float16)).long()
        swollen = self._chance(self.variation.atrophy, batch, 1, 1, 1) & inner & (grown > 0)
        indices = torch.where(swollen, grown, indices)
        return torch.where(shrunk & cortex, self.fluid, indices)

    def _lesions(self, indices: Tensor) -> Tensor:
        """Lesions of the white matter in some slices; to be painted, not to be labeled."""
        batch, _, height, width = indices.shape
        noise = self._smooth_noise(batch, 1, height, width, knots=(10, 36))
        least = torch.where(
            self._chance(self.variation.lesions, batch, 1, 1, 1), self._uniform(1.2, 2.2, batch, 1, 1, 1), 1e6
        )
        return torch.where(noise > least, self.lesion[indices], indices)

    def _strip(self, indices: Tensor, stripped: Tensor) -> Tensor:
        """Takes all outside the brain away from the samples `stripped` (B,): with all fluid, the outer one, or none."""
        batch = len(indices)
        kind = self._integers(3, batch, 1)
        removed = self.extracerebral | (self.outer & (kind < 2)) | (self.inner & (kind == 0))
        removed = removed & stripped[:, None]  # (B, L)
        sample = torch.arange(batch, device=self.device)[:, None, None, None]
        return torch.where(removed[sample, indices], 0, indices)

    def _paint(self, indices: Tensor, stripped: Tensor) -> Tensor:
        """Intensities: normal per tissue, with means from T1 priors, those of other contrasts, or drawn freely."""
        source, batch, labels = self.source, len(indices), len(self.source.ids)
        tissues, tissues_t1 = int(source.tissue.shape[0]), source.t1_mean.shape[1]
        mean_t1 = source.t1_mean[0] + 1.5 * source.t1_mean[1] * self._normal(batch, tissues_t1)
        std_t1 = (source.t1_std[0] + source.t1_std[1] * self._normal(batch, tissues_t1)).abs()
        std_t1 = std_t1 * self._uniform(0.15, 0.8, batch, 1)

        coarse = self._uniform(10, 245, batch, tissues_t1)
        typical = torch.cat([torch.tensor(part, dtype=torch.float32) for part in (_IN_BRAIN, _AROUND_BRAIN)], 1)
        typical = typical[:, : tissues_t1 - 1].to(self.device)
        known = typical[self._integers(len(typical), batch)]
        outside = torch.arange(known.shape[1], device=self.device) >= len(_IN_BRAIN[0])
        known = torch.where(outside, known * self._uniform(0.4, 1.3, batch, 1), known)  # fat suppressed or not
        known = known + self._uniform(3, 16, batch, 1) * self._normal(batch, known.shape[1])
        drawn = outside & self._chance(1 - self.variation.known_outside, batch, 1)
        mean_other = coarse * self._uniform(0.3, 1, batch, 1)
        mean_other[:, 1 : 1 + known.shape[1]] = torch.where(drawn, mean_other[:, 1 : 1 + known.shape[1]], known)

        mean_free = self._uniform(10, 245, batch, tissues)[:, source.tissue]
        both_sides = coarse[:, source.tissue_t1]
        mean_free = torch.where(self._chance(0.85, batch, 1), 0.25 * mean_free + 0.75 * both_sides, mean_free)
        std_free = self._uniform(2, 22, batch, tissues)[:, source.tissue]

        share_t1, share_other = self.variation.priors
        draw = self._uniform(0, 1, batch, 1)
        like_t1, like_other = draw < share_t1, (draw >= share_t1) & (draw < share_t1 + share_other)
        own = self._uniform(0, 6, batch, 1) * self._normal(batch, tissues)[:, source.tissue]  # of each structure
        mean = torch.where(like_t1, mean_t1[:, source.tissue_t1] + own, mean_free)  # (B, labels)
        mean = torch.where(like_other, mean_other[:, source.tissue_t1] + own, mean)
        std = torch.where(like_t1, std_t1[:, source.tissue_t1], std_free)
        std = torch.where(like_other, std_free * 0.6, std)
        dark_air = self._chance(0.85, batch) | stripped
        seen = ~stripped  # a stripped image is zero outside
        mean[:, 0] = torch.where(dark_air, self._uniform(0, 15, batch) * seen, mean[:, 0])
        std[:, 0] = torch.where(dark_air, self._uniform(0, 5, batch) * seen, std[:, 0])

        sample = torch.arange(batch, device=self.device)[:, None, None, None] * labels + indices
        return mean.flatten()[sample] + std.flatten()[sample] * self._normal(*indices.shape)

    def _texture(self, image: Tensor, middle: Tensor) -> Tensor:
        """Draw what label maps do not tell apart: muscle, fat and vessels outside, dura, uneven tissue, masses."""
        vary, (batch, height, width) = self.variation, image.shape
        outside = self.extracerebral[middle]
        patches = self._smooth_noise(batch, 1, height, width, knots=(8, 48))[:, 0]
        image = image + outside * patches * self._uniform(0, 55, batch, 1, 1)
        uneven = self._smooth_noise(batch, 1, height, width, knots=(6, 24))[:, 0]
        image = image + (middle > 0) * uneven * self._uniform(0, 7, batch, 1, 1)

        near_skull = _neighbours(outside[:, None].to(torch.float16))[:, 0].bool()
        membrane = self.outer[middle] & (near_skull | (patches > self._uniform(1.0, 3.0, batch, 1, 1)))
        opaque = self._uniform(0.3, 1, batch, 1, 1) * self._chance(vary.dura, batch, 1, 1)
        image = torch.lerp(image, self._uniform(10, 245, batch, 1, 1).expand_as(image), membrane * opaque)

        row = torch.arange(height, device=self.device)[:, None] - self._uniform(0.2, 0.8, batch, 1, 1) * height
        column = torch.arange(width, device=self.device) - self._uniform(0.2, 0.8, batch, 1, 1) * width
        radius = self._uniform(4, 22, batch, 1, 1) / self.spacing
        ball = (row / radius) ** 2 + (column / (radius * self._uniform(0.6, 1.6, batch, 1, 1))) ** 2 + 0.4 * uneven < 1
        tissue = (middle > 0) & ~outside
        there = (ball & tissue) * self._chance(vary.masses, batch, 1, 1) * self._uniform(0.4, 1, batch, 1, 1)
        mass = self._uniform(10, 245, batch, 1, 1) + 8 * self._normal(batch, height, width)
        return torch.lerp(image, mass, there)

    def _degrade(self, image: Tensor) -> Tensor:
        """Resolution (one axis may be far coarser), coil shading, noise as of magnitude images."""
        batch, height, width = image.shape
        sigma = self._uniform(0, 0.8, batch, 2)
        axis = torch.arange(2, device=self.device) == self._integers(2, batch)[:, None]
        coarse = axis & self._chance(0.25, batch, 1)
        sigma = torch.where(coarse, self._uniform(0.7, 2.2, batch, 2), sigma)
        sigma = torch.where(self._chance(0.1, batch, 1), self._uniform(0.6, 1.6, batch, 1), sigma)
        image = _blur(image, sigma)
        shading = self._smooth_noise(batch, 1, height, width, knots=(2, 5))[:, 0]
        image = image * torch.exp(shading * self._uniform(0, self.variation.shading, batch, 1, 1))
        amount = self._uniform(0, 1, batch, 1, 1) ** 1.5 * self.variation.noise
        image = image + self._normal(batch, height, width) * amount
        other = self._normal(batch, height, width) * amount * self._chance(0.5, batch, 1, 1)
        return torch.where(other == 0, image, (image.square() + other.square()).sqrt())

    def _spoil(self, image: Tensor) -> Tensor:
        """Ghosts of a moving head, the head's far side wrapped in, spikes in k-space; in a few images each."""
        vary, (batch, height, width) = self.variation, image.shape
        axis = 1 + self._share(2)
        ghosts = self._uniform(0.04, 0.25, batch, 1, 1) * self._chance(vary.ghosts, batch, 1, 1)
        by = image.shape[axis] // (2 + self._share(5))
        spoiled = image + ghosts * (image.roll(by, axis) - image.roll(-by, axis) * 0.5)
        wrapped = self._uniform(0.3, 0.9, batch, 1, 1) * self._chance(vary.wrapped, batch, 1, 1)
        far = int(image.shape[axis] * (0.45 + 0.02 * self._share(10)))
        spoiled = spoiled + wrapped * image.roll(far, axis)
        wave = (
            torch.arange(height, device=self.device)[:, None] * self._uniform(-2, 2, batch, 1, 1)
            + torch.arange(width, device=self.device) * self._uniform(-2, 2, batch, 1, 1)
            + self._uniform(0, 6.3, batch, 1, 1)
        )
        spikes = self._uniform(4, 25, batch, 1, 1) * self._chance(vary.spikes, batch, 1, 1)
        return spoiled + spikes * wave.cos()

    def _normalise(self, image: Tensor) -> Tensor:
        """Scale to [0, 1] between percentiles, as at inference; the gain stands in for those of the whole volume."""
        batch = len(image)
        low, high = torch.quantile(image.flatten(1), torch.tensor([0.005, 0.995], device=self.device), dim=1)
        gain = self._uniform(0.5, 1.2, batch)
        image = (image - low[:, None, None]) * (gain / (high - low).clamp_min(1))[:, None, None]
        gamma = torch.exp(0.3 * self._normal(batch, 1, 1))
        return image.clamp(0, 1) ** gamma

    def _seen(self, batch: int, height: int, width: int) -> Tensor:
        """Tell whether each pixel is in the image (B, H, W): some images end within the head, on one side."""
        row = torch.arange(height, device=self.device)[:, None].expand(height, width)
        column = torch.arange(width, device=self.device).expand(height, width)
        from_side = torch.stack([row, height - 1 - row, column, width - 1 - column])[self._integers(4, batch)]
        side = torch.where(self._chance(0.5, batch), height, width) * self._uniform(0.1, 0.6, batch)
        side = torch.where(self._chance(self.variation.covered_partly, batch), side, -1.0)
        return from_side >= side[:, None, None]

    def _smooth_noise(self, batch: int, channels: int, height: int, width: int, knots: tuple[int, int]) -> Tensor:
        """Cubic interpolation of unit normal values at a few knots; (B, channels, H, W)."""
        n = knots[0] + self._share(knots[1] + 1 - knots[0])
        coarse = self._normal(batch, channels, n, n)
        return F.interpolate(coarse, size=(height, width), mode="bicubic", align_corners=True)

    def _rotations(self, batch: int, degrees: float | Tensor) -> Tensor:
        """Rotation matrices (B, 3, 3) by up to `degrees` about each axis."""
        angle = torch.deg2rad(self._uniform(-1, 1, 3, batch) * degrees)
        zero, unit = torch.zeros(batch, device=self.device), torch.ones(batch, device=self.device)
        c, s = angle.cos(), angle.sin()
        about_x = torch.stack([unit, zero, zero, zero, c[0], -s[0], zero, s[0], c[0]], 1)
        about_y = torch.stack([c[1], zero, s[1], zero, unit, zero, -s[1], zero, c[1]], 1)
        about_z = torch.stack([c[2], -s[2], zero, s[2], c[2], zero, zero, zero, unit], 1)
        return about_x.view(-1, 3, 3) @ about_y.view(-1, 3, 3) @ about_z.view(-1, 3, 3)

    def _share(self, below: int) -> int:
        """Draw a random number that the whole batch shares."""
        return int(torch.randint(below, (), generator=self.dice))


def _neighbours(mask: Tensor) -> Tensor:
    """Find the largest value of each pixel and its eight neighbours, (..., H, W)."""
    return F.max_pool2d(mask.flatten(0, -3)[:, None], 3, 1, 1).view_as(mask)


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Compute the Gaussian blur of (B, H, W) with a standard deviation per image and axis, (B, 2) pixels."""
    offset = torch.arange(-6, 7, device=image.device)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp_min(0.05)[..., None]) ** 2)
    kernel = kernel / kernel.sum(-1, keepdim=True)  # (B, 2, 13)
    batch = len(image)
    padded = F.pad(image[None], (6, 6, 6, 6), mode="replicate")
    padded = F.conv2d(padded, kernel[:, 0][:, None, :, None], groups=batch)
    return F.conv2d(padded, kernel[:, 1][:, None, None, :], groups=batch)[0]


class BlockGenerator(SliceGenerator):
    """Makes batches of (image, label) blocks whose slices, rows and columns run as those of axial slices do."""

    def blocks(self, batch: int, depth: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Make images (batch, 1, depth, height, width), float32 in [0, 1], and labels without the channel, int64."""
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
        image = _blur_blocks(image, sigma)
        shading = self._smooth_volume(batch, 1, tuple(size))[:, 0] * self._uniform(0, 0.25, batch, 1, 1, 1)
        return image * torch.exp(shading) + self._normal(*image.shape) * self._uniform(0, 8, batch, 1, 1, 1)

    def _smooth_volume(self, batch: int, channels: int, size: tuple[int, ...]) -> Tensor:
        """Smooth unit noise (B, channels, D, H, W) from a few knots."""
        n = int(torch.randint(3, 6, (), generator=self.random, device=self.device))
        coarse = self._normal(batch, channels, n, n, n)
        return F.interpolate(coarse, size=size, mode="trilinear", align_corners=True)


def _blur_blocks(image: Tensor, sigma: Tensor) -> Tensor:
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
