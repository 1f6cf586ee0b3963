"""Stand-ins for the module's logics, for tests of the panel alone: they are in any state at once, and do nothing.

The tests that press Segment use the real ones.
"""

from pathlib import Path
from types import SimpleNamespace

from rwkv_core.engines.availability import ENGINE_TITLES
from rwkv_core.errors import CancelledError
from rwkv_core.vocabulary import ModelEntry, Offer, SegmentClass
from rwkv_core.worker.protocol import DevicesResult
from RWKVUNetSegmentLib.Segmentation.BatchLogic import BatchResult
from RWKVUNetSegmentLib.Segmentation.InstallationLogic import Requirement, RequirementState
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import (
    RunProgress,
    RunState,
    SegmentationLogic,
    SegmentationResult,
)
from RWKVUNetSegmentLib.Signal import Signal
from RWKVUNetSegmentLib.Worker.VolumeOfWorker import VolumeOfWorker

from bench.modules import OpenedModule

BRAIN = (
    SegmentClass(value=1, name="White matter", color=(235, 230, 220)),
    SegmentClass(value=2, name="Cortex", color=(205, 62, 78)),
)
ORGANS = (SegmentClass(value=1, name="Liver", color=(221, 130, 101)),)


def model(id_, title, state, modality, classes, **others):
    facts = {
        "description": f"{title}.",
        "reason": "",
        "kind": "segmentation",
        "variant": "T",
        "licence": "Apache-2.0",
        "citation": "",
        "size": 12_700_000,
        "folder": "",
        "origin": "",
        "repo": "",
        "revision": "",
        "in_channels": 1,
        "orientations": ("SPL", "AIL", "LIP"),
    }
    return ModelEntry(id=id_, title=title, state=state, modality=modality, classes=classes, **facts | others)


MODELS = (
    model("default", "Brain structures", "shipped", "MR", BRAIN, origin="shipped", folder="/models/default"),
    model("organs", "Abdominal organs", "needs download", "CT", ORGANS, repo="owner/organs", revision="abc"),
    model("heart", "Heart", "not published", "MR", (), licence="not stated"),
    model(
        "mine",
        "My own",
        "installed",
        "any",
        ORGANS,
        origin="imported from a <b>.pth",
        folder="/models/mine",
        orientations=("SPL",),
    ),
    model("bad", "Damaged one", "broken", "CT", ORGANS, reason="model.safetensors is missing.", folder="/models/bad"),
    model("encoder", "Encoder", "shipped", "any", (), kind="encoder"),
)


class Changing:
    """Has the signal `changed`, as the true logics have."""

    def __init__(self):
        self.changed = Signal()


class Installation(Changing):
    """`ready` says whether everything is there; `installs` are the calls."""

    torchOffered = restartPending = False
    broken = ""

    def __init__(self):
        super().__init__()
        self.ready, self.installs = True, []
        self.answer = (True, "")

    def refresh(self):
        self.changed.emit()

    def states(self):
        state, why = (RequirementState.READY, "2.9.0") if self.ready else (RequirementState.MISSING, "")
        if self.broken:
            state, why = RequirementState.BROKEN, self.broken
        return (
            Requirement("packages", "OpenVINO and Python packages", state, why),
            Requirement("torch", "GPU and training: PyTorch", RequirementState.MISSING, "", optional=True),
        )

    def isValid(self):
        return (True, "") if self.ready else (False, "OpenVINO is missing: press Install in Setup.")

    busy = checking = False

    def canInstall(self):
        return not self.ready and not self.restartPending, "Slicer must be restarted."

    def resume(self):
        return True, ""

    def cleanup(self):
        pass

    def install(self, confirm=None, torch=False):
        self.installs.append(torch)
        self.ready = self.answer[0]
        self.changed.emit()
        return self.answer


