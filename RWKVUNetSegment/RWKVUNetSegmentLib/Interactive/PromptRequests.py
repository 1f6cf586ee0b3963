"""What pointing asks the worker: the answer to the prompts in one slice. No file of a request outlives it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from rwkv_core.errors import CancelledError, RWKVUNetError
from rwkv_core.worker.arrays import geometry_of
from rwkv_core.worker.protocol import Progress, PromptRequest, PromptResult, VolumeFile
from RWKVUNetSegmentLib.EventLoop import asError
from RWKVUNetSegmentLib.Interactive.PromptedSlice import BOX, POINT, Pointed, PromptedPlane, PromptedSlice, scribbleMap
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume
from RWKVUNetSegmentLib.Worker.VolumeOfWorker import VolumeOfWorker


class PromptRequests:
    """Asks for the answer to prompts, and makes scan and model ready before.

    Args:
        client: `WorkerClient`.
        volume: hands the scan over; an oblique plane of it is kept with the worker while it is pointed at.

    Attributes:
        model, device, engine: that answer.
    """

    def __init__(self, client: Any, volume: VolumeOfWorker):
        self.model, self.device, self.engine = "prompt", "auto", "auto"
        self._client, self._volume = client, volume
        self._warmed: tuple[Any, Any] | None = None
        self._plane: tuple[PromptedPlane, Any, VolumeFile] | None = None

    def ask(
        self,
        where: PromptedSlice,
        pointed: Pointed,
        isWanted: Callable[[], bool],
        onProgress: Callable[[Progress], object],
        onMask: Callable[[np.ndarray], object],
        onError: Callable[[RWKVUNetError], object],
    ) -> None:
        """Ask for the answer. One of the last two callbacks comes, once.

        Args:
            isWanted: whether the answer still is; if not, the worker is spared, and a `CancelledError` comes.
            onMask: gets bool (rows, columns).
        """
        client = self._client
        files: list[str] = []
        scribble = scribbleMap(pointed.prompts, pointed.painted, where)
        before = where.base.astype(np.float32) if where.base.any() else None

        def discard() -> None:
            for file in files:
                client.discard(file)

        def fail(error: RWKVUNetError) -> None:
            discard()
            onError(error)

        def take(found: PromptResult) -> None:
            try:
                mask = np.array(client.read(found.probabilities)) > 0.5
            except RWKVUNetError as error:
                fail(error)
                return
            client.discard(found.probabilities)
            discard()
            onMask(mask)

        def put(arrays: list[np.ndarray], onDone: Callable[[], None]) -> None:
            """One file after another, in their order."""
            if not arrays:
                onDone()
                return

            def ready(name: str) -> None:
                files.append(name)
                put(arrays[1:], onDone)

            client.put(arrays[0], ready, fail)

        def withVolume(file: VolumeFile) -> None:
            if isWanted():
                put([array for array in (scribble, before) if array is not None], lambda: withFiles(file))
            else:
                fail(CancelledError())

        def withFiles(file: VolumeFile) -> None:
            points = [prompt for prompt in pointed.prompts if prompt.kind == POINT]
            boxes = [prompt for prompt in pointed.prompts if prompt.kind == BOX]
            request = self._request(
                file,
                where,
                points=tuple(where.voxel(prompt.places[0]) for prompt in points),
                labels=tuple(prompt.positive for prompt in points),
                box=(where.voxel(boxes[-1].places[0]), where.voxel(boxes[-1].places[1])) if boxes else None,
                scribble=files[0] if scribble is not None else None,
                mask=files[-1] if before is not None else None,
            )
            client.ask(request, onProgress, take, fail)

        try:
            self._withVolume(where, withVolume, fail)
        except Exception as error:
            fail(asError(error))

    def _request(self, file: VolumeFile, where: PromptedSlice, **prompts: Any) -> PromptRequest:
        return PromptRequest(
            volume=file, slice=where.sliceIndex, bundle=self.model, device=self.device, engine=self.engine, **prompts
        )

    def isWarm(self, volume: Any) -> bool:
        """Whether the worker that runs has answered about this volume before."""
        return self._warmed is not None and self._warmed == (self._client.session, volume)

    def warm(
        self, where: PromptedSlice, onProgress: Callable[[Progress], object], onOver: Callable[[], object]
    ) -> None:
        """Let the worker read the scan and load the model before the first click: by an answer to nobody."""
        client = self._client

        def take(found: PromptResult) -> None:
            client.discard(found.probabilities)
            self._warmed = client.session, where.volume
            onOver()

        def ask(file: VolumeFile) -> None:
            request = self._request(
                file,
                where,
                points=(where.voxel(where.middle),),
                labels=(True,),
            )
            client.ask(request, onProgress, take, lambda error: onOver())

        self._volume.get(where.volume, ask, lambda error: onOver())

    def forget(self) -> None:
        """Delete what the worker keeps of an oblique plane."""
        if self._plane is not None:
            _where, session, file = self._plane
            if session is self._client.session:
                self._client.discard(file.file)
            self._plane = None

    def _withVolume(
        self,
        where: PromptedSlice,
        onReady: Callable[[VolumeFile], object],
        onError: Callable[[RWKVUNetError], object],
    ) -> None:
        """The scan, or the oblique plane of it, as a file of the worker's."""
        if not isinstance(where, PromptedPlane):
            self._volume.get(where.volume, onReady, onError)
            return
        if self._plane is not None and self._plane[:2] == (where, self._client.session):
            onReady(self._plane[2])
            return
        self.forget()
        given = InputVolume.fromNode(where.volume)

        def ready(name: str) -> None:
            geometry = geometry_of(where.ijkToWorld)
            file = VolumeFile(file=name, ijk_to_ras=geometry, name=given.name, modality=given.modality)
            self._plane = where, self._client.session, file
            onReady(file)

        self._client.put(where.array, ready, onError)
