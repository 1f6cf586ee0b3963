"""Samples for the promptable network, made in batches on any device: no label of an organ is needed.

Three sources, mixed within a batch: slices of label maps painted at random (SynthSeg, Billot et al. 2023), random
shapes (SynthMorph, Hoffmann et al. 2022), and slices of real CTs with regions by over-segmentation and thresholds
(ScribblePrompt, Wong et al. 2024). Lesions are blended into all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rwkv_core.training.prompt.maps import gaussian
from rwkv_core.training.prompt.user import inner_distance
from rwkv_core.training.synthesis import RandomDraws


@dataclass(frozen=True)
class Heads:
    """Label maps: `maps` (N, X, Y, Z) uint8 indices at 1 mm, `ids` (L,), `tissue` and `coarse` (L,) groups of them."""

    maps: Tensor
    ids: Tensor
    tissue: Tensor
    coarse: Tensor


@dataclass(frozen=True)
class Scan:
    """An unlabelled CT: `hounsfield` (Z, Y, X) float16, spacing (3,) mm of Z, Y, X, region maps from small to large."""

    hounsfield: Tensor
    spacing: Tensor
    regions: list[Tensor]
    inside: Tensor  # (V, 3) voxels within the body


@dataclass
class Slices:
    """A batch before its image is degraded: intensities in any unit.

    `target` and `neighbour` are masks (B, H, W) of the slice and of one beside it; `voxel` (B,) is a voxel's size in
    pixels.
    """

    image: Tensor
    target: Tensor
    neighbour: Tensor
    voxel: Tensor


@dataclass
class Sample:
    """Images (B, H, W) float32 in [0, 1]; targets and masks of a neighbouring slice (B, H, W) bool, or empty."""

    image: Tensor
    target: Tensor
    neighbour: Tensor

    def __len__(self) -> int:
        return len(self.image)


class SampleGenerator(RandomDraws):
    """Makes batches of samples.

    Args:
        heads: label maps, on the device.
        scans: unlabelled CTs, on the device.
        random: source of random numbers on the same device.
        shares: of label maps, random shapes and CTs in a batch.
    """

    def __init__(
        self,
        heads: Heads,
        scans: list[Scan],
        random: torch.Generator,
        shares: tuple[float, float, float] = (0.38, 0.24, 0.38),
    ):
        self.heads, self.scans, self.random, self.shares = heads, scans, random, shares
        self.device = random.device
        self._anchors = _anchors(heads, random)

    def __call__(self, batch: int, size: int) -> Sample:
        """`batch` samples of `size` x `size` pixels; targets too small or too large are left out and replaced."""
        makers: tuple[Callable[[int, int], Slices], ...] = (self._from_heads, self._from_shapes, self._from_scans)
        parts = []
        for maker, share in zip(makers, self.shares, strict=True):
            count = round(batch * share * 1.35) + 1
            parts.append(self._finish(maker(count, size), round(batch * share)))
        image, target, neighbour = (torch.cat([part[k] for part in parts]) for k in range(3))
        order = torch.randperm(len(image), generator=self.random, device=self.device)[:batch]
        return Sample(image[order], target[order], neighbour[order])

    def _finish(self, slices: Slices, keep: int) -> tuple[Tensor, Tensor, Tensor]:
        slices = self._with_lesions(slices)
        image = self._windowed(slices.image, slices.target)
        size = image.shape[1]
        target = slices.target
        single = self._chance(0.75, len(target))
        target = torch.where(single[:, None, None], _part_nearest_centre(target), target)
        beside = self._chance(1 / 3, len(target))
        neighbour = self._bent(slices.neighbour) & beside[:, None, None]
        near = F.max_pool2d(target[:, None].float(), 2 * (size // 10) + 1, 1, size // 10)[:, 0] > 0
        neighbour &= near | ~single[:, None, None]
        image = self._degraded(image, slices.voxel)
        area = target.flatten(1).float().mean(1)
        contrast = self._visible(image, target)
        good = (area * size * size >= 14) & (area < 0.8) & contrast
        order = torch.argsort(good.float(), descending=True, stable=True)[: max(keep, 1)]
        return image[order], target[order], neighbour[order]

    def _visible(self, image: Tensor, target: Tensor) -> Tensor:
        """Tell whether the target differs from its surroundings by more than chance."""
        inside = target.float()
        ring = F.max_pool2d(inside[:, None], 9, 1, 4)[:, 0] - inside
        mean_in = (image * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
        mean_ring = (image * ring).sum((1, 2)) / ring.sum((1, 2)).clamp_min(1)
        spread = (((image - mean_ring[:, None, None]) ** 2 * ring).sum((1, 2)) / ring.sum((1, 2)).clamp_min(1)).sqrt()
        difference = (mean_in - mean_ring).abs()
        return (difference > 0.02) & ((difference > 0.25 * spread) | self._chance(0.3, len(image)))

    # Label maps

    def _from_heads(self, batch: int, size: int) -> Slices:
        heads = self.heads
        labels = len(heads.ids)
        which = self._integers(len(heads.maps), batch)
        by_label = self._chance(0.6, batch)
        label = self._integers(labels - 1, batch) + 1
        label = torch.where(by_label, label, 0)  # row 0 of the anchors: anywhere in the head
        pick = self._integers(self._anchors.shape[2], batch)
        anchor = self._anchors[which, label, pick].float()  # (B, 3)
        extent = self._log_uniform(36, 260, batch)
        pixel = extent / size

        axes = self._axes(batch, degrees=25) * self._uniform(0.85, 1.18, batch, 3, 1)
        thickness = self._uniform(0, 5, batch) * self._chance(0.6, batch)
        beside = self._uniform(1, 5, batch) * self._sign(batch)
        layer = torch.stack([-thickness / 3, thickness * 0, thickness / 3, beside], 1)  # (B, 4) mm
        bend = self._noise(batch, 3, size, (3, 8)) * (self._uniform(0, 0.03, batch) * extent)[:, None, None, None]
        point = self._grid(size, pixel, axes)[:, None] + (layer[:, :, None] * axes[:, None, 0])[:, :, None, None]
        point = point + bend.permute(0, 2, 3, 1)[:, None]
        jitter = self._uniform(-0.22, 0.22, batch, 2, 1) * extent[:, None, None] * axes[:, 1:]
        voxel = (point + (anchor + jitter.sum(1))[:, None, None, None]).round().long()
        shape = torch.tensor(heads.maps.shape[1:], device=self.device)
        outside = ((voxel < 0) | (voxel >= shape)).any(-1)
        x, y, z = voxel.clamp_min(0).minimum(shape - 1).unbind(-1)
        indices = torch.where(outside, 0, heads.maps[which[:, None, None, None], x, y, z].long())

        centre_label = heads.maps[(which, *anchor.long().clamp_min(0).minimum(shape - 1).unbind(1))].long()
        member = self._members(centre_label, indices[:, 1])
        smooth = 0.45 / pixel
        target = self._smooth_mask(self._chosen(member, indices[:, 1]), smooth)
        neighbour = self._smooth_mask(self._chosen(member, indices[:, 3]), smooth)

        mean = self._uniform(10, 245, batch, int(heads.tissue.max()) + 1)[:, heads.tissue]
        coarse = self._uniform(10, 245, batch, int(heads.coarse.max()) + 1)[:, heads.coarse]
        blend = self._uniform(0, 1, batch, 1) ** 2
        mean = torch.where(self._chance(0.7, batch, 1), blend * mean + (1 - blend) * coarse, mean)
        narrow = self._chance(0.25, batch, 1)
        mean = torch.where(narrow, 128 + (mean - 128) * self._uniform(0.15, 0.6, batch, 1), mean)
        own = self._uniform(10, 245, batch, 1).expand_as(mean)
        mean = torch.where(member & self._chance(0.35, batch, 1), own, mean)
        mean[:, 0] = torch.where(self._chance(0.85, batch), self._uniform(0, 15, batch), mean[:, 0])
        spread = self._uniform(1, 16, batch, labels)
        texture = self._texture(batch, size)
        image = torch.stack([mean.gather(1, indices[:, k].flatten(1)).view(batch, size, size) for k in range(3)]).mean(
            0
        ) + texture * spread.gather(1, indices[:, 1].flatten(1)).view(batch, size, size)
        return Slices(self._blurred(image, 0.6 / pixel), target, neighbour, 1 / pixel)

    def _members(self, label: Tensor, indices: Tensor) -> Tensor:
        """(B, L) which labels make up the target: the one chosen, its group, some beside it, or all of a kind."""
        heads = self.heads
        batch, labels = len(label), len(heads.ids)
        number = torch.arange(labels, device=self.device)[None]
        own = number == label[:, None]
        group = heads.coarse[None] == heads.coarse[label][:, None]
        pixels = self._integers(indices.shape[1] * indices.shape[2], batch, 2)
        others = indices.flatten(1).gather(1, pixels)
        union = own | (number == others[:, :1]) | (number == others[:, 1:])
        brain = ((heads.ids > 0) & (heads.ids < 500) & (heads.ids != 24))[None].expand(batch, -1)
        everything = (heads.ids > 0)[None].expand(batch, -1)
        kind = self._uniform(0, 1, batch, 1)
        member = torch.where(kind < 0.5, own, group)
        member = torch.where(kind > 0.68, union, member)
        member = torch.where(kind > 0.86, brain, member)
        member = torch.where(kind > 0.94, everything, member)
        return member & (number > 0)

    @staticmethod
    def _chosen(member: Tensor, indices: Tensor) -> Tensor:
        return member.gather(1, indices.flatten(1)).view(indices.shape)

    # Random shapes

    def _from_shapes(self, batch: int, size: int) -> Slices:
        turn = self._uniform(0.05, 0.35, batch)[:, None, None, None] * self._sign(batch)[:, None, None, None]
        slices: list[Tensor] = []
        fields = []
        for knots, channels in (((3, 5), 5), ((5, 9), 5), ((8, 20), 3)):
            first, second = self._noise(batch, channels, size, knots), self._noise(batch, channels, size, knots)
            fields.append((first, first * turn.cos() + second * turn.sin()))
        bias = 0.6 * self._normal(batch, 5, 1, 1)
        cuts = self._uniform(0.25, 0.9, batch, 1, 1)
        kind = self._uniform(0, 1, batch, 1, 1)
        width = self._uniform(0.06, 0.3, batch, 1, 1)
        ellipses = [self._ellipse(batch, size) for _ in range(4)]
        present = self._chance(0.6, batch, 4)
        for k in range(2):
            large, middle, small = (pair[k] for pair in fields)
            partition = (large + bias).argmax(1)
            fine = (middle + bias).argmax(1)
            nested = ((large[:, 0] / cuts).round() + 4).clamp(0, 8).long()
            ids = torch.where(kind < 0.3, partition, torch.where(kind < 0.55, nested, fine))
            ids = torch.where((kind > 0.8) & (middle[:, 1].abs() < width), 9, ids)  # sheets
            ids = torch.where((kind > 0.7) & (small[:, 0] > 1.1), 10, ids)  # blobs
            body = large[:, 1] + 1.5 - 2.2 * self._from_centre(size)
            ids = torch.where((kind % 0.1 < 0.05) & (body < 0), 11, ids)  # surroundings
            for number, ellipse in enumerate(ellipses):
                bump = ellipse + 0.25 * middle[:, 2] * cuts + 0.1 * small[:, 1]
                inside = (bump < 1 - 0.3 * k * width) & present[:, number, None, None]
                shell = inside & (bump > 0.55) & (kind * (number + 3) % 1 < 0.4)
                ids = torch.where(inside, 12 + number, ids)
                ids = torch.where(shell, 16 + number, ids)
            slices.append(ids)
        ids, beside = slices
        at = (size / 2 + self._uniform(-0.3, 0.3, batch, 2) * size).long()
        label = ids[torch.arange(batch, device=self.device), at[:, 0], at[:, 1]]
        # half of the targets are the objects on top
        object_label = 12 + self._integers(4, batch)
        label = torch.where(
            self._chance(0.55, batch) & (ids == object_label[:, None, None]).any(2).any(1), object_label, label
        )
        member = torch.arange(20, device=self.device)[None] == label[:, None]
        with_shell = (label >= 12) & (label < 16) & self._chance(0.5, batch)
        member |= (torch.arange(20, device=self.device)[None] == (label + 4)[:, None]) & with_shell[:, None]
        union = self._integers(20, batch)[:, None] == torch.arange(20, device=self.device)[None]
        member |= union & self._chance(0.2, batch, 1)
        mean = self._uniform(10, 245, batch, 20)
        mean = torch.where(self._chance(0.35, batch, 1), 128 + (mean - 128) * self._uniform(0.15, 0.6, batch, 1), mean)
        mean[:, 11] = torch.where(self._chance(0.8, batch), self._uniform(0, 12, batch), mean[:, 11])
        spread = self._uniform(0, 22, batch, 20)
        paint = mean.gather(1, ids.flatten(1)).view_as(ids)
        image = paint + self._texture(batch, size) * spread.gather(1, ids.flatten(1)).view_as(ids)
        voxel = self._log_uniform(0.6, 2.5, batch)
        return Slices(self._blurred(image, 0.6 * voxel), self._chosen(member, ids), self._chosen(member, beside), voxel)

    def _from_centre(self, size: int) -> Tensor:
        line = torch.linspace(-1, 1, size, device=self.device)
        return (line[:, None] ** 2 + line[None] ** 2).sqrt()[None]

    def _ellipse(self, batch: int, size: int) -> Tensor:
        """Squared distance from an ellipse's centre, in its radii; (B, H, W)."""
        line = torch.linspace(-1, 1, size, device=self.device)
        centre = self._uniform(-0.6, 0.6, batch, 2)
        radius = self._log_uniform(0.06, 0.6, batch, 1) * self._log_uniform(0.6, 1.6, batch, 2)
        angle = self._uniform(0, 3.1416, batch, 1, 1)
        row = line[None, :, None] - centre[:, 0, None, None]
        column = line[None, None, :] - centre[:, 1, None, None]
        along, across = row * angle.cos() + column * angle.sin(), column * angle.cos() - row * angle.sin()
        return (along / radius[:, 0, None, None]) ** 2 + (across / radius[:, 1, None, None]) ** 2

    # Real CTs

    def _from_scans(self, batch: int, size: int) -> Slices:
        which = torch.arange(batch) % len(self.scans)  # every scan alike
        parts = [
            self._from_scan(scan, int((which == k).sum()), size)
            for k, scan in enumerate(self.scans)
            if (which == k).any()
        ]
        joined = [
            torch.cat([getattr(part, name) for part in parts]) for name in ("image", "target", "neighbour", "voxel")
        ]
        order = torch.randperm(batch, generator=self.random, device=self.device)
        return Slices(*(tensor[order] for tensor in joined))

    def _from_scan(self, scan: Scan, batch: int, size: int) -> Slices:
        shape = torch.tensor(scan.hounsfield.shape, device=self.device)
        anchor = scan.inside[self._integers(len(scan.inside), batch)].float() * scan.spacing  # mm, Z Y X
        extent = self._log_uniform(45, 330, batch)
        pixel = extent / size
        degrees = 8 if float(self._uniform(0, 1, 1)) < 0.6 else 40
        axes = self._axes(batch, degrees=degrees) * self._uniform(0.9, 1.12, batch, 3, 1)
        beside = self._uniform(1, 5, batch) * self._sign(batch)
        bend = self._noise(batch, 3, size, (3, 6)) * (self._uniform(0, 0.02, batch) * extent)[:, None, None, None]
        jitter = self._uniform(-0.22, 0.22, batch, 2, 1) * extent[:, None, None] * axes[:, 1:]
        point = self._grid(size, pixel, axes) + (anchor + jitter.sum(1))[:, None, None] + bend.permute(0, 2, 3, 1)
        both = torch.stack([point, point + (beside[:, None] * axes[:, 0])[:, None, None]], 1)  # (B, 2, H, W, 3)
        voxel = both / scan.spacing
        unit = (2 * voxel / (shape - 1) - 1).flip(-1)  # x, y, z
        flat = unit.view(1, batch * 2, size, size, 3)
        hounsfield = (
            F.grid_sample(
                (scan.hounsfield.float() + 1000)[None, None],
                flat,
                mode="bilinear",
                padding_mode="zeros",
                align_corners=True,
            ).view(batch, 2, size, size)
            - 1000
        )
        nearest = voxel.round().long()
        outside = ((nearest < 0) | (nearest >= shape)).any(-1)
        z, y, x = nearest.clamp_min(0).minimum(shape - 1).unbind(-1)
        scale = self._integers(len(scan.regions), batch)
        at = (anchor / scan.spacing).round().long()
        masks = torch.zeros((batch, 2, size, size), dtype=torch.bool, device=self.device)
        for k, region in enumerate(scan.regions):
            chosen = scale == k
            label = region[tuple(at[chosen].minimum(shape - 1).unbind(1))]
            # often a second region, which touches or not
            spot = self._integers(size * size, int(chosen.sum()))
            labels = region[z[chosen], y[chosen], x[chosen]]
            other = labels[:, 0].flatten(1).gather(1, spot[:, None])[:, 0]
            other = torch.where(self._chance(0.15, len(other)), other, label)
            masks[chosen] = (labels == label[:, None, None, None]) | (labels == other[:, None, None, None])
        masks &= ~outside
        # bands of intensity, as a threshold gives them: of the part that holds the anchor
        smooth = torch.stack([gaussian(hounsfield[:, k], 1.2) for k in range(2)], 1)
        level = scan.hounsfield[tuple(at.minimum(shape - 1).unbind(1))].float()[:, None, None, None]
        half = self._log_uniform(35, 400, batch)[:, None, None, None]
        band = (smooth - level).abs() < half
        kinds = torch.stack(
            [
                smooth > 180,
                (smooth < -450) & (smooth > -990),
                (smooth > -190) & (smooth < -30),
                smooth > -250,
                (smooth > -10) & (smooth < 150),
                smooth < -300,
            ],
            1,
        )
        holds = torch.stack(
            [
                level > 180,
                (level < -450),
                (level > -190) & (level < -30),
                level > -250,
                (level > -10) & (level < 150),
                level < -300,
            ],
            1,
        ).flatten(1)
        draw = holds * self._uniform(0.01, 1, batch, holds.shape[1])
        named = kinds[torch.arange(batch, device=self.device), draw.argmax(1)]
        mode = self._uniform(0, 1, batch)[:, None, None, None]
        masks = torch.where(mode < 0.13, band, torch.where(mode < 0.27, named, masks))
        sigma = 0.5 * scan.spacing.mean() / pixel
        return Slices(
            hounsfield[:, 0],
            self._smooth_mask(masks[:, 0], sigma),
            self._smooth_mask(masks[:, 1], sigma),
            scan.spacing.mean() / pixel,
        )

    # Common parts

    def _with_lesions(self, slices: Slices) -> Slices:
        """In some samples a new structure is blended in, brighter or darker than what it lies in, and is the target."""
        image, batch, size = slices.image, len(slices.image), slices.image.shape[1]
        chosen = self._chance(0.17, batch)
        line = torch.linspace(-1, 1, size, device=self.device)
        radius = self._log_uniform(0.05, 0.45, batch, 1, 1)
        at = self._uniform(-0.45, 0.45, batch, 2)
        angle, ratio = self._uniform(0, 3.1416, batch, 1, 1), self._log_uniform(0.6, 1.7, batch, 1, 1)
        row, column = line[None, :, None] - at[:, 0, None, None], line[None, None, :] - at[:, 1, None, None]
        along = (row * angle.cos() + column * angle.sin()) * ratio
        across = (column * angle.cos() - row * angle.sin()) / ratio
        distance = (along**2 + across**2).sqrt() / radius
        rough = self._noise(batch, 1, size, (5, 14))[:, 0] * self._uniform(0, 0.3, batch, 1, 1)
        field = distance + rough * (radius * 3).clamp_max(1)
        mask = field < 1
        beside = field < 1 - self._uniform(-0.15, 0.25, batch, 1, 1)
        softness = self._log_uniform(0.02, 0.25, batch, 1, 1)
        share = torch.sigmoid((1 - field) / softness)
        local = (image * mask).sum((1, 2)) / mask.sum((1, 2)).clamp_min(1)
        low, high = _quantiles(image, (0.05, 0.95))
        change = self._log_uniform(0.08, 0.7, batch) * self._sign(batch) * (high - low)
        texture = self._texture(batch, size) * (self._uniform(0, 0.12, batch) * (high - low))[:, None, None]
        flat = self._uniform(0.3, 1, batch)[:, None, None]
        painted = image * (1 - flat) + local[:, None, None] * flat + change[:, None, None] + texture
        chosen = chosen[:, None, None]
        return Slices(
            torch.where(chosen, image + share * (painted - image), image),
            torch.where(chosen, mask, slices.target),
            torch.where(chosen, beside, slices.neighbour),
            slices.voxel,
        )

    def _windowed(self, image: Tensor, target: Tensor) -> Tensor:
        """To about [0, 1], not clipped yet: between percentiles, or a window around the target."""
        batch = len(image)
        low, high = _quantiles(image, (0.005, 0.995))
        spread = (high - low).clamp_min(1)
        start = low + self._uniform(-0.15, 0.05, batch) * spread
        width = spread * self._uniform(0.85, 1.6, batch)
        inside = target.float()
        level = (image * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
        near = spread * self._log_uniform(0.2, 0.9, batch)
        centred = level - near * self._uniform(0.2, 0.8, batch)
        chosen = self._chance(0.5, batch)
        start, width = torch.where(chosen, centred, start), torch.where(chosen, near, width)
        return (image - start[:, None, None]) / width[:, None, None]

    def _degraded(self, image: Tensor, voxel: Tensor) -> Tensor:
        batch, size = len(image), image.shape[1]
        shading = (
            self._noise(batch, 1, size, (2, 5))[:, 0]
            * (self._uniform(0, 0.25, batch) * self._chance(0.6, batch))[:, None, None]
        )
        image = image * torch.exp(shading)
        sigma = self._uniform(0, 1.0, batch) * self._chance(0.5, batch)
        image = self._blurred(image, sigma)
        amount = self._log_uniform(0.004, 0.09, batch) * self._chance(0.85, batch)
        grain = self._normal(batch, size, size)
        coarse_grain = (
            self._blurred(grain, 0.45 * voxel.clamp(0.7, 4)) * voxel.clamp(0.7, 4)[:, None, None]
        )  # of voxels
        image = (
            image + torch.where(self._chance(0.6, batch)[:, None, None], coarse_grain, grain) * amount[:, None, None]
        )
        image = self._coarser(image)
        image = image.clamp(0, 1)
        gamma = torch.exp(0.35 * self._normal(batch, 1, 1))
        image = image**gamma
        inverted = self._chance(0.15, batch)[:, None, None]
        return torch.where(inverted, 1 - image, image)

    def _coarser(self, image: Tensor) -> Tensor:
        """Some images as if resampled from larger voxels, along one axis or both."""
        batch, size = len(image), image.shape[1]
        both, either = self._chance(0.2, batch), self._chance(0.2, batch)
        first = self._chance(0.5, batch)
        factor = self._log_uniform(1.2, 4.5, batch)
        for axis, chosen in ((1, both | (either & first)), (2, both | (either & ~first))):
            step = torch.where(chosen, factor, 1.0)[:, None]
            soft = _blur_axis(image, (0.4 * (step[:, 0] - 1)).clamp_min(0.01), axis)
            position = torch.arange(size, device=self.device)[None] / step
            low = position.floor()
            share = position - low
            index_low = (low * step).round().long().clamp(0, size - 1)
            index_high = ((low + 1) * step).round().long().clamp(0, size - 1)
            shape = (batch, size, 1) if axis == 1 else (batch, 1, size)
            index_low, index_high = index_low.view(shape).expand_as(image), index_high.view(shape).expand_as(image)
            share = share.view(shape)
            result = soft.gather(axis, index_low) * (1 - share) + soft.gather(axis, index_high) * share
            image = torch.where(chosen[:, None, None], result, image)
        return image

    def _bent(self, mask: Tensor) -> Tensor:
        """Masks moved and bent by a few pixels."""
        batch, size = len(mask), mask.shape[1]
        amount = self._uniform(0, 3.0, batch)[:, None, None, None]
        offset = (self._noise(batch, 2, size, (3, 7)) + 0.5 * self._normal(batch, 2, 1, 1)) * amount / size * 2
        line = torch.linspace(-1, 1, size, device=self.device)
        grid = torch.stack([line[None, :].expand(size, size), line[:, None].expand(size, size)], -1)
        grid = grid[None] + offset.permute(0, 2, 3, 1)
        return F.grid_sample(mask[:, None].float(), grid, mode="nearest", align_corners=True)[:, 0] > 0.5

    def _smooth_mask(self, mask: Tensor, sigma: Tensor) -> Tensor:
        return self._blurred(mask.float(), sigma) > 0.5

    @staticmethod
    def _blurred(image: Tensor, sigma: Tensor) -> Tensor:
        return _blur_axis(_blur_axis(image, sigma, 1), sigma, 2)

    def _texture(self, batch: int, size: int) -> Tensor:
        """Noise of about unit variance: grains of random size, some stripes; (B, H, W)."""
        grain = self._blurred(self._normal(batch, size, size), self._uniform(0.2, 3.5, batch))
        grain = grain / grain.flatten(1).std(1)[:, None, None].clamp_min(1e-3)
        fine = self._normal(batch, size, size)
        clouds = self._noise(batch, 1, size, (8, 24))[:, 0]
        share = self._uniform(0, 1, 3, batch)[:, :, None, None]
        total = share[0] * grain + share[1] * fine + share[2] * clouds
        return total / share.square().sum(0).sqrt().clamp_min(0.2)

    def _grid(self, size: int, pixel: Tensor, axes: Tensor) -> Tensor:
        """Points (B, H, W, 3), mm from the centre."""
        line = torch.arange(size, device=self.device) - (size - 1) / 2
        row, column = pixel[:, None] * axes[:, 1], pixel[:, None] * axes[:, 2]  # (B, 3)
        return line[None, :, None, None] * row[:, None, None] + line[None, None, :, None] * column[:, None, None]

    def _axes(self, batch: int, degrees: float) -> Tensor:
        """Slice, row and column directions (B, 3, 3): one of the three planes, any mirroring, then turned."""
        orders = torch.tensor([[0, 1, 2], [1, 0, 2], [2, 0, 1], [0, 2, 1], [1, 2, 0], [2, 1, 0]], device=self.device)
        axes = torch.eye(3, device=self.device)[orders[self._integers(6, batch)]]
        axes = axes * self._sign(batch * 3).view(batch, 3, 1)
        angle = torch.deg2rad(self._uniform(-degrees, degrees, 3, batch))
        zero, unit = torch.zeros(batch, device=self.device), torch.ones(batch, device=self.device)
        c, s = angle.cos(), angle.sin()
        x = torch.stack([unit, zero, zero, zero, c[0], -s[0], zero, s[0], c[0]], 1).view(-1, 3, 3)
        y = torch.stack([c[1], zero, s[1], zero, unit, zero, -s[1], zero, c[1]], 1).view(-1, 3, 3)
        z = torch.stack([c[2], -s[2], zero, s[2], c[2], zero, zero, zero, unit], 1).view(-1, 3, 3)
        return axes @ x @ y @ z

    def _noise(self, batch: int, channels: int, size: int, knots: tuple[int, int]) -> Tensor:
        """Smooth noise (B, channels, H, W): two coarsenesses among the samples."""
        counts = torch.randint(knots[0], knots[1] + 1, (2,), generator=self.random, device=self.device).tolist()
        halves = []
        for n, part in zip(counts, (batch // 2, batch - batch // 2), strict=True):
            coarse = self._normal(part, channels, n, n)
            halves.append(F.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=True))
        return torch.cat(halves)

    def _log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low * (high / low) ** self._uniform(0, 1, *shape)

    def _sign(self, count: int) -> Tensor:
        return torch.where(self._chance(0.5, count), 1.0, -1.0)


def _anchors(heads: Heads, random: torch.Generator, count: int = 256) -> Tensor:
    """(N, L, count, 3) int16 voxels of every label in every map; where it has none, and for label 0, of the head."""
    result = torch.zeros((len(heads.maps), len(heads.ids), count, 3), dtype=torch.int16, device=random.device)
    for n, labels in enumerate(heads.maps):
        inside = labels.nonzero()
        values = labels[tuple(inside.unbind(1))].long()
        order = torch.argsort(values, stable=True)
        counts = torch.bincount(values, minlength=len(heads.ids))
        starts = counts.cumsum(0) - counts
        pick = torch.rand((len(heads.ids), count), generator=random, device=random.device)
        anywhere = (pick * len(inside)).long()
        index = order[(starts[:, None] + (pick * counts[:, None]).long()).clamp_max(len(inside) - 1)]
        index = torch.where(counts[:, None] > 0, index, anywhere)
        result[n] = inside[index].to(torch.int16)
    return result


def _part_nearest_centre(mask: Tensor) -> Tensor:
    """Give the connected part of each mask (B, H, W) around the pixel that is deep inside and near the centre."""
    batch, size = len(mask), mask.shape[1]
    line = torch.linspace(-1, 1, size, device=mask.device)
    near = 1.5 - (line[:, None] ** 2 + line[None] ** 2).sqrt()
    score = (inner_distance(mask, 16) + 0.5) * near.clamp_min(0.05) ** 2 * mask
    index = score.flatten(1).argmax(1)
    part = torch.zeros((batch, size * size), dtype=torch.bool, device=mask.device)
    part = part.scatter_(1, index[:, None], True).view_as(mask) & mask
    return grown_within(part, mask)


def grown_within(part: Tensor, mask: Tensor) -> Tensor:
    """Find all of `mask` (B, H, W) that is connected with `part`, 8 neighbours."""
    allowed, grown = mask[:, None].float(), part[:, None].float()
    for _ in range(12):
        before = grown
        for _ in range(mask.shape[1] // 4):
            grown = F.max_pool2d(grown, 3, 1, 1) * allowed
        if torch.equal(before, grown):
            break
    return grown[:, 0] > 0


def _blur_axis(image: Tensor, sigma: Tensor, axis: int) -> Tensor:
    """Gaussian blur of (B, H, W) along an axis with a standard deviation per image, (B,) pixels up to 4."""
    radius = 9
    offset = torch.arange(-radius, radius + 1, device=image.device)
    kernel = torch.exp(-0.5 * (offset / sigma.clamp(0.05, 4)[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True))[:, None]  # (B, 1, 19)
    shape = kernel[..., None] if axis == 1 else kernel[:, :, None]
    padding = (0, 0, radius, radius) if axis == 1 else (radius, radius, 0, 0)
    padded = F.pad(image[None], padding, mode="replicate")
    return F.conv2d(padded, shape, groups=len(image))[0]


def _quantiles(image: Tensor, at: tuple[float, float]) -> tuple[Tensor, Tensor]:
    few = image[:, ::2, ::2].flatten(1)
    low, high = torch.quantile(few, torch.tensor(at, device=image.device), dim=1)
    return low, high
