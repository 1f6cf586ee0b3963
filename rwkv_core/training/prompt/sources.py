"""Packed sources of the promptable network's samples."""

from pathlib import Path

import numpy as np
import torch

from rwkv_core.training.prompt.regions import region_scales
from rwkv_core.training.prompt.samples import Heads, Scan

REGION_SIZES = (250, 1500, 8000, 40000)
"""Least voxels of a region, per scale."""


def heads_from(file: Path, device: torch.device, count: int, held_out: int) -> tuple[Heads, Heads]:
    """The first `count` and the last `held_out` label maps of a file with `maps`, `ids`, `tissue`, `tissue_t1`."""
    with np.load(file) as packed:
        tensors = {name: torch.from_numpy(packed[name]) for name in ("maps", "ids", "tissue", "tissue_t1")}
    ids, tissue, coarse = (tensors[name].long().to(device) for name in ("ids", "tissue", "tissue_t1"))
    first, last = tensors["maps"][:count], tensors["maps"][-held_out:]
    return Heads(first.to(device), ids, tissue, coarse), Heads(last.to(device), ids, tissue, coarse)


def scans_from(
    file: Path, device: torch.device, names: tuple[str, ...] = ("abdomen", "chest", "neck", "head")
) -> list[Scan]:
    """CTs of a packed file: companded to 8 bits, differences along X."""
    with np.load(file) as packed:
        knots, levels = packed["knots"].astype(np.float32), packed["levels"].astype(np.float32)
        table = torch.from_numpy(np.interp(np.arange(256), levels, knots).astype(np.float32)).to(device)
        return [
            _scan(
                torch.from_numpy(packed[name]).to(device), torch.from_numpy(packed[f"{name}_spacing"]).to(device), table
            )
            for name in names
        ]


def _scan(differences: torch.Tensor, spacing: torch.Tensor, table: torch.Tensor) -> Scan:
    level = differences.long().cumsum(2) % 256  # 8-bit differences wrap
    regions = region_scales(level.float(), REGION_SIZES, tolerance=22.0)
    body = (level > 25).nonzero()
    bone = (level > 175).nonzero()
    air = ((level > 3) & (level <= 40)).nonzero()
    few = [
        part[torch.randperm(len(part), device=part.device)[:count]]
        for part, count in ((body, 60000), (bone, 12000), (air, 6000))
    ]
    hounsfield = table[level]
    return Scan(hounsfield.half(), spacing, regions, torch.cat(few))
