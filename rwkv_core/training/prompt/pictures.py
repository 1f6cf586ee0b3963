"""Sheets of samples, to be looked at before a training."""

import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rwkv_core.training.prompt.samples import Sample


def sheet(sample: Sample, maps: Tensor, file: Path, columns: int = 8, answer: Tensor | None = None) -> None:
    """Write a PNG: each sample's image beside target (green), neighbour (blue), prompts (+ red, - yellow), answer."""
    image = maps[:, 0]
    plain = torch.stack([image] * 3, -1)
    marked = plain.clone()
    target, neighbour = _border(sample.target), _border(sample.neighbour)
    marked[neighbour] = torch.tensor([0.2, 0.4, 1.0], device=image.device)
    marked[target] = torch.tensor([0.0, 0.9, 0.0], device=image.device)
    if answer is not None:
        marked[_border(answer > 0.5)] = torch.tensor([1.0, 0.0, 1.0], device=image.device)
    marked[_border(maps[:, 5] > 0)] = torch.tensor([0.0, 0.9, 0.9], device=image.device)
    marked[maps[:, 3] > 0] = torch.tensor([1.0, 0.0, 0.0], device=image.device)
    marked[maps[:, 4] > 0] = torch.tensor([1.0, 0.9, 0.0], device=image.device)
    flood = torch.stack([maps[:, 8], maps[:, 1], maps[:, 10]], -1)
    cells = F.pad(torch.cat([plain, marked, flood], 2), (0, 0, 2, 2, 2, 2))
    rows = -(-len(cells) // columns)
    empty = torch.zeros((rows * columns - len(cells), *cells.shape[1:]), device=cells.device)
    cells = torch.cat([cells, empty]).unflatten(0, (rows, columns)).permute(0, 2, 1, 3, 4).flatten(2, 3).flatten(0, 1)
    _write_png((cells.clamp(0, 1) * 255).byte().cpu().numpy(), file)


def _border(mask: Tensor) -> Tensor:
    inner = -F.max_pool2d(-mask[:, None].float(), 3, 1, 1)[:, 0] > 0
    return mask & ~inner


def _write_png(picture: np.ndarray, file: Path) -> None:
    height, width, _ = picture.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], 1)
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows.tobytes(), 6)),
        (b"IEND", b""),
    )
    with file.open("wb") as out:
        out.write(b"\x89PNG\r\n\x1a\n")
        for name, data in chunks:
            out.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))
