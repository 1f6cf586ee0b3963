"""The network in OpenVINO on the CPU: no compiler needed, a pip wheel for every platform."""

import hashlib
import io
import logging
import sys
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkv_core.compiled_cache import CompiledCache
from rwkv_core.engines import inference_graph, map_wkv, volume_graph
from rwkv_core.engines.agreement import FLOAT32, disagreement, example
from rwkv_core.engines.inference_graph import InferenceGraph
from rwkv_core.engines.map_wkv import SAFE_EXPONENT
from rwkv_core.engines.torch_engine import TorchEngine
from rwkv_core.engines.volume_graph import VolumeGraph
from rwkv_core.models import URWKV, Network, rwkv_unet, u_rwkv
from rwkv_core.ops.biwkv import separable

_LOG = logging.getLogger(__name__)
_SIZES_KEPT = 4
_OPTIONS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
_SEVERAL = {**_OPTIONS, "PERFORMANCE_HINT": "THROUGHPUT", "PERFORMANCE_HINT_NUM_REQUESTS": 4}
"""Several slices at once, each on some of the cores; four need not much memory and leave little to gain."""
_WORTH_SEVERAL = 16
"""Slices from which on getting ready for several at once pays."""


class OpenVINOEngine:
    """Compiles `network` once per size, checks the result against torch, and keeps it on disk.

    When anything fails, torch takes over for good, and `name` says so.

    Args:
        network: trained; moved to the CPU.
        size: (H, W), or (D, H, W) of U-RWKV, to compile now.
    """

    def __init__(self, network: Network, size: tuple[int, ...] | None = None):
        self.device = torch.device("cpu")
        self._network = network.eval().to(self.device)
        self._requests: dict[tuple[int, ...], Any] = {}
        self._several: tuple[tuple[int, ...], Any] | None = None
        self._torch: TorchEngine | None = None
        self._lock = threading.Lock()
        self._weights = ""
        if size is not None:
            self(torch.zeros(1, network.in_channels, *size))

    @property
    def name(self) -> str:
        return "openvino" if self._torch is None else self._torch.name

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Tensor:
        """As `Engine`.

        Raises:
            ValueError: for another number of channels, or a size that is no multiple of 16.
        """
        self._check_input(batch)
        batch = batch.to(self.device, torch.float32)
        with self._lock:
            if self._torch is None:
                try:
                    return torch.cat([self._one(image) for image in batch.split(1)])
                except Exception as error:  # whatever an optional package does, torch can still answer
                    _LOG.warning("OpenVINO cannot run this network, torch takes over: %s", error)
                    self._torch = TorchEngine(self._network, self.device)
                    self._requests.clear()
        return self._torch(batch)

    def map(self, batches: Iterable[Tensor], slices: int) -> Iterator[Tensor]:
        """As `Engine`. Every request has its own streams, so that several threads may call it."""
        sizes: deque[int] = deque()

        def images() -> Iterator[Tensor]:
            for batch in batches:
                self._check_input(batch)
                sizes.append(len(batch))
                yield from batch.to(self.device, torch.float32).split(1)

        done: list[Tensor] = []
        with closing(self._stream(images(), slices)) as results:
            for logits in results:
                done.append(logits)
                if len(done) == sizes[0]:
                    yield torch.cat(done)
                    sizes.popleft()
                    done.clear()

    def _stream(self, images: Iterator[Tensor], count: int) -> Generator[Tensor, None, None]:
        """Logits of one image after another."""
        free: list[Any] = []
        running: deque[tuple[Any, Tensor]] = deque()
        compiled = None
        try:
            for image in images:
                if compiled is None and count >= _WORTH_SEVERAL and self._torch is None:
                    compiled = self._compiled_for_several(image)
                    free = _requests(compiled) if compiled else []
                if not compiled:
                    yield self(image)
                    continue
                if not free:
                    yield self._finished(running, free)
                free[-1].start_async({0: image.contiguous().numpy()})
                running.append((free.pop(), image))
            while running:
                yield self._finished(running, free)
        finally:
            for request, _ in running:
                with suppress(RuntimeError):
                    request.wait()

    def _finished(self, running: deque[tuple[Any, Tensor]], free: list[Any]) -> Tensor:
        """Wait for the oldest request; its logits. One that fails is left to `__call__`."""
        request, image = running.popleft()
        free.append(request)
        try:
            request.wait()
            logits, key_range = _answer(request)
        except RuntimeError as error:
            _LOG.info("OpenVINO could not compute a slice beside others: %s", error)
            return self(image)
        with torch.inference_mode():
            return logits if key_range <= SAFE_EXPONENT else self._network(image)

    def _compiled_for_several(self, image: Tensor) -> Any:
        """The network compiled for several slices at once, or None when that fails."""
        size = tuple(image.shape[2:])
        with self._lock:
            if self._several is None or self._several[0] != size:
                self._several = None  # frees the memory first
                try:
                    self._several = (size, self._load(size, _SEVERAL))
                except Exception as error:  # whatever an optional package does, one slice after another still works
                    _LOG.info("OpenVINO takes one slice after another: %s", error)
            return self._several and self._several[1]

    def _one(self, image: Tensor) -> Tensor:
        """One slice at a time, with all cores on it: the first answer comes soonest."""
        size = tuple(image.shape[2:])
        request = self._requests.pop(size, None)
        if request is None:
            request = self._load(size, _OPTIONS).create_infer_request()
        self._requests[size] = request  # the most recently used last
        if len(self._requests) > _SIZES_KEPT:
            self._requests.pop(next(iter(self._requests)))
        logits, key_range = _infer(request, image)
        return logits if key_range <= SAFE_EXPONENT else self._network(image)

    @torch.inference_mode()
    def _load(self, size: tuple[int, ...], options: dict[str, Any]) -> Any:
        """The network compiled for one size, from the cache or anew; checked in either case."""
        openvino = import_openvino()
        core = openvino.Core()
        cache = CompiledCache("openvino")
        key = self._key(openvino, core, size)
        image = example(self._network.in_channels, *size)
        kept = cache.load(key)
        if kept is not None:
            try:  # the options are not part of the blob; without them it runs in bfloat16 where the processor can
                compiled = core.import_model(io.BytesIO(kept["compiled"]), "CPU", options)
                expected = torch.from_numpy(np.frombuffer(kept["expected"], np.float32).copy())
                _check(compiled, image, expected.view(1, -1, *size))
                return compiled
            except RuntimeError as error:
                _LOG.info("the compiled network in the cache is of no use, compiling anew: %s", error)
                cache.forget(key)
        compiled = core.compile_model(convert(openvino, _graph(self._network), image), "CPU", options)
        expected = self._network(image)
        _check(compiled, image, expected)
        cache.save(key, {"compiled": compiled.export_model().getvalue(), "expected": expected.numpy().tobytes()})
        return compiled

    def _check_input(self, batch: Tensor) -> None:
        source = u_rwkv if isinstance(self._network, URWKV) else rwkv_unet
        source.check_input(batch, self._network.in_channels)

    def _key(self, openvino: Any, core: Any, size: tuple[int, ...]) -> str:
        """Changes with all that the compiled network depends on."""
        if not self._weights:
            digest = hashlib.sha256()
            of_blocks = isinstance(self._network, URWKV)
            for source in (volume_graph, u_rwkv, separable) if of_blocks else (inference_graph, map_wkv):
                digest.update(Path(str(source.__file__)).read_bytes())
            for name, value in self._network.state_dict().items():
                digest.update(f"{name} {tuple(value.shape)}".encode())
                digest.update(value.contiguous().numpy())
            self._weights = digest.hexdigest()
        processor = core.get_property("CPU", "FULL_DEVICE_NAME")
        setting = (self._weights, openvino.__version__, processor, *size)
        return hashlib.sha256(repr(setting).encode()).hexdigest()


