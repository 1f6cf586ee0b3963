"""BiWKV on NVIDIA GPUs: the kernels of wkv.cu, compiled at first use, as operators of PyTorch.

The operators are `rwkv_unet::biwkv` and `rwkv_unet::biwkv_backward`: differentiable once, without synchronisation, on
the current stream, so that they work under autocast, in CUDA graphs and under torch.compile.
"""

import functools
import hashlib
import logging
import math
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rwkv_core.compiled_cache import CompiledCache
from rwkv_core.errors import DeviceError
from rwkv_core.ops.biwkv import nvrtc, scan
from rwkv_core.ops.biwkv.gpu_driver import GPUError, LoadedKernels, shared_memory
from rwkv_core.ops.biwkv.ninja_build import BuiltKernels
from rwkv_core.ops.biwkv.scan_plan import BACKWARD, FORWARD, SCALARS, Build, plan

_LOG = logging.getLogger(__name__)
_SOURCE = Path(__file__).with_name("wkv.cu")
_OLDEST = (7, 0)


class GPU:
    """One GPU of this machine, with the kernels that were compiled for it. `Machine` of scan.py.

    Args:
        device: with an index.
        routes: ways to compile, in the order in which they are tried: "nvrtc", "ninja".

    Raises:
        DeviceError: when the kernels cannot run there.
    """

    def __init__(self, device: torch.device, routes: tuple[str, ...] = ("nvrtc", "ninja")):
        if torch.version.cuda is None:
            raise DeviceError("This PyTorch was not built for NVIDIA's CUDA.", hint="Install one that was.")
        capability = torch.cuda.get_device_capability(device)
        if capability < _OLDEST:
            raise DeviceError(
                f"{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}.",
                hint="The kernel needs 7.0 (Volta, 2017) or newer.",
            )
        self.memory = shared_memory(device)
        self._device, self._capability, self._routes = device, capability, routes
        self._kernels: dict[Build, scan.Kernels] = {}
        self._lock = threading.Lock()

    def kernels(self, build: Build) -> scan.Kernels:
        """Load the kernels, as `Machine` says.

        Raises:
            DeviceError: when no route leads to code that runs.
        """
        found = self._kernels.get(build)
        if found is not None:
            return found
        with self._lock:
            if build not in self._kernels:
                self._kernels[build] = self._made(build)
            return self._kernels[build]

    def _made(self, build: Build) -> scan.Kernels:
        reasons = []
        for route in self._routes:
            try:
                return self._by_nvrtc(build) if route == "nvrtc" else BuiltKernels(build, self._device)
            except DeviceError as error:
                reasons.append(str(error))
        raise DeviceError(" ".join(reasons))

    def _by_nvrtc(self, build: Build) -> scan.Kernels:
        source = _SOURCE.read_text(encoding="utf-8")
        setting = (source, build.defines, nvrtc.version(), nvrtc.options(self._capability))
        key = hashlib.sha256(repr(setting).encode()).hexdigest()
        names = dict.fromkeys(build.kind.kernels, build.kind.shared_bytes(build.tile))
        cache = CompiledCache("wkv")
        kept = cache.load(key)
        if kept is not None:
            try:
                return LoadedKernels(kept["code"], self._device, names)
            except (GPUError, DeviceError) as error:
                _LOG.info("the compiled kernel in the cache is of no use, compiling anew: %s", error)
                cache.forget(key)
        code = nvrtc.compiled(source, self._capability, build.defines)
        kernels = LoadedKernels(code, self._device, names)
        cache.save(key, {"code": code})
        return kernels


@functools.cache
def _gpu(index: int) -> GPU:
    return GPU(torch.device("cuda", index))


@functools.cache
def _why_unavailable(index: int, scalar: torch.dtype, tokens: int, backward: bool, ordered: bool) -> str:
    if not hasattr(torch.library, "custom_op"):
        reason = f"PyTorch {torch.__version__} is too old for it. Install 2.4 or newer."
    else:
        try:
            gpu = _gpu(index)
            for kind in (FORWARD, BACKWARD) if backward else (FORWARD,):
                cut = plan(kind, tokens, gpu.memory)
                gpu.kernels(Build(scalar, cut.tile, kind, ordered))
            return ""
        except (DeviceError, GPUError) as error:
            reason = str(error)
    _log_once(reason)
    return reason


