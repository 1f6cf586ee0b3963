"""Segment a volume node: one function for button, console and batch.

logic = SegmentationLogic()
result = logic.process(getNode("MRHead"))                        # waits, without freezing Slicer
result = logic.process(volume, waitForCompletion=False, onFinished=print)
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from rwkv_core.errors import RWKVUNetError
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.worker.protocol import DevicesRequest, DevicesResult
from RWKVUNetSegmentLib.Scene.SegmentationWriting import SegmentationWriter
from RWKVUNetSegmentLib.Segmentation.SegmentationRun import (
    RunProgress,
    RunState,
    SegmentationParameters,
    SegmentationResult,
    SegmentationRun,
)
from RWKVUNetSegmentLib.Signal import Signal
from RWKVUNetSegmentLib.Worker.VolumeOfWorker import VolumeOfWorker
from RWKVUNetSegmentLib.Worker.WorkerClient import WorkerClient

__all__ = ["RunProgress", "RunState", "SegmentationLogic", "SegmentationParameters", "SegmentationResult"]


class SegmentationLogic:
    """Runs segmentations through one warm worker.

    Args:
        client: None for a `WorkerClient("segmentation")`.

    Attributes:
        volume: what the worker has of volumes: every part of the module that needs one asks here.
        occupations: functions that say what else keeps the worker busy for long, in words; empty when nothing does.
        occupationChanged: `Signal`, to be emitted when one of them says something else than before.
        completed: `Signal` with the `SegmentationResult` of a run that was completed, before its `onFinished`.
    """

    def __init__(self, client: WorkerClient | None = None):
        self.client = client or WorkerClient("segmentation")
        self.volume = VolumeOfWorker(self.client)
        self.writer = SegmentationWriter()
        self._runs: list[SegmentationRun] = []
        self.completed = Signal()
        self.occupations: list[Callable[[], str]] = []
        self.occupationChanged = Signal()
        scene = slicer.mrmlScene
        self._scene = scene
        self._tags = [
            scene.AddObserver(scene.StartCloseEvent, self._onSceneCloses),
            scene.AddObserver(scene.NodeAboutToBeRemovedEvent, self._onNodeGoes),
        ]

    @property
    def running(self) -> tuple[SegmentationResult, ...]:
        """Runs that are not over, in order."""
        return tuple(run.result for run in self._runs)

    def canStart(self) -> tuple[bool, str]:
        """Tell whether something that takes long may start, and else why not: one thing at a time, whoever began it.

        Holds for every button. A preview asks for single slices, and goes beside the rest; runs and batches that the
        Python console starts wait for their turn.
        """
        if self._runs:
            return False, _("Wait until the segmentation is done.")
        for occupation in self.occupations:
            if doing := occupation():
                return False, _("Wait until this is done: {action}").format(action=doing)
        return True, ""

    def process(
        self,
        inputVolume: Any,
        outputSegmentation: Any = None,
        options: SegmentOptions | None = None,
        region: Any = None,
        waitForCompletion: bool = True,
        *,
        show3D: bool = False,
        keep: bool = False,
        onProgress: Callable[[RunProgress], object] | None = None,
        onFinished: Callable[[SegmentationResult], object] | None = None,
        **changes: Any,
    ) -> SegmentationResult:
        """Segment a volume.

        The volume goes to the worker once, and again when it was modified: after changing voxels in place, call
        slicer.util.arrayFromVolumeModified, as for the views.

        Args: as `SegmentationParameters`, and
            changes: single fields of `SegmentOptions`, such as model="default", device="cpu" or smoothing=1.0.
            waitForCompletion: return when it is done; Slicer stays responsive. Else return at once.
            onProgress: called with each step.
            onFinished: called once, with the result in its final state.

        Returns:
            The result; with `waitForCompletion=False`, one that fills in. A node that is deleted meanwhile, or a scene
            that is closed, ends the run as cancelled.

        Raises:
            RuntimeError: only when waiting: what went wrong and what to do; also for a run that was cancelled.
        """
        parameters = SegmentationParameters(
            inputVolume=inputVolume,
            outputSegmentation=outputSegmentation,
            options=replace(options or SegmentOptions(), **changes),
            region=region,
            show3D=show3D,
            keep=keep,
        )
        result = self.start(parameters, onProgress, onFinished)
        if waitForCompletion:
            result.wait()
            if result.state == RunState.FAILED:
                raise RuntimeError(str(result.error)) from result.error
            if result.state == RunState.CANCELLED:
                raise RuntimeError(_("The segmentation was cancelled."))
        return result

    def start(
        self,
        parameters: SegmentationParameters,
        onProgress: Callable[[RunProgress], object] | None = None,
        onFinished: Callable[[SegmentationResult], object] | None = None,
    ) -> SegmentationResult:
        """Start what `process` does. Invalid parameters give a FAILED result; `onFinished` comes all the same."""
        result = SegmentationResult(parameters)
        run = SegmentationRun(result, self.client, self.volume, self.writer, onProgress, onFinished, self._runEnds)
        result.run = run
        self._runs.append(run)
        run.start(others=len(self._runs) - 1)
        return result

    def _runEnds(self, run: SegmentationRun) -> None:
        self._runs.remove(run)
        if run.result.state == RunState.COMPLETED:
            self.completed.emit(run.result)

    def askDevices(
        self, onResult: Callable[[DevicesResult], object], onError: Callable[[RWKVUNetError], object]
    ) -> None:
        """Devices and engines, and why one cannot be used. Warms the worker up: takes seconds the first time."""
        self.client.ask(DevicesRequest(), onResult=onResult, onError=onError)

    def cleanup(self) -> None:
        """Module reload or quit: end all runs without callbacks, and the worker with its process tree."""
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []
        self.completed.clear()
        self.occupationChanged.clear()
        for run in list(self._runs):
            run.forget()
        self.volume.forget()
        self.client.stop()

    def _onSceneCloses(self, caller: Any, event: str) -> None:
        busy = bool(self._runs)
        for run in list(self._runs):
            run.abandon()
        self.volume.forget()
        self.writer.history.clear()
        if busy:
            self.client.kill(_("The segmentation process was ended, because the scene was closed."))

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeGoes(self, caller: Any, event: str, node: Any) -> None:
        for run in list(self._runs):
            if run.concerns(node):
                run.abandon()
        if node.IsA("vtkMRMLScalarVolumeNode"):
            self.volume.forget(node)
