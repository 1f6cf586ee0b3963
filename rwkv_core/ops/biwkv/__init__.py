"""BiWKV: two-sided, constant-decay linear attention (Vision-RWKV, Duan et al. 2024, equation 5; RWKV-UNet, equation 8).

For token t of T and one channel with decay w and bonus u::

             sum_{i != t} exp(-(|t - i| - 1) w + k_i) v_i  +  exp(u + k_t) v_t
    wkv_t = -------------------------------------------------------------------
             sum_{i != t} exp(-(|t - i| - 1) w + k_i)      +  exp(u + k_t)

One file per way of computing it:

- ``reference``: the definition, T x T, float64. Slow; everything else is held against it.
- ``separable``: two small Toeplitz products per channel, no loop over tokens, no T x T matrix. The default.
- ``logspace``: cumulative log-sum-exp in float64, for keys or decays whose range float32 cannot hold.
- ``cuda``: a scan on NVIDIA GPUs. The kernels are in ``wkv.cu``; ``scan_plan`` and ``scan`` cut the work and launch
  them, ``nvrtc`` and ``ninja_build`` compile them at first use, ``gpu_driver`` loads them.

`bi_wkv_ordered` is the same over the voxels of a volume, in an order of one's choice.

"auto" takes ``cuda`` on a GPU that can run it, for any range. Elsewhere it takes ``separable``, or ``logspace`` where
float32 does not hold the range.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rwkv_core.ops.biwkv.cuda import bi_wkv_cuda, why_not
from rwkv_core.ops.biwkv.logspace import bi_wkv_logspace
from rwkv_core.ops.biwkv.reference import bi_wkv_reference
from rwkv_core.ops.biwkv.scan_plan import order_pays
from rwkv_core.ops.biwkv.separable import bi_wkv_separable, fits_float32

BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "reference": bi_wkv_reference,
    "logspace": bi_wkv_logspace,
    "separable": bi_wkv_separable,
    "cuda": bi_wkv_cuda,
}
"""What `bi_wkv` takes as `backend`, besides "auto"."""


def bi_wkv(decay: Tensor, first: Tensor, key: Tensor, value: Tensor, backend: str = "auto") -> Tensor:
    """Compute the two-sided weighted average of `value` over the tokens, per channel.

    Args:
        decay: (C,), w above: loss of log-weight per token of distance, of either sign.
        first: (C,), u above: log-weight bonus of the token itself.
        key: (B, T, C) log-weights, any range.
        value: (B, T, C).
        backend: "auto" or a name in `BACKENDS`.

    Returns:
        (B, T, C) in the dtype of `value`. Computed in float32 or better, also under autocast; differentiable in
        all four inputs.

    Raises:
        ValueError: for shapes that do not belong together, an unknown backend, or "cuda" with tensors elsewhere.
        DeviceError: when "cuda" is asked for by name and the GPU or its software cannot run it.
    """
    _check_shapes(decay, first, key, value, ("B", "T", "C"))
    if backend == "auto":
        backend = _choose(decay, first, key, value)
    if backend not in BACKENDS:
        raise ValueError(f"unknown BiWKV backend {backend!r}; choose from {', '.join(BACKENDS)}")
    if key.numel() == 0:
        return value * key  # keeps shape, dtype and the graph of an empty batch
    return BACKENDS[backend](decay, first, key, value)


def bi_wkv_ordered(decay: Tensor, first: Tensor, key: Tensor, value: Tensor, order: Sequence[int]) -> Tensor:
    """Compute `bi_wkv` over the voxels of a volume, taken in an order of its axes, with the backend "auto".

    On a GPU, contiguous keys and values are taken in that order where they lie, if that pays (`order_pays`); elsewhere
    they are copied in that order first.

    Args:
        decay: (C,), as in `bi_wkv`; likewise `first`.
        key: (B, D, H, W, C) log-weights, any range; likewise `value`.
        order: axes of `key`, slowest first: a permutation of 1, 2 and 3. The last one is the fastest: its neighbours
            follow each other.

    Returns:
        (B, D, H, W, C) in the dtype of `value`: every voxel in its own place. Differentiable as `bi_wkv`.

    Raises:
        ValueError: for shapes that do not belong together, or another order.
    """
    _check_shapes(decay, first, key, value, ("B", "D", "H", "W", "C"))
    if sorted(order) != [1, 2, 3]:
        raise ValueError(f"order must be a permutation of 1, 2 and 3; got {tuple(order)}")
    axes = [0, *order, 4]
    if axes != sorted(axes) and _takes_in_place(decay, first, key, value, order):
        return bi_wkv_cuda(decay, first, key, value, order)
    key, value = key.permute(axes), value.permute(axes)
    wkv = bi_wkv(decay, first, key.flatten(1, 3), value.flatten(1, 3))
    return wkv.unflatten(1, key.shape[1:4]).permute([axes.index(axis) for axis in range(5)])


def _check_shapes(decay: Tensor, first: Tensor, key: Tensor, value: Tensor, axes: tuple[str, ...]) -> None:
    if key.ndim != len(axes) or key.shape != value.shape:
        raise ValueError(
            f"key and value must both be ({', '.join(axes)}); got {tuple(key.shape)} and {tuple(value.shape)}"
        )
    channels = key.shape[-1]
    if decay.shape != (channels,) or first.shape != (channels,):
        raise ValueError(f"decay and first must be ({channels},); got {tuple(decay.shape)} and {tuple(first.shape)}")


def _takes_in_place(decay: Tensor, first: Tensor, key: Tensor, value: Tensor, order: Sequence[int]) -> bool:
    if not _for_kernel(key) or not key.is_contiguous() or not value.is_contiguous():
        return False
    scalar = torch.promote_types(key.dtype, value.dtype)
    return order_pays(key.shape[-1], scalar) and not why_not(decay, first, key, value, order)


def _choose(decay: Tensor, first: Tensor, key: Tensor, value: Tensor) -> str:
    if _for_kernel(key) and not why_not(decay, first, key, value):
        return "cuda"
    return "separable" if fits_float32(decay, first, key) else "logspace"


def _for_kernel(key: Tensor) -> bool:
    return key.is_cuda and key.numel() > 0 and not torch.jit.is_tracing()  # type: ignore[attr-defined]
