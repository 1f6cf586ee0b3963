"""The network in OpenVINO on the CPU: no compiler and no torch needed, a pip wheel for every platform."""

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.compiled_cache import CompiledCache
from rwkv_core.engines import graph_ops, grid_wkv, inference_graph, openvino_ops, volume_graph
from rwkv_core.engines.agreement import FLOAT32, disagreement, example
from rwkv_core.engines.arrays import Batch, as_numpy, in_kind
from rwkv_core.engines.availability import why_unavailable
from rwkv_core.engines.graphs import make_graph
from rwkv_core.engines.grid_wkv import SAFE_EXPONENT
from rwkv_core.engines.numpy_engine import NumPyEngine
from rwkv_core.engines.openvino_ops import import_openvino, openvino_model
from rwkv_core.models.architectures import VOLUMETRIC, check_input
from rwkv_core.models.weights import NetworkWeights

if TYPE_CHECKING:
    from rwkv_core.engines.torch_engine import TorchEngine

_LOG = logging.getLogger(__name__)
_SIZES_KEPT = 4
_OPTIONS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
_SEVERAL = {**_OPTIONS, "PERFORMANCE_HINT": "THROUGHPUT", "PERFORMANCE_HINT_NUM_REQUESTS": 4}
"""Several slices at once, each on some of the cores; four need not much memory and leave little to gain."""
_WORTH_SEVERAL = 16
"""Slices from which on getting ready for several at once pays."""

_SOURCES = (graph_ops, grid_wkv, inference_graph, volume_graph, openvino_ops)

Image = NDArray[np.float32]


