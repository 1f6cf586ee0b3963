"""A volume's voxels in the worker's folder: handed over once, for as long as neither voxels nor worker change."""

from collections.abc import Callable
from typing import Any

from rwkv_core.errors import CancelledError, RWKVUNetError
from rwkv_core.worker.arrays import geometry_of
from rwkv_core.worker.protocol import VolumeFile
from RWKVUNetSegmentLib.EventLoop import deliver, later
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume
from RWKVUNetSegmentLib.Signal import emit
from RWKVUNetSegmentLib.Worker.WorkerClient import WorkerClient


class VolumeOfWorker:
    """Keeps one volume with the worker, the last that was asked for.

    Args:
        client: whose worker gets it.
    """

    def __init__(self, client: WorkerClient):
        self._client = client
        self._key: Any = None
        self._file: VolumeFile | None = None
        self._giveUp: Callable[[], None] | None = None
        self._waiting: list[tuple[Callable[[VolumeFile], object], Callable[[RWKVUNetError], object]]] = []

    def get(
        self, node: Any, onReady: Callable[[VolumeFile], object], onError: Callable[[RWKVUNetError], object]
    ) -> None:
        """Hand a volume node over, if that was not done. One of the callbacks comes, from the event loop."""
        try:
            given = InputVolume.fromNode(node)
        except RWKVUNetError as error:
            failure = error
            later(lambda: emit(onError, failure))
            return
        key = (node.GetID(), node.GetImageData().GetMTime(), given.ijkToWorld.tobytes(), given.modality)
        if self._key == (self._client.session, *key):
            if self._file is not None:
                file = self._file
                later(lambda: deliver(onReady, onError, file))
            else:
                self._waiting.append((onReady, onError))
            return
        self.forget()
        self._waiting = [(onReady, onError)]

        def ready(name: str) -> None:
            self._giveUp = None
            self._file = VolumeFile(
                file=name, ijk_to_ras=geometry_of(given.ijkToWorld), name=given.name, modality=given.modality
            )
            self._answer(0, self._file)

        self._giveUp = self._client.put(given.array, ready, self._failed)
        self._key = (self._client.session, *key)

    def forget(self) -> None:
        """Delete the worker's copy. Whoever waits for it gets a `CancelledError`."""
        waiting = self._waiting
        if self._giveUp is not None:
            self._giveUp()
        elif self._file is not None and self._key[0] is self._client.session:
            self._client.discard(self._file.file)
        self._giveUp, self._file, self._key, self._waiting = None, None, None, []
        for _onReady, onError in waiting:
            emit(onError, CancelledError())

    def _failed(self, error: RWKVUNetError) -> None:
        self._giveUp = None
        self._key = None
        self._answer(1, error)

    def _answer(self, which: int, answer: Any) -> None:
        waiting, self._waiting = self._waiting, []
        for onReady, onError in waiting:
            if which == 0:
                deliver(onReady, onError, answer)
            else:
                emit(onError, answer)
