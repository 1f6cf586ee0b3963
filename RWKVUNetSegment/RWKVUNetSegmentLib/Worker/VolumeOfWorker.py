"""A volume's voxels in the worker's folder: handed over once, for as long as neither voxels nor worker change."""

from collections.abc import Callable
from typing import Any

from rwkv_core.errors import CancelledError, RWKVUNetError
from rwkv_core.worker.arrays import geometry_of
from rwkv_core.worker.protocol import VolumeFile
from RWKVUNetSegmentLib.EventLoop import deliver, later
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume
from RWKVUNetSegmentLib.Signal import emit
from RWKVUNetSegmentLib.Worker.WorkerClient import WorkerClient, WorkerState

_Waiting = tuple[Callable[[str], object], Callable[[RWKVUNetError], object]]


class _Upload:
    """The voxels of one volume, on their way or there.

    Attributes:
        key: of worker, node, voxels and where they lie.
        file: its name; empty while it is on its way.
        waiting: for it.
        giveUp: ends it while it is on its way.
    """

    def __init__(self, key: Any):
        self.key = key
        self.file = ""
        self.waiting: list[_Waiting] = []
        self.giveUp: Callable[[], None] | None = None


class VolumeOfWorker:
    """Keeps the volume that was asked for last with the worker; others go once it has nothing more to do.

    Args:
        client: whose worker gets it.
    """

    def __init__(self, client: WorkerClient):
        self._client = client
        self._uploads: list[_Upload] = []
        self._last: _Upload | None = None
        client.stateChanged.connect(self._drop)

    def get(
        self, node: Any, onReady: Callable[[VolumeFile], object], onError: Callable[[RWKVUNetError], object]
    ) -> Callable[[], None]:
        """Hand a volume node over, if that was not done. One of the callbacks comes, from the event loop.

        Returns:
            A function that gives up: then, neither comes, and an upload that nobody waits for ends.
        """
        try:
            given = InputVolume.fromNode(node)
        except RWKVUNetError as error:
            failure = error
            return later(lambda: emit(onError, failure))
        key = (node.GetID(), node.GetImageData().GetMTime(), given.ijkToWorld.tobytes(), given.modality)
        upload = next((known for known in self._uploads if known.key == (self._client.session, *key)), None)
        if upload is None:
            upload = self._begin(given)
            upload.key = (self._client.session, *key)  # the first upload starts the worker
        elif upload.file:
            ready = upload
            later(lambda: self._answer(ready))

        def onFile(name: str) -> None:  # the node may have another name by now
            geometry = geometry_of(given.ijkToWorld)
            onReady(VolumeFile(file=name, ijk_to_ras=geometry, name=given.name, modality=given.modality))

        waiting: _Waiting = (onFile, onError)
        upload.waiting.append(waiting)
        self._last = upload
        self._drop()
        asked = upload

        def giveUp() -> None:
            if waiting in asked.waiting:
                asked.waiting.remove(waiting)
                if not asked.file and not asked.waiting:
                    self._remove(asked)

        return giveUp

    def forget(self, node: Any = None) -> None:
        """Delete it from the worker's folder, once that does nothing. Whoever waits for it gets a `CancelledError`.

        Args:
            node: volume that is meant; None for all.
        """
        for upload in [known for known in self._uploads if node is None or known.key[1] == node.GetID()]:
            if self._last is upload:
                self._last = None
            waiting, upload.waiting = upload.waiting, []
            for _onFile, onError in waiting:
                emit(onError, CancelledError())
        self._drop()

    def _begin(self, given: InputVolume) -> _Upload:
        upload = _Upload(None)
        self._uploads.append(upload)

        def ready(name: str) -> None:
            upload.giveUp = None
            upload.file = name
            self._answer(upload)

        def fail(error: RWKVUNetError) -> None:
            upload.giveUp = None
            waiting, upload.waiting = upload.waiting, []
            self._remove(upload)
            for _onFile, onError in waiting:
                emit(onError, error)

        upload.giveUp = self._client.put(given.array, ready, fail)
        return upload

    def _answer(self, upload: _Upload) -> None:
        waiting, upload.waiting = upload.waiting, []
        for onFile, onError in waiting:
            deliver(onFile, onError, upload.file)
        self._drop()

    def _drop(self) -> None:
        """Remove what is not the last, nor waited for, nor what a request may be about."""
        for upload in list(self._uploads):
            isAskedAbout = upload.file and self._client.state in (WorkerState.STARTING, WorkerState.BUSY)
            if upload is not self._last and not upload.waiting and not isAskedAbout:
                self._remove(upload)

    def _remove(self, upload: _Upload) -> None:
        if upload in self._uploads:
            self._uploads.remove(upload)
        if self._last is upload:
            self._last = None
        if upload.giveUp is not None:
            upload.giveUp()
        elif upload.file and upload.key[0] is self._client.session:
            self._client.discard(upload.file)
        upload.giveUp = None
