"""Over-segmentation of a volume: regions of like voxels, at several least sizes, without labels.

Works on any device, without a library: watershed basins (every voxel follows its neighbour of lowest gradient), then
regions merge with the neighbour whose mean is nearest (Boruvka's rounds, as in Felzenszwalb and Huttenlocher,
IJCV 2004) until none is below a size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def region_scales(volume: Tensor, sizes: tuple[int, ...], tolerance: float) -> list[Tensor]:
    """Number the regions (Z, Y, X) int32 of a volume (Z, Y, X) float32, per least size in voxels, ascending.

    Regions merge only where their means differ by less than `tolerance`, very small ones always.
    """
    smooth = F.avg_pool3d(F.pad(volume[None, None], (1,) * 6, mode="replicate"), 3, 1)[0, 0]
    region = _basins(smooth)
    a, b = _edges(region.view(volume.shape))
    result = []
    for size in sizes:
        for _ in range(8):
            region, a, b, merged = _merge(region, volume.flatten(), a, b, size, tolerance)
            if not merged:
                break
        result.append(region.view(volume.shape).int())
    return result


def _basins(smooth: Tensor) -> Tensor:
    """Flat region numbers 0 .. R-1: every voxel follows its 6-neighbour of lowest gradient, down to a minimum."""
    gradient = torch.stack(torch.gradient(smooth)).square().sum(0).sqrt()
    shape = gradient.shape
    number = torch.arange(gradient.numel(), device=gradient.device).view(shape)
    gradient = gradient + number % 1021 * 1e-6  # no ties
    best, target = gradient.clone(), number.clone()
    for axis in range(3):
        for step in (1, -1):
            neighbour = gradient.roll(step, axis)
            edge = [slice(None)] * 3
            edge[axis] = slice(0, 1) if step == 1 else slice(-1, None)
            neighbour[tuple(edge)] = float("inf")
            lower = neighbour < best
            best = torch.where(lower, neighbour, best)
            target = torch.where(lower, number.roll(step, axis), target)
    return _renumbered(_roots(target.flatten()))


def _edges(region: Tensor) -> tuple[Tensor, Tensor]:
    pairs = []
    for axis in range(3):
        low = region.narrow(axis, 0, region.shape[axis] - 1).flatten()
        high = region.narrow(axis, 1, region.shape[axis] - 1).flatten()
        different = low != high
        pairs.append(torch.stack([low[different], high[different]]))
    both = torch.cat(pairs, 1)
    return _unique(both[0], both[1])


def _unique(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    count = int(torch.maximum(a.max(), b.max())) + 1 if len(a) else 1
    key = torch.unique(torch.minimum(a, b) * count + torch.maximum(a, b))
    return key // count, key % count


def _merge(
    region: Tensor, value: Tensor, a: Tensor, b: Tensor, size: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor, bool]:
    count = int(region.max()) + 1
    voxels = torch.bincount(region, minlength=count).float()
    mean = torch.zeros(count, device=value.device).index_add_(0, region, value) / voxels
    weight = (mean[a] - mean[b]).abs() + ((a * 31 + b * 17) % 1009).float() * 1e-5
    source, target, weight = torch.cat([a, b]), torch.cat([b, a]), torch.cat([weight, weight])
    lowest = torch.full((count,), float("inf"), device=value.device).scatter_reduce_(0, source, weight, "amin")
    chosen = (weight <= lowest[source]) & (voxels[source] < size)
    chosen &= (weight < tolerance) | (voxels[source] < 24)
    if not chosen.any():
        return region, a, b, False
    parent = torch.arange(count, device=value.device)
    parent[source[chosen]] = target[chosen]
    mutual = (parent[parent] == torch.arange(count, device=value.device)) & (
        torch.arange(count, device=value.device) < parent
    )
    parent = torch.where(mutual, torch.arange(count, device=value.device), parent)
    root = _renumbered(_roots(parent))
    a, b = root[a], root[b]
    different = a != b
    a, b = _unique(a[different], b[different])
    return root[region], a, b, True


def _roots(parent: Tensor) -> Tensor:
    for _ in range(24):
        further = parent[parent]
        if torch.equal(further, parent):
            break
        parent = further
    return parent


def _renumbered(label: Tensor) -> Tensor:
    used = torch.zeros(int(label.max()) + 1, dtype=torch.long, device=label.device)
    used[label] = 1
    return (used.cumsum(0) - 1)[label]
