"""Launches of the kernels in wkv.cu: which, in which order, on which memory."""

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rwkv_core.ops.biwkv.scan_plan import BACKWARD, FORWARD, SCALARS, Build, Pass, Plan, SharedMemory, plan

Argument = Tensor | int | tuple[int, ...] | None
"""Of a kernel: a pointer (None is the null pointer), a 32-bit integer, or a struct of such integers."""


class Kernels(Protocol):
    """The kernels of one `Build` of wkv.cu."""

    def launch(self, name: str, grid: tuple[int, int], threads: int, shared: int, values: Sequence[Argument]) -> None:
        """Start kernel `name` on the current stream with `shared` bytes of dynamic shared memory."""


class Machine(Protocol):
    """Where the kernels run."""

    @property
    def memory(self) -> SharedMemory:
        """Shared memory of the GPU."""

    def kernels(self, build: Build) -> Kernels:
        """Compiled, from a cache or now."""


def forward(
    machine: Machine, decay: Tensor, first: Tensor, key: Tensor, value: Tensor, order: Sequence[int] | None = None
) -> Tensor:
    """Compute BiWKV of what is not empty; shapes as in `bi_wkv`, or `bi_wkv_ordered` with an order.

    Args:
        machine: of the tensors' device.
        decay: (C,), any floating type; likewise `first`.
        key: float32, float16 or bfloat16; likewise `value`. Where they differ, both are widened.
        order: None for tokens as they lie in memory.

    Returns:
        Of the shape and type of `value`.
    """
    decay, first, key, value, dtype = _prepared(decay, first, key, value)
    output = torch.empty_like(value)
    cut = plan(FORWARD, _tokens(key), machine.memory)
    sums = _sums(machine, decay, first, key, value, cut, order)
    _launch(machine, "biwkv_forward", FORWARD, cut, key, [decay, first, key, value, sums, output], [output], order)
    return output.to(dtype)


def backward(
    machine: Machine,
    decay: Tensor,
    first: Tensor,
    key: Tensor,
    value: Tensor,
    upstream: Tensor,
    order: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of decay, first, key and value, each in its type, for the output's, `upstream`."""
    types = [x.dtype for x in (decay, first, key, value)]
    decay, first, key, value, _ = _prepared(decay, first, key, value)
    upstream = upstream.to(key.dtype).contiguous()
    cut = plan(BACKWARD, _tokens(key), machine.memory)
    sums = _sums(machine, decay, first, key, value, cut, order)
    shared = [decay, first, key, value, upstream, sums]
    gradient_sums = None
    if sums is not None:
        gradient_sums = torch.empty_like(sums)
        _launch(machine, "biwkv_gradient_sums", BACKWARD, cut, key, [*shared, gradient_sums], [upstream], order)
    of_key, of_value = torch.empty_like(key), torch.empty_like(value)
    of_parameters = key.new_empty((len(key), cut.chunks, 2, key.shape[-1]), dtype=torch.float32)
    results = [of_key, of_value, of_parameters]
    aligned = [upstream, of_key, of_value]
    _launch(machine, "biwkv_backward", BACKWARD, cut, key, [*shared, gradient_sums, *results], aligned, order)
    # Two sums, not two halves of one sum: torch refuses a custom operator whose outputs share memory.
    of_decay, of_first = (of_parameters[:, :, parameter].sum((0, 1)) for parameter in (0, 1))
    return of_decay.to(types[0]), of_first.to(types[1]), of_key.to(types[2]), of_value.to(types[3])


def _prepared(
    decay: Tensor, first: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, torch.dtype]:
    """Give the arrays as the kernels take them, and the type of the answer."""
    common = torch.promote_types(key.dtype, value.dtype)
    if common not in SCALARS:
        raise ValueError(f"the kernels take float32, float16 and bfloat16, not {common}")
    return (
        decay.float().contiguous(),
        first.float().contiguous(),
        key.to(common).contiguous(),
        value.to(common).contiguous(),
        value.dtype,
    )


def _tokens(key: Tensor) -> int:
    return math.prod(key.shape[1:-1])


def _sums(
    machine: Machine,
    decay: Tensor,
    first: Tensor,
    key: Tensor,
    value: Tensor,
    cut: Plan,
    order: Sequence[int] | None,
) -> Tensor | None:
    """Compute what every chunk contributes to the others, (B, chunks, 2, 3, C); None where there is only one."""
    if cut.chunks == 1:
        return None
    sums = key.new_empty((len(key), cut.chunks, 2, 3, key.shape[-1]), dtype=torch.float32)
    _launch(machine, "biwkv_sums", FORWARD, cut, key, [decay, first, key, value, sums], [], order)
    return sums


def _launch(
    machine: Machine,
    name: str,
    kind: Pass,
    cut: Plan,
    key: Tensor,
    pointers: Sequence[Tensor | None],
    wide: Sequence[Tensor],
    order: Sequence[int] | None,
) -> None:
    """`wide`: tensors that are read or written 16 bytes at a time, besides keys and values."""
    channels = key.shape[-1]
    rows = [*pointers[2:4], *wide]
    aligned = channels * key.element_size() % 16 == 0 and all(x is not None and x.data_ptr() % 16 == 0 for x in rows)
    grid = (-(-channels // kind.channels(key.dtype)) * len(key), cut.chunks)
    values = [*pointers, _tokens(key), channels, cut.chunk_tokens, int(aligned), _order(key, order)]
    kernels = machine.kernels(Build(key.dtype, cut.tile, kind, ordered=order is not None))
    kernels.launch(name, grid, kind.threads, kind.shared_bytes(cut.tile), values)


def _order(key: Tensor, order: Sequence[int] | None) -> tuple[int, ...]:
    """`Order` of wkv.cu."""
    if order is None:
        return (0,) * 5
    steps = (key.shape[2] * key.shape[3], key.shape[3], 1)
    return key.shape[order[1]], key.shape[order[2]], *(steps[axis - 1] for axis in order)