class OpenVINOEngine:
    """Compiles the network once per size, checks the result against numpy, and keeps it on disk.

    When anything fails, torch, or numpy where torch is not installed, takes over for good, and `name` says so. They
    are also asked for single images that are beyond float32.

    Args:
        weights: of a trained network.
        size: (H, W), or (D, H, W) of U-RWKV, to compile now.
    """

    device = "cpu"

    def __init__(self, weights: NetworkWeights, size: tuple[int, ...] | None = None):
        self._weights = weights
        self._requests: dict[tuple[int, ...], Any] = {}
        self._several: tuple[tuple[int, ...], Any] | None = None
        self._lately: tuple[tuple[int, ...], ...] = ()  # sizes of the last two streams
        self._other: TorchEngine | NumPyEngine | None = None
        self._failed = False
        self._lock = threading.Lock()
        self._digest = ""
        if size is not None:
            self(np.zeros((1, weights.in_channels, *size), np.float32))

    @property
    def name(self) -> str:
        return self._others().name if self._failed else "openvino"

    def __call__(self, batch: Batch) -> Batch:
        """Compute as `Engine` says.

        Raises:
            ValueError: for another number of channels, or a size that is no multiple of 16.
        """
        self._check_input(batch)
        images = as_numpy(batch)
        with self._lock:
            if not self._failed:
                try:
                    return in_kind(np.concatenate([self._one(image[None]) for image in images]), batch)
                except Exception as error:  # whatever an optional package does, others can still answer
                    self._failed = True
                    self._requests.clear()
                    _LOG.warning("OpenVINO cannot run this network, %s takes over: %s", self._others().name, error)
        return in_kind(as_numpy(self._others()(images)), batch)

    def map(self, batches: Iterable[Batch], slices: int) -> Iterator[Batch]:
        """Compute as `Engine` says. Every request has its own streams, so that several threads may call it."""
        waiting: deque[Batch] = deque()

        def images() -> Iterator[Image]:
            for batch in batches:
                self._check_input(batch)
                waiting.append(batch)
                for image in as_numpy(batch):
                    yield image[None]

        done: list[Image] = []
        with closing(self._stream(images(), slices)) as results:
            for logits in results:
                done.append(logits)
                if len(done) == len(waiting[0]):
                    yield in_kind(np.concatenate(done), waiting.popleft())
                    done.clear()

    def _stream(self, images: Iterator[Image], count: int) -> Generator[Image, None, None]:
        """Compute logits of one image after another."""
        free: list[Any] = []
        running: deque[tuple[Any, Image]] = deque()
        compiled = None
        try:
            for image in images:
                if compiled is None and count >= _WORTH_SEVERAL and not self._failed:
                    compiled = self._compiled_for_several(image)
                    free = _requests(compiled) if compiled else []
                if not compiled:
                    yield as_numpy(self(image))
                    continue
                if not free:
                    yield self._finished(running, free)
                free[-1].start_async({0: image})
                running.append((free.pop(), image))
            while running:
                yield self._finished(running, free)
        finally:
            for request, _ in running:
                with suppress(RuntimeError):
                    request.wait()
            self._leave(compiled)

    def _finished(self, running: deque[tuple[Any, Image]], free: list[Any]) -> Image:
        """Wait for the oldest request; its logits. One that fails is left to `__call__`."""
        request, image = running.popleft()
        free.append(request)
        try:
            request.wait()
            logits, key_range = _answer(request)
        except RuntimeError as error:
            _LOG.info("OpenVINO could not compute a slice beside others: %s", error)
            return as_numpy(self(image))
        return logits if key_range <= SAFE_EXPONENT else as_numpy(self._others()(image))

    def _compiled_for_several(self, image: Image) -> Any:
        """Give the network compiled for several slices at once, or None when that fails."""
        size = tuple(image.shape[2:])
        with self._lock:
            if self._several is None or self._several[0] != size:
                self._several = None  # frees the memory first
                try:
                    self._several = (size, self._load(size, _SEVERAL))
                except Exception as error:  # whatever an optional package does, one slice after another still works
                    _LOG.info("OpenVINO takes one slice after another: %s", error)
            self._lately = (*self._lately[-1:], size)
            return self._several and self._several[1]

    def _leave(self, compiled: Any) -> None:
        """Free 100 MB where one size follows another, as where planes are averaged; else the next images come soon."""
        with self._lock:
            if self._several and self._several[1] is compiled and len(set(self._lately)) > 1:
                self._several = None

    def _one(self, image: Image) -> Image:
        """Compute one slice at a time, with all cores on it: the first answer comes soonest."""
        size = tuple(image.shape[2:])
        request = self._requests.pop(size, None)
        if request is None:
            request = self._load(size, _OPTIONS).create_infer_request()
        self._requests[size] = request  # the most recently used last
        if len(self._requests) > _SIZES_KEPT:
            self._requests.pop(next(iter(self._requests)))
        logits, key_range = _infer(request, image)
        return logits if key_range <= SAFE_EXPONENT else as_numpy(self._others()(image))

    def _others(self) -> "TorchEngine | NumPyEngine":
        """Say what computes where OpenVINO does not."""
        if self._other is None:
            if why_unavailable("torch"):
                self._other = NumPyEngine(self._weights)
            else:
                from rwkv_core.engines.torch_engine import TorchEngine

                self._other = TorchEngine(self._weights.network(), "cpu")
        return self._other

    def _load(self, size: tuple[int, ...], options: dict[str, Any]) -> Any:
        """Give the network compiled for one size, from the cache or anew; checked in either case."""
        openvino = import_openvino()
        core = openvino.Core()
        cache = CompiledCache("openvino")
        key = self._key(openvino, core, size)
        image = example(self._weights.in_channels, *size)
        kept = cache.load(key)
        if kept is not None:
            try:  # the options are not part of the blob; without them it runs in bfloat16 where the processor can
                compiled = core.import_model(kept["compiled"], "CPU", options)
                _check(compiled, image, np.frombuffer(kept["expected"], np.float32).reshape(1, -1, *size))
                return compiled
            except (RuntimeError, ValueError) as error:
                _LOG.info("the compiled network in the cache is of no use, compiling anew: %s", error)
                cache.forget(key)
        with ThreadPoolExecutor(1) as beside:
            answer = beside.submit(lambda: as_numpy(NumPyEngine(self._weights)(image)))
            compiled = core.compile_model(convert(self._weights, size), "CPU", options)
            expected = answer.result()
        _check(compiled, image, expected)
        cache.save(key, {"compiled": compiled.export_model().getvalue(), "expected": expected.tobytes()})
        return compiled

    def _check_input(self, batch: Batch) -> None:
        sides = 3 if self._weights.architecture in VOLUMETRIC else 2
        check_input(tuple(batch.shape), self._weights.in_channels, sides)

    def _key(self, openvino: Any, core: Any, size: tuple[int, ...]) -> str:
        """Changes with all that the compiled network depends on."""
        if not self._digest:
            digest = hashlib.sha256()
            for source in _SOURCES:
                digest.update(Path(str(source.__file__)).read_bytes())
            for name, value in self._weights.arrays.items():
                digest.update(f"{name} {value.shape}".encode())
                digest.update(value.tobytes())
            self._digest = digest.hexdigest()
        processor = core.get_property("CPU", "FULL_DEVICE_NAME")
        setting = (self._digest, openvino.__version__, processor, *size)
        return hashlib.sha256(repr(setting).encode()).hexdigest()


def convert(weights: NetworkWeights, size: tuple[int, ...]) -> Any:
    """Make OpenVINO's model of the network for images of this size."""
    return openvino_model(lambda ops: make_graph(weights, ops), (1, weights.in_channels, *size))


def _check(compiled: Any, image: Image, expected: Image) -> None:
    """RuntimeError when the compiled network does not answer as numpy does."""
    reason = disagreement(_infer(compiled.create_infer_request(), image)[0], expected, FLOAT32)
    if reason:
        raise RuntimeError(reason)


def _requests(compiled: Any) -> list[Any]:
    """Make as many infer requests as keep all streams busy; each holds its own memory for the maps in between."""
    count = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    return [compiled.create_infer_request() for _ in range(count)]


def _infer(request: Any, image: Image) -> tuple[Image, float]:
    request.infer({0: image})
    return _answer(request)


def _answer(request: Any) -> tuple[Image, float]:
    """Compute logits (1, classes, ...) and range of keys, copied out of the request's memory."""
    logits, key_range = (request.get_output_tensor(i).data for i in range(2))
    return logits.copy(), float(key_range)
