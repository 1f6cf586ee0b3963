"""The network in OpenVINO on the CPU: no compiler and no torch needed, a pip wheel for every platform."""

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.compiled_cache import CompiledCache
from rwkv_core.engines import graph_ops, grid_wkv, inference_graph, openvino_kernels, openvino_ops, volume_graph
from rwkv_core.engines.agreement import FLOAT32, disagreement, example
from rwkv_core.engines.arrays import Batch, as_numpy, in_kind
from rwkv_core.engines.availability import why_unavailable
from rwkv_core.engines.graph_ops import Map
from rwkv_core.engines.graphs import make_graph
from rwkv_core.engines.grid_wkv import SAFE_EXPONENT
from rwkv_core.engines.inference_graph import InferenceGraph
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

_SOURCES = (graph_ops, grid_wkv, inference_graph, volume_graph, openvino_ops, openvino_kernels)

Image = NDArray[np.float32]
Form = tuple[tuple[int, ...], bool]
"""What the network is compiled for: the sides of its input, and whether the logits are halved."""


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
        self._requests: dict[Form, Any] = {}
        self._several: tuple[Form, Any] | None = None
        self._lately: tuple[Form, ...] = ()  # of the last two streams
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
        return in_kind(self._logits(as_numpy(batch), False), batch)

    def _logits(self, images: Image, halved: bool) -> Image:
        with self._lock:
            if not self._failed:
                try:
                    return np.concatenate([self._one(image[None], halved) for image in images])
                except Exception as error:  # whatever an optional package does, others can still answer
                    self._failed = True
                    self._requests.clear()
                    _LOG.warning("OpenVINO cannot run this network, %s takes over: %s", self._others().name, error)
        return self._otherwise(images, halved)

    def map(self, batches: Iterable[Batch], slices: int, halved: bool = False) -> Iterator[Batch]:
        """Compute as `Engine` says. Every request has its own streams, so that several threads may call it."""
        waiting: deque[Batch] = deque()

        def images() -> Iterator[Image]:
            for batch in batches:
                self._check_input(batch)
                waiting.append(batch)
                for image in as_numpy(batch):
                    yield image[None]

        done: list[Image] = []
        with closing(self._stream(images(), slices, halved)) as results:
            for logits in results:
                done.append(logits)
                if len(done) == len(waiting[0]):
                    yield in_kind(np.concatenate(done), waiting.popleft())
                    done.clear()

    def _stream(self, images: Iterator[Image], count: int, halved: bool) -> Generator[Image, None, None]:
        """Compute logits of one image after another."""
        free: list[Any] = []
        running: deque[tuple[Any, Image]] = deque()
        compiled = None
        try:
            for image in images:
                if compiled is None and count >= _WORTH_SEVERAL and not self._failed:
                    compiled = self._compiled_for_several(image, halved) or False  # is tried once
                    free = _requests(compiled) if compiled else []
                if not compiled:
                    yield self._logits(image, halved)
                    continue
                if not free:
                    yield self._finished(running, free, halved)
                free[-1].start_async({0: image})
                running.append((free.pop(), image))
            while running:
                yield self._finished(running, free, halved)
        finally:
            for request, _ in running:
                with suppress(RuntimeError):
                    request.wait()
            self._leave(compiled)

    def _finished(self, running: deque[tuple[Any, Image]], free: list[Any], halved: bool) -> Image:
        """Wait for the oldest request; its logits. One that fails is left to `_logits`."""
        request, image = running.popleft()
        free.append(request)
        try:
            request.wait()
            logits, key_range = _answer(request)
        except RuntimeError as error:
            _LOG.info("OpenVINO could not compute a slice beside others: %s", error)
            return self._logits(image, halved)
        return logits if key_range <= SAFE_EXPONENT else self._otherwise(image, halved)

    def _compiled_for_several(self, image: Image, halved: bool) -> Any:
        """Give the network compiled for several slices at once, or None when that fails."""
        form = (tuple(image.shape[2:]), halved)
        with self._lock:
            if self._several is None or self._several[0] != form:
                self._several = None  # frees the memory first
                try:
                    self._several = (form, self._load(*form, _SEVERAL))
                except Exception as error:  # whatever an optional package does, one slice after another still works
                    _LOG.info("OpenVINO takes one slice after another: %s", error)
            self._lately = (*self._lately[-1:], form)
            return self._several and self._several[1]

    def _leave(self, compiled: Any) -> None:
        """Free 100 MB where one size follows another, as where planes are averaged; else the next images come soon."""
        with self._lock:
            if self._several and self._several[1] is compiled and len(set(self._lately)) > 1:
                self._several = None

    def _one(self, image: Image, halved: bool) -> Image:
        """Compute one slice at a time, with all cores on it: the first answer comes soonest."""
        form = (tuple(image.shape[2:]), halved)
        request = self._requests.pop(form, None)
        if request is None:
            request = self._load(*form, _OPTIONS).create_infer_request()
        self._requests[form] = request  # the most recently used last
        if len(self._requests) > _SIZES_KEPT:
            self._requests.pop(next(iter(self._requests)))
        logits, key_range = _infer(request, image)
        return logits if key_range <= SAFE_EXPONENT else self._otherwise(image, halved)

    def _otherwise(self, images: Image, halved: bool) -> Image:
        (logits,) = self._others().map([images], len(images), halved)
        return as_numpy(logits)

    def _others(self) -> "TorchEngine | NumPyEngine":
        """Say what computes where OpenVINO does not."""
        if self._other is None:
            if why_unavailable("torch"):
                self._other = NumPyEngine(self._weights)
            else:
                from rwkv_core.engines.torch_engine import TorchEngine

                self._other = TorchEngine(self._weights.network(), "cpu")
        return self._other

    def _load(self, size: tuple[int, ...], halved: bool, options: dict[str, Any]) -> Any:
        """Give the network compiled for one form, from the cache or anew; checked in either case."""
        openvino = import_openvino()
        core = openvino.Core()
        cache = CompiledCache("openvino")
        key = self._key(openvino, core, (*size, halved))
        image = example(self._weights.in_channels, *size)
        kept = cache.load(key)
        if kept is not None:
            try:  # the options are not part of the blob; without them it runs in bfloat16 where the processor can
                compiled = core.import_model(kept["compiled"], "CPU", options)
                _check(compiled, image, np.frombuffer(kept["expected"], np.float32))
                return compiled
            except (RuntimeError, ValueError) as error:
                _LOG.info("the compiled network in the cache is of no use, compiling anew: %s", error)
                cache.forget(key)
        with ThreadPoolExecutor(1) as beside:
            answer = beside.submit(lambda: NumPyEngine(self._weights).logits_of(image, halved))
            model = openvino_kernels.with_depthwise_kernels(convert(self._weights, size, halved))
            compiled = core.compile_model(model, "CPU", options)
            expected = answer.result()
        _check(compiled, image, expected)
        cache.save(key, {"compiled": compiled.export_model().getvalue(), "expected": expected.tobytes()})
        return compiled

    def _check_input(self, batch: Batch) -> None:
        sides = 3 if self._weights.architecture in VOLUMETRIC else 2
        check_input(tuple(batch.shape), self._weights.in_channels, sides)

    def _key(self, openvino: Any, core: Any, form: tuple[int, ...]) -> str:
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
        setting = (self._digest, openvino.__version__, processor, *form)
        return hashlib.sha256(repr(setting).encode()).hexdigest()


def convert(weights: NetworkWeights, size: tuple[int, ...], halved: bool = False) -> Any:
    """Make OpenVINO's model of the network for images of this size; of RWKV-UNet's, the logits can be `halved`."""

    def build(ops: openvino_ops.OpenVINOOps) -> Callable[[Map], tuple[Map, Map]]:
        return partial(InferenceGraph(weights, ops), halved=True) if halved else make_graph(weights, ops)

    return openvino_model(build, (1, weights.in_channels, *size))


def _check(compiled: Any, image: Image, expected: Image) -> None:
    """RuntimeError when the compiled network does not answer as numpy does."""
    answer = _infer(compiled.create_infer_request(), image)[0]
    reason = disagreement(answer, expected.reshape(answer.shape), FLOAT32)
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
