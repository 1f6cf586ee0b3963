"""BiWKV over the pixels of a map (B, C, H, W), for inference: by weights made once per size, or the GPU's kernels."""

import torch
from torch import Tensor, nn

from rwkv_core.ops import bi_wkv

SAFE_EXPONENT = 60.0
"""Largest logarithm of a BiWKV weight, relative to the heaviest token, that float32 holds with room for sums."""


class RowColumnWKV(nn.Module):
    """BiWKV over the pixels in row-major order, with factors that are made once per size.

    The algebra is that of `rwkv_core.ops.biwkv.separable`, with the image's own rows.

    Args:
        decay: (C,), over the whole sequence: `spatial_decay` of the published network.
        first: (C,), likewise.

    Raises:
        ValueError: when float32 cannot hold the weights.
    """

    def __init__(self, decay: Tensor, first: Tensor):
        super().__init__()
        self.decay, self.first = decay.detach().double().cpu(), first.detach().double().cpu()
        if max(-float(self.decay.min()), float(self.first.max())) > SAFE_EXPONENT:
            raise ValueError("the spatial decays of this network exceed the range of float32")
        self._factors: dict[tuple[int, int, torch.device], tuple[Tensor, ...]] = {}

    def factors(self, height: int, width: int, device: torch.device) -> tuple[Tensor, ...]:
        """Weights for one size, float32.

        Returns:
            within (C, W, W): from each column of a row to each column of the same row, the token itself included;
            from_right, from_left (C, W, 1): from each column to the end and the start of its row;
            above, below (C, H, H): to each row from the ends of the rows above, the starts of the rows below;
            to_right, to_left (C, 1, W): onward to each column from the start and the end of the row.
        """
        key = (height, width, device)
        if key not in self._factors:
            tokens = height * width
            step, first = -self.decay[:, None, None] / tokens, self.first[:, None, None] / tokens
            column, row = torch.arange(width).double(), torch.arange(height).double()
            distance = (column[:, None] - column).abs()
            within = torch.where(distance == 0, first, step * (distance - 1)).exp()
            along, back = torch.exp(step * column), torch.exp(step * (width - 1 - column))  # (C, 1, W)
            rows = row[:, None] - row
            above = torch.exp(step * width * (rows - 1).clamp_min(0)) * (rows > 0)
            transposed = [x.transpose(1, 2) for x in (back, along, above)]
            made = (within, transposed[0], transposed[1], above, transposed[2], along, back)
            self._factors[key] = tuple(x.float().contiguous().to(device) for x in made)
        return self._factors[key]

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) twice to the weighted averages (B, C, H, W), and the widest range of a channel's keys."""
        dtype = value.dtype
        key, value = key.float(), value.float()  # half precision holds no exponentials
        factors = self.factors(key.shape[2], key.shape[3], key.device)
        within, from_right, from_left, above, below, to_right, to_left = factors

        def spread(x: Tensor) -> Tensor:
            sums_above, sums_below = above @ (x @ from_right), below @ (x @ from_left)  # (B, C, H, 1)
            return x @ within + sums_above * to_right + sums_below * to_left

        key, value = key.contiguous(), value.contiguous()  # eager torch multiplies other layouts matrix by matrix
        highest = key.amax((2, 3), keepdim=True)
        key_range = (highest - key.amin((2, 3), keepdim=True)).amax()
        weight = torch.exp(key - highest)
        return (spread(weight * value) / spread(weight)).to(dtype), key_range


class ScanWKV(nn.Module):
    """BiWKV by the kernels of wkv.cu: for keys and decays of any range, in the maps' own type.

    Args:
        decay: (C,), as for `RowColumnWKV`; likewise `first`.
    """

    def __init__(self, decay: Tensor, first: Tensor):
        super().__init__()
        self.decay, self.first = decay.detach().float(), first.detach().float()  # also in a graph of half precision

    def forward(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) twice to the weighted averages (B, C, H, W), and zero: no range is too wide."""
        tokens = key.shape[2] * key.shape[3]
        keys, values = (x.permute(0, 2, 3, 1).flatten(1, 2) for x in (key, value))  # of channels-last maps, views
        decay, first = (x.to(key.device) / tokens for x in (self.decay, self.first))
        mixed = bi_wkv(decay, first, keys, values, backend="cuda").unflatten(1, key.shape[2:]).permute(0, 3, 1, 2)
        return mixed, torch.zeros((), device=key.device)
