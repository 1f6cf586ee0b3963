"""Launches of the kernels in wkv.cu: which, in which order, on which memory."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rwkv_core.ops.biwkv.scan_plan import BACKWARD, FORWARD, SCALARS, Build, Pass, Plan, SharedMemory, plan


class Kernels(Protocol):
    """The kernels of one `Build` of wkv.cu."""

    def launch(
        self, name: str, grid: tuple[int, int], threads: int, shared: int, values: Sequence[Tensor | int | None]
    ) -> None:
        """Start kernel `name` on the current stream with `shared` bytes of dynamic shared memory.

        `values` are its arguments: pointers (None is the null pointer) and 32-bit integers.
        """


class Machine(Protocol):
    """Where the kernels run."""

    @property
    def memory(self) -> SharedMemory:
        """Shared memory of the GPU."""

    def kernels(self, build: Build) -> Kernels:
        """Compiled, from a cache or now."""


def forward(machine: Machine, decay: Tensor, first: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """BiWKV; shapes as in `bi_wkv`, at least one token, channel and batch entry.

    Args:
        machine: of the tensors' device.
        decay: (C,), any floating type; likewise `first`.
        key: float32, float16 or bfloat16; likewise `value`. Where they differ, both are widened.

    Returns:
        (B, T, C), of the type of `value`.
    """
    decay, first, key, value, dtype = _prepared(decay, first, key, value)
    output = torch.empty_like(value)
    cut = plan(FORWARD, key.shape[1], machine.memory)
    sums = _sums(machine, decay, first, key, value, cut)
    _launch(machine, "biwkv_forward", FORWARD, cut, key, [decay, first, key, value, sums, output], [output])
    return output.to(dtype)


def backward(
    machine: Machine, decay: Tensor, first: Tensor, key: Tensor, value: Tensor, upstream: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of decay, first, key and value, each in its own type, for the gradient `upstream` of the output."""
    types = [x.dtype for x in (decay, first, key, value)]
    decay, first, key, value, _ = _prepared(decay, first, key, value)
    upstream = upstream.to(key.dtype).contiguous()
    batch, tokens, channels = key.shape
    cut = plan(BACKWARD, tokens, machine.memory)
    sums = _sums(machine, decay, first, key, value, cut)
    shared = [decay, first, key, value, upstream, sums]
    gradient_sums = None
    if sums is not None:
        gradient_sums = torch.empty_like(sums)
        _launch(machine, "biwkv_gradient_sums", BACKWARD, cut, key, [*shared, gradient_sums], [upstream])
    of_key, of_value = torch.empty_like(key), torch.empty_like(value)
    of_parameters = key.new_empty((batch, cut.chunks, 2, channels), dtype=torch.float32)
    results = [of_key, of_value, of_parameters]
    aligned = [upstream, of_key, of_value]
    _launch(machine, "biwkv_backward", BACKWARD, cut, key, [*shared, gradient_sums, *results], aligned)
    of_decay, of_first = of_parameters.flatten(0, 1).sum(0)
    return of_decay.to(types[0]), of_first.to(types[1]), of_key.to(types[2]), of_value.to(types[3])


def _prepared(
    decay: Tensor, first: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, torch.dtype]:
    """As the kernels take them, and the type of the answer."""
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


def _sums(machine: Machine, decay: Tensor, first: Tensor, key: Tensor, value: Tensor, cut: Plan) -> Tensor | None:
    """What every chunk contributes to the others, (B, chunks, 2, 3, C); None where there is only one."""
    if cut.chunks == 1:
        return None
    sums = key.new_empty((key.shape[0], cut.chunks, 2, 3, key.shape[2]), dtype=torch.float32)
    _launch(machine, "biwkv_sums", FORWARD, cut, key, [decay, first, key, value, sums], [])
    return sums


def _launch(
    machine: Machine,
    name: str,
    kind: Pass,
    cut: Plan,
    key: Tensor,
    pointers: Sequence[Tensor | None],
    wide: Sequence[Tensor],
) -> None:
    """`wide`: tensors that are read or written 16 bytes at a time, besides keys and values."""
    batch, tokens, channels = key.shape
    rows = [*pointers[2:4], *wide]
    aligned = channels * key.element_size() % 16 == 0 and all(x is not None and x.data_ptr() % 16 == 0 for x in rows)
    grid = (-(-channels // kind.channels(key.dtype)) * batch, cut.chunks)
    values = [*pointers, tokens, channels, cut.chunk_tokens, int(aligned)]
    kernels = machine.kernels(Build(key.dtype, cut.tile, kind))
    kernels.launch(name, grid, kind.threads, kind.shared_bytes(cut.tile), values)
