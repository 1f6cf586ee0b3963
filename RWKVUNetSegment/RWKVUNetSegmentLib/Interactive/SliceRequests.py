"""What a live preview asks the worker: the labels of one slice, and the same slice with other post-processing."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rwkv_core.errors import RWKVUNetError
from rwkv_core.vocabulary import PostProcessing, SegmentOptions, SliceIndex, Slices
from rwkv_core.worker.arrays import geometry_of
from rwkv_core.worker.protocol import Progress, RefineRequest, SegmentRequest, SegmentResult, VolumeFile
from RWKVUNetSegmentLib.Interactive.PreviewNode import PreviewedSlice
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume
from RWKVUNetSegmentLib.Scene.ObliqueSlices import stackOf
from RWKVUNetSegmentLib.Worker.VolumeOfWorker import VolumeOfWorker


@dataclass(frozen=True)
class PreviewParameters:
    """What to preview; as `SegmentationParameters`."""

    inputVolume: Any
    options: SegmentOptions = field(default_factory=SegmentOptions)


@dataclass(frozen=True)
class Listener:
    """Who asks.

    Attributes:
        isWaiting: whether the answer is still wanted.
        onProgress: called with the worker's progress.
        onSlice: called once with the answer, or with None when it was not wanted any more.
        onError: called instead when there is none.
    """

    isWaiting: Callable[[], bool]
    onProgress: Callable[[Progress], object]
    onSlice: Callable[[PreviewedSlice | None], object]
    onError: Callable[[RWKVUNetError], object]


class SliceRequests:
    """Sends the volume once, an oblique slice with every request; keeps no file of either in the way.

    Args:
        client: `WorkerClient`.
        volume: what the worker has of the volume.
    """

    def __init__(self, client: Any, volume: VolumeOfWorker):
        self._client, self._volume = client, volume

    def segment(self, parameters: PreviewParameters, lookedAt: Any, listener: Listener) -> None:
        """Run the network on one slice.

        Args:
            parameters: volume and model.
            lookedAt: `SliceIndex` of the volume, or the slice node of an oblique view.
            listener: who asks.
        """
        if isinstance(lookedAt, SliceIndex):
            self._volume.get(
                parameters.inputVolume,
                lambda file: self._ask(parameters, file, lookedAt, None, listener),
                listener.onError,
            )
            return
        try:
            stack = stackOf(parameters.inputVolume, lookedAt)
        except RWKVUNetError as error:
            listener.onError(error)
            return
        given = InputVolume.fromNode(parameters.inputVolume)
        plane = stack.ijkToWorld @ _shifted(stack.index)

        def ready(name: str) -> None:
            geometry = geometry_of(stack.ijkToWorld)
            file = VolumeFile(file=name, ijk_to_ras=geometry, name=given.name, modality=given.modality)
            self._ask(parameters, file, SliceIndex("K", stack.index), plane, listener)

        self._client.put(stack.array, ready, listener.onError)

    def refine(self, processing: PostProcessing, previewed: PreviewedSlice, listener: Listener) -> None:
        """Post-process `one` anew, from what the worker has kept of it."""

        def take(answer: Any) -> None:
            self._take(
                answer.labelmap,
                lambda found: PreviewedSlice(found, previewed.classes, previewed.result, previewed.plane),
                listener,
            )

        self._client.ask(RefineRequest(result=previewed.result, processing=processing), None, take, listener.onError)

    def _ask(
        self,
        parameters: PreviewParameters,
        file: VolumeFile,
        sliceIndex: SliceIndex,
        plane: np.ndarray | None,
        listener: Listener,
    ) -> None:
        """`plane`: of an oblique slice, whose file is of no use after the answer."""
        if not listener.isWaiting():
            self._forget(file, plane)
            listener.onSlice(None)
            return
        request = SegmentRequest(
            volume=file,
            options=parameters.options,
            slices=Slices(axis=sliceIndex.axis, indices=(sliceIndex.index,)),
            keep=True,
        )

        def take(answer: SegmentResult) -> None:
            self._forget(file, plane)
            self._take(answer.labelmap, lambda found: PreviewedSlice(found, answer.classes, answer.id, plane), listener)

        def fail(error: RWKVUNetError) -> None:
            self._forget(file, plane)
            listener.onError(error)

        self._client.ask(request, listener.onProgress, take, fail)

    def _take(self, name: str | None, made: Callable[[np.ndarray], PreviewedSlice], listener: Listener) -> None:
        try:
            labels = np.array(self._client.read(name or ""))
        except RWKVUNetError as error:  # the worker has ended meanwhile
            listener.onError(error)
            return
        self._client.discard(name)
        listener.onSlice(made(labels) if listener.isWaiting() else None)

    def _forget(self, file: VolumeFile, plane: np.ndarray | None) -> None:
        if plane is not None:
            self._client.discard(file.file)


def _shifted(index: int) -> np.ndarray:
    """4 x 4: the plane of this index becomes the first."""
    matrix = np.eye(4)
    matrix[2, 3] = index
    return matrix