def import_openvino() -> Any:
    """The package, without its telemetry: nothing about a clinic's use leaves its machine."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _graph(network: Network) -> InferenceGraph | VolumeGraph:
    return VolumeGraph(network) if isinstance(network, URWKV) else InferenceGraph(network)


def convert(openvino: Any, graph: InferenceGraph | VolumeGraph, image: Tensor) -> Any:
    """OpenVINO's model of the graph for the size of `image`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing fixes the size, which is wanted, and that torch plans without it
        traced = torch.jit.trace(graph, (image,), check_trace=False)
        return openvino.convert_model(traced, example_input=image, input=[*image.shape])


def _check(compiled: Any, image: Tensor, expected: Tensor) -> None:
    """RuntimeError when the compiled network does not answer as torch does."""
    reason = disagreement(_infer(compiled.create_infer_request(), image)[0], expected, FLOAT32)
    if reason:
        raise RuntimeError(reason)


def _requests(compiled: Any) -> list[Any]:
    """As many infer requests as keep all streams busy, and one that waits."""
    count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")) + 1
    return [compiled.create_infer_request() for _ in range(count)]


def _infer(request: Any, image: Tensor) -> tuple[Tensor, float]:
    request.infer({0: image.contiguous().numpy()})
    return _answer(request)


def _answer(request: Any) -> tuple[Tensor, float]:
    """Logits (1, classes, ...) and range of keys, copied out of the request's memory."""
    logits, key_range = (request.get_output_tensor(i).data for i in range(2))
    return torch.from_numpy(logits.copy()), float(key_range)
