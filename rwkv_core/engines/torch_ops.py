"""The inference graph in eager torch, in any precision, on any device."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from rwkv_core.engines.graph_ops import WKV, Layer, Weights
from rwkv_core.engines.grid_wkv import GridWKV
from rwkv_core.ops import bi_wkv


class TorchOps:
    """`Ops` and `ArrayOps` in torch.

    Args:
        device: of weights and maps.
        dtype: likewise.
        scan: BiWKV by the kernels of wkv.cu (`ScanWKV`), along rows and columns otherwise.
    """

    def __init__(self, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32, scan: bool = False):
        self._device, self._dtype, self._scan = torch.device(device), dtype, scan

    def conv(
        self, name: str, weight: Weights, bias: Weights | None = None, stride: int = 1, depthwise: bool = False
    ) -> Layer:
        out, _, *kernel = weight.shape
        flat = len(kernel) == 2
        kept = self._kept(weight).to(memory_format=torch.channels_last if flat else torch.channels_last_3d)
        offset = None if bias is None else self._kept(bias)
        groups = out if depthwise else 1
        padding = [size // 2 for size in kernel]
        convolve = F.conv2d if flat else F.conv3d
        return lambda x: convolve(x, kept, offset, stride, padding, 1, groups)

    def normalise(
        self, eps: float, weight: Weights | None = None, bias: Weights | None = None, centred: bool = False
    ) -> Layer:
        scale, shift = (None if value is None else self._kept(value) for value in (weight, bias))

        def layer(x: Tensor) -> Tensor:
            rows = x.movedim(1, -1)
            return F.layer_norm(rows, rows.shape[-1:], scale, shift, eps).movedim(-1, 1)

        return layer

    def group_normalise(self, groups: int, eps: float, weight: Weights, bias: Weights) -> Layer:
        scale, shift = self._kept(weight), self._kept(bias)
        return lambda x: F.group_norm(x, groups, scale, shift, eps)

    def scale(self, weight: Weights) -> Layer:
        factor = self._kept(weight)
        return lambda x: x * factor.view(-1, *[1] * (x.ndim - 2))

    def wkv(self, decay: Weights, first: Weights, order: Sequence[int]) -> WKV:
        if not self._scan:
            return GridWKV(decay, first, order, self)
        return ScanWKV(*(torch.from_numpy(value).float().to(self._device) for value in (decay, first)))

    def relu(self, x: Tensor) -> Tensor:
        return F.relu(x)

    def silu(self, x: Tensor) -> Tensor:
        return F.silu(x)

    def sigmoid(self, x: Tensor) -> Tensor:
        return torch.sigmoid(x)

    def mean(self, x: Tensor) -> Tensor:
        return x.mean(tuple(range(2, x.ndim)), keepdim=True)

    def join(self, maps: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(maps), 1)

    def thirds(self, x: Tensor) -> Sequence[Tensor]:
        return x.chunk(3, 1)

    def enlarge(self, x: Tensor, factor: int) -> Tensor:
        mode = "bilinear" if x.ndim == 4 else "trilinear"
        return F.interpolate(x, scale_factor=factor, mode=mode, align_corners=False)

    def middle(self, x: Tensor, factor: int) -> Tensor:
        edge = factor // 2 - 1
        inner = x[:, :, edge : x.shape[2] - edge, edge : x.shape[3] - edge]
        return F.avg_pool2d(inner, 2, factor)

    def largest(self, ranges: Sequence[Tensor]) -> Tensor:
        return torch.stack([key_range.amax() for key_range in ranges]).amax()

    def constant(self, value: Weights) -> Tensor:
        return torch.from_numpy(value).float().contiguous().to(self._device)

    def full(self, x: Tensor) -> Tensor:
        return x.float()  # half precision holds no exponentials

    def like(self, x: Tensor, other: Tensor) -> Tensor:
        return x.to(other.dtype)

    def shape(self, x: Tensor) -> tuple[int, ...]:
        return tuple(x.shape)

    def permute(self, x: Tensor, order: Sequence[int]) -> Tensor:
        return x.permute(*order)

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        return x.reshape(shape)

    def matmul(self, x: Tensor, y: Tensor) -> Tensor:
        return x @ y

    def exp(self, x: Tensor) -> Tensor:
        return torch.exp(x)

    def top(self, x: Tensor) -> Tensor:
        return x.amax(2, keepdim=True)

    def bottom(self, x: Tensor) -> Tensor:
        return x.amin(2, keepdim=True)

    def _kept(self, value: Weights) -> Tensor:
        return torch.from_numpy(value).to(self._device, self._dtype, copy=True)


class ScanWKV:
    """BiWKV by the kernels of wkv.cu: for keys and decays of any range, in the maps' own type.

    Args:
        decay: (C,) float32 on the GPU, over the whole sequence; likewise `first`.
    """

    def __init__(self, decay: Tensor, first: Tensor):
        self._decay, self._first = decay, first

    def __call__(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) twice to the weighted averages (B, C, H, W), and zero: no range is too wide."""
        tokens = key.shape[2] * key.shape[3]
        keys, values = (x.permute(0, 2, 3, 1).flatten(1, 2) for x in (key, value))  # of channels-last maps, views
        decay, first = self._decay / tokens, self._first / tokens
        mixed = bi_wkv(decay, first, keys, values, backend="cuda").unflatten(1, key.shape[2:]).permute(0, 3, 1, 2)
        return mixed, torch.zeros((), device=key.device)