class Models(Changing):
    """The list above; `calls` are the actions, which go on until `finish`."""

    def __init__(self):
        super().__init__()
        self.client = SimpleNamespace(kill=lambda reason: None)
        self.models, self.store, self.busy, self.calls, self.refreshed = MODELS, Path("/nowhere"), "", [], 0
        self.listing = False

    def find(self, modelID):
        return next((m for m in self.models if m.id == modelID), None)

    def refresh(self, onDone=None, onError=None):
        self.refreshed += 1

    def canDownload(self, modelID):
        return self.find(modelID).state == "needs download", "It is here, or nobody has published it."

    def canRemove(self, modelID):
        return self.find(modelID).state in ("installed", "broken"), "It is not a model of yours."

    def canSegment(self, modelID, modality=""):
        found = self.find(modelID)
        here = bool(found and found.kind == "segmentation" and found.state in ("shipped", "installed"))
        return here, "The model is not on this computer."

    def modalityWarning(self, modelID, modality):
        made_for = self.find(modelID).modality
        return f"The model is for {made_for}." if modality and made_for not in ("any", modality) else ""

    def expectedModality(self, modelID):
        made_for = self.find(modelID).modality
        return "" if made_for == "any" else made_for

    describes = None
    """What a file says of itself, or why it cannot be read; None: the answer does not come."""

    def describe(self, path, onDone, onError):
        if isinstance(self.describes, Exception):
            onError(self.describes)
        elif self.describes is not None:
            onDone(self.describes)

    def _begin(self, action, *arguments, onProgress=None, onDone=None, onError=None, **_others):
        self.calls.append((action, *arguments))
        self.described = _others.get("described")
        self.busy, self._onProgress, self._onError = action, onProgress, onError
        self.changed.emit()

    def download(self, *arguments, **options):
        self._begin("download", *arguments, **options)

    def importModel(self, *arguments, **options):
        self._begin("import", *arguments, **options)

    def remove(self, *arguments, **options):
        self._begin("remove", *arguments, **options)

    def progress(self, progress):
        self._onProgress(progress)

    def finish(self, error=None):
        self.busy = ""
        if error is not None:
            self._onError(error)
        self.changed.emit()

    def cancel(self):
        self.finish(CancelledError("Cancelled."))

    def cleanup(self):
        pass


class Segmentation:
    """`begun` are the runs; the test drives them on."""

    def __init__(self):
        self.begun, self.killed = [], []
        self.client = SimpleNamespace(
            logPath=None,
            logTail=lambda: "the end of the log",
            kill=self.killed.append,
            session=None,
            stateChanged=Signal(),
        )
        self.volume = VolumeOfWorker(self.client)
        self.undone = []
        self.completed = Signal()
        self.occupations = []
        self.occupationChanged = Signal()
        self.writer = SimpleNamespace(
            canUndo=lambda node: node not in self.undone,
            undo=self.undone.append,
            history=SimpleNamespace(ownEditor=None),
        )

    canStart = SegmentationLogic.canStart  # the rule is the true one

    @property
    def _runs(self):
        return self.running

    @property
    def running(self):
        return tuple(run.result for run in self.begun if not run.result.finished)

    def start(self, parameters, onProgress=None, onFinished=None):
        self.begun.append(Run(SegmentationResult(parameters), onProgress, onFinished))
        return self.begun[-1].result

    def askDevices(self, onResult, onError):
        onResult(
            DevicesResult(
                id=1,
                auto="cpu",
                devices=(
                    Offer(name="cuda", title="NVIDIA GPU", unavailable="There is no driver."),
                    Offer(name="cpu", title="x86_64, 2 cores"),
                ),
                engines=tuple(Offer(name=name, title=ENGINE_TITLES[name]) for name in ("torch", "openvino")),
            )
        )

    def cleanup(self):
        pass


class Run:
    """One press of Segment."""

    def __init__(self, result, onProgress, onFinished):
        self.result, self._onProgress, self._onFinished = result, onProgress, onFinished
        self.cancelled = False
        result.cancel = self._cancel

    def _cancel(self):
        self.cancelled = True

    def progress(self, done, total, secondsLeft, text="Segmenting", stage="segment"):
        self.result.state = RunState.RUNNING
        self._onProgress(RunProgress(stage, text, done, total, secondsLeft))

    def finish(self, state=RunState.COMPLETED, **facts):
        for name, value in {"state": state, **facts}.items():
            setattr(self.result, name, value)
        self._onFinished(self.result)


class Batch:
    """`calls` are the batches: folders, settings and callbacks."""

    def __init__(self, segmentation):
        self.calls, self.result, self.cancelled = [], BatchResult(), 0
        segmentation.occupations.append(lambda: "Segmenting a batch" if self.running else "")
        self.result.state = RunState.RUNNING
        self.result.cancel = self._cancel

    def _cancel(self):
        self.cancelled += 1

    @property
    def running(self):
        return (self.result,) if self.calls and not self.result.finished else ()

    def processFolder(self, inputFolder, outputFolder, options, **others):
        self.calls.append((inputFolder, outputFolder, {"options": options, **others}))
        return self.result

    def processVolumes(self, inputVolumes, options, **others):
        self.calls.append((tuple(inputVolumes), None, {"options": options, **others}))
        return self.result

    def cleanup(self):
        pass

    def progress(self, **facts):
        self._set(facts)
        self.calls[-1][2]["onProgress"](self.result)

    def finish(self, **facts):
        self._set(facts)
        self.calls[-1][2]["onFinished"](self.result)

    def _set(self, facts):
        for name, value in facts.items():
            setattr(self.result, name, value)


def openModule(path):
    """The module on the bench, its logics replaced by the stand-ins."""
    opened = OpenedModule(path)
    source = opened.python
    source.InstallationLogic, source.ModelsLogic = Installation, Models
    source.SegmentationLogic, source.BatchLogic = Segmentation, Batch
    opened.enter()
    return opened
