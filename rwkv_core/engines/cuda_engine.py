"""RWKV-UNet on an NVIDIA GPU: float16, channels-last, and one CUDA graph per size in place of many small launches."""

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from rwkv_core.engines.agreement import HALF_PRECISION, disagreement, example
from rwkv_core.engines.arrays import Batch, halve, is_tensor
from rwkv_core.engines.gpu_memory import Halving, is_out_of_memory
from rwkv_core.engines.grid_wkv import SAFE_EXPONENT
from rwkv_core.engines.inference_graph import InferenceGraph
from rwkv_core.engines.torch_engine import TorchEngine
from rwkv_core.engines.torch_ops import TorchOps
from rwkv_core.errors import DeviceError
from rwkv_core.models.architectures import check_input
from rwkv_core.models.rwkv_unet import RWKVUNet
from rwkv_core.models.weights import NetworkWeights
from rwkv_core.ops.biwkv.cuda import why_unavailable

_LOG = logging.getLogger(__name__)
_SIZES_KEPT = 2
"""Every captured size holds on to the memory of its batch."""
_EXAMPLE_SIZE = (64, 64)

Run = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From a batch on the GPU, float32, to float32 logits and a scalar: whether they can be trusted."""


class CUDAEngine:
    """The inference graph in float16, or in float32 where a network does not bear float16.

    A size is captured as a CUDA graph when it comes the second time; smaller batches of that size are filled up. When
    anything fails, eager torch takes over for good, and `name` says so. Batches with values that float16 does not hold
    are left to the network in float32.

    Args:
        network: trained; moved to the GPU.
        device: of type cuda.
        size: (H, W) to get ready for now.
    """

    def __init__(self, network: RWKVUNet, device: str | torch.device, size: tuple[int, int] | None = None):
        self.device = str(device)
        self._place = device = torch.device(device)
        self._in_channels = network.in_channels
        self._torch = TorchEngine(network, device)
        self._captured: dict[tuple[int, int], CapturedRun] = {}
        self._seen: dict[tuple[int, int], int] = {}
        self._fitting = Halving(device, self._captured.clear)
        self._lock = threading.Lock()
        self._run: Run | None = None
        try:
            self._run = self._trusted(network, size or _EXAMPLE_SIZE)
        except Exception as error:  # whatever goes wrong on a GPU that we do not know, eager torch can still answer
            _LOG.warning("The CUDA engine cannot run this network, eager torch takes over: %s", error)

    @property
    def name(self) -> str:
        return "torch" if self._run is None else "cuda"

    @torch.inference_mode()
    def __call__(self, batch: Batch) -> Batch:
        """Compute as `Engine` says. A batch that does not fit the GPU's memory is halved, as often as it takes.

        Raises:
            ValueError: for another number of channels, or a size that is no multiple of 16.
            DeviceError: when a single slice does not fit.
        """
        check_input(tuple(batch.shape), self._in_channels, sides=2)
        if not is_tensor(batch):
            return self._logits(torch.from_numpy(np.ascontiguousarray(batch, np.float32))).cpu().numpy()
        return self._logits(batch)

    def _logits(self, batch: Tensor) -> Tensor:
        batch = batch.to(self._place, torch.float32)
        with self._lock:
            if self._run is not None:
                try:
                    return self._fitting(self._half, batch)
                except DeviceError:
                    raise
                except Exception as error:
                    _LOG.warning("The CUDA engine failed, eager torch takes over: %s", error)
                    self._run = None
                    self._captured.clear()
        return self._torch(batch)

    def map(self, batches: Iterable[Batch], slices: int, halved: bool = False) -> Iterator[Batch]:
        """Compute as `Engine` says: one batch after the other, which keeps the device busy."""
        logits = map(self, batches)
        return map(halve, logits) if halved else logits

    def _half(self, batch: Tensor) -> Tensor:
        """Compute logits of a batch that may be too large for the memory."""
        assert self._run is not None
        size = (batch.shape[2], batch.shape[3])
        captured = self._captured.pop(size, None)
        if captured is not None and captured.most < len(batch):
            captured = None
        if captured is None and self._seen.get(size, 0) >= len(batch):
            captured = self._capture(self._run, batch)
        self._seen[size] = max(len(batch), self._seen.get(size, 0))
        if captured is not None:
            self._captured[size] = captured  # the most recently used last
            if len(self._captured) > _SIZES_KEPT:
                self._captured.pop(next(iter(self._captured)))
        logits, trusted = (captured or self._run)(batch)
        return logits if trusted else self._torch(batch)

    def _capture(self, run: Run, batch: Tensor) -> "CapturedRun | None":
        """None when there is no memory for it: captured memory is held on to, that of other batches is not."""
        try:
            return CapturedRun(run, batch)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        self._captured.clear()
        torch.cuda.empty_cache()
        return None

    def _trusted(self, network: RWKVUNet, size: tuple[int, int]) -> Run:
        """Give the fastest way that answers as the network does."""
        image = torch.from_numpy(example(network.in_channels, *size)).to(self._place)
        with torch.inference_mode():
            expected = self._torch(image).cpu().numpy()
            reasons = []
            for dtype in (torch.float16, torch.float32):
                run = half_run(network, self._place, dtype, _scans(self._place, dtype))
                logits, trusted = run(image)
                reason = (
                    disagreement(logits.cpu().numpy(), expected, HALF_PRECISION)
                    if trusted
                    else "it leaves the range of float16"
                )
                if not reason:
                    return run
                _LOG.info("The CUDA engine does not run this network in %s: %s", dtype, reason)
                reasons.append(f"in {dtype}, {reason}")
        raise RuntimeError("; ".join(reasons))


def half_run(network: RWKVUNet, device: torch.device, dtype: torch.dtype, scan: bool) -> Run:
    """Give the inference graph in `dtype`, with BiWKV by the kernels where `scan`; the function that is captured."""
    graph = InferenceGraph(NetworkWeights.of(network), TorchOps(device, dtype, scan))

    def run(batch: Tensor) -> tuple[Tensor, Tensor]:
        logits, key_range = graph(batch.to(dtype, memory_format=torch.channels_last))
        return logits.float(), logits.isfinite().all() & (key_range <= SAFE_EXPONENT)

    return run


class CapturedRun:
    """A CUDA graph of `run` for batches like `batch`, and for smaller ones.

    After https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs: warmed up and captured on a side stream.
    Other threads may use the GPU meanwhile, on other streams.
    """

    def __init__(self, run: Run, batch: Tensor):
        self.most = len(batch)
        self._input = batch.clone()
        stream = torch.cuda.Stream(batch.device)
        stream.wait_stream(torch.cuda.current_stream(batch.device))
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(batch.device), _fastest_convolutions():
            with torch.cuda.stream(stream):
                run(self._input)  # tries the convolutions, compiles kernels
            torch.cuda.current_stream(batch.device).wait_stream(stream)
            with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
                self._logits, self._trusted = run(self._input)

    def __call__(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """Compute as `run` does; at most `most` slices. The results are the caller's to keep."""
        self._input[: len(batch)].copy_(batch)
        self._input[len(batch) :].zero_()
        self._graph.replay()
        return self._logits[: len(batch)].clone(), self._trusted.clone()


@contextmanager
def _fastest_convolutions() -> Iterator[None]:
    """cuDNN measures its algorithms, rather than guess: once per size."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _scans(device: torch.device, scalar: torch.dtype) -> bool:
    """Tell whether the kernels run there; products along rows and columns do elsewhere."""
    return not why_unavailable(device, scalar, tokens=196)