@functools.cache
def _log_once(reason: str) -> None:
    _LOG.warning("The CUDA kernel for BiWKV is not used, slower operators of PyTorch are: %s", reason)


def why_unavailable(
    device: torch.device, scalar: torch.dtype, tokens: int, backward: bool = False, ordered: bool = False
) -> str:
    """Empty when the kernels run on `device`, compiled now if they have to be; else why not, and what to do.

    Args:
        device: of type cuda.
        scalar: type of keys and values.
        tokens: in a sequence.
        backward: whether gradients are needed too.
        ordered: whether tokens are taken in another order than they lie in.
    """
    if scalar not in SCALARS:
        return f"It takes float32, float16 and bfloat16, not {scalar}."
    return _why_unavailable(_index(device), scalar, tokens, backward, ordered)


# What torch.compiler.assume_constant_result does, which would import the compiler: seconds, in every process.
why_unavailable._dynamo_marked_constant = True  # type: ignore[attr-defined]


def why_not(decay: Tensor, first: Tensor, key: Tensor, value: Tensor, order: Sequence[int] | None = None) -> str:
    """Give `why_unavailable` for these tensors, and for their gradients where autograd will want them."""
    scalar = torch.promote_types(key.dtype, value.dtype)
    backward = torch.is_grad_enabled() and any(x.requires_grad for x in (decay, first, key, value))
    return why_unavailable(key.device, scalar, math.prod(key.shape[1:-1]), backward, order is not None)


def _index(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index


if hasattr(torch.library, "custom_op"):
    _INPUTS = "Tensor decay, Tensor first, Tensor key, Tensor value"

    @torch.library.custom_op(
        "rwkv_unet::biwkv", mutates_args=(), device_types="cuda", schema=f"({_INPUTS}, int[]? order=None) -> Tensor"
    )
    def biwkv(decay: Tensor, first: Tensor, key: Tensor, value: Tensor, order: Sequence[int] | None = None) -> Tensor:
        """Run `scan.forward` on the tensors' GPU."""
        return scan.forward(_gpu(_index(key.device)), decay, first, key, value, order)

    @torch.library.custom_op(
        "rwkv_unet::biwkv_backward",
        mutates_args=(),
        device_types="cuda",
        schema=f"({_INPUTS}, Tensor upstream, int[]? order=None) -> (Tensor, Tensor, Tensor, Tensor)",
    )
    def biwkv_backward(
        decay: Tensor,
        first: Tensor,
        key: Tensor,
        value: Tensor,
        upstream: Tensor,
        order: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Run `scan.backward` on the tensors' GPU."""
        return scan.backward(_gpu(_index(key.device)), decay, first, key, value, upstream, order)

    @biwkv.register_fake
    def _(decay: Tensor, first: Tensor, key: Tensor, value: Tensor, order: Sequence[int] | None = None) -> Tensor:
        return torch.empty_like(value, memory_format=torch.contiguous_format)

    @biwkv_backward.register_fake
    def _(
        decay: Tensor,
        first: Tensor,
        key: Tensor,
        value: Tensor,
        upstream: Tensor,
        order: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        like = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (decay, first, key, value)]
        return like[0], like[1], like[2], like[3]

    def _save(ctx, inputs, output):  # type: ignore[no-untyped-def]
        *tensors, ctx.order = inputs
        ctx.save_for_backward(*tensors)

    def _differentiate(ctx, upstream):  # type: ignore[no-untyped-def]
        return *biwkv_backward(*ctx.saved_tensors, upstream, ctx.order), None

    biwkv.register_autograd(_differentiate, setup_context=_save)


def bi_wkv_cuda(decay: Tensor, first: Tensor, key: Tensor, value: Tensor, order: Sequence[int] | None = None) -> Tensor:
    """Compute by the kernels of wkv.cu; float32 inside. Shapes as in `bi_wkv`, or in `bi_wkv_ordered` with an order.

    Raises:
        ValueError: for tensors that are not on an NVIDIA GPU.
        DeviceError: where `why_unavailable` says so.
    """
    if not key.is_cuda:
        raise ValueError(f"the BiWKV backend cuda takes tensors on an NVIDIA GPU, not on {key.device}")
    reason = why_not(decay, first, key, value, order)
    if reason:
        raise DeviceError(reason)
    return biwkv(decay, first, key, value, order)
