"""Where the promptable network's samples come from: folders of label maps, and of CTs without labels."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rwkv_core.errors import InputError
from rwkv_core.training.prompt.over_segmentation import region_scales
from rwkv_core.training.prompt.samples import Heads, Scan
from rwkv_core.training.synthesis import read_label_maps
from rwkv_core.volume import Volume, read_volume, slice_stack

REGION_SIZES = (250, 1500, 8000, 40000)
"""Least voxels of a region, per scale."""
_HOUNSFIELD = np.array([-1000, -950, -700, -200, 300, 700, 1800], np.float32)
_LEVELS = np.array([0, 3, 40, 90, 190, 225, 255], np.float32)
"""Levels of grey for these Hounsfield units: 5 HU apart in soft tissue, more elsewhere."""
_TOLERANCE = 22.0
_BODY, _BONE, _AIR = 25, 175, 40  # levels
_ANCHORS = ((60000, _BODY, 256), (12000, _BONE, 256), (6000, 3, _AIR + 1))
"""How many voxels structures are looked for at, from and below which level."""


def read_heads(folder: Path, device: torch.device, held_out: int) -> tuple[Heads, Heads]:
    """Label maps of a folder as SynthSeg publishes them: all but the last ones, and the last ones.

    Raises:
        FileNotFoundError, ValueError: as `read_label_maps`.
        InputError: when there are not more than `held_out` of them.
    """
    source = read_label_maps(folder)
    if len(source.maps) <= held_out:
        raise InputError(f"{folder} holds {len(source.maps)} label maps; more than {held_out} are needed.")
    groups = (source.ids.long().to(device), source.tissue.long().to(device), source.tissue_t1.long().to(device))
    first, last = source.maps[:-held_out], source.maps[-held_out:]
    return Heads(first.to(device), *groups), Heads(last.to(device), *groups)


def read_scans(folder: Path, device: torch.device) -> list[Scan]:
    """Give the CTs (.nii.gz, in Hounsfield units) of a folder, over-segmented.

    Raises:
        InputError: when there is none, or a file cannot be read.
    """
    files = sorted(folder.glob("*.nii.gz"))
    if not files:
        raise InputError(f"There is no .nii.gz in {folder}.", hint="It must hold CTs in Hounsfield units.")
    return [scan_of(read_volume(file), device) for file in files]


def scan_of(volume: Volume, device: torch.device) -> Scan:
    """Give a CT as the sample generator takes it."""
    stack = slice_stack(volume.ijk_to_ras, volume.array.shape, "SAR")
    voxels = np.ascontiguousarray(stack.to_stack(volume.array), np.float32)
    level = torch.from_numpy(np.rint(np.interp(voxels, _HOUNSFIELD, _LEVELS)).astype(np.uint8)).long().to(device)
    table = torch.from_numpy(np.interp(np.arange(256), _LEVELS, _HOUNSFIELD).astype(np.float32)).to(device)
    anchors = [_some(level, low, high, count) for count, low, high in _ANCHORS]
    return Scan(
        hounsfield=table[level].half(),
        spacing=torch.tensor(stack.spacing, dtype=torch.float32, device=device),
        regions=region_scales(level.float(), REGION_SIZES, _TOLERANCE),
        inside=torch.cat(anchors),
    )


def _some(level: Tensor, low: int, high: int, count: int) -> Tensor:
    """(N, 3) voxels drawn from those above `low` and below `high`, `count` at most."""
    found = ((level > low) & (level < high)).nonzero()
    return found[torch.randperm(len(found), device=level.device)[:count]]
