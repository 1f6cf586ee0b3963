"""Training runs: start, stop, resume, remove, and watch them. A run is a process that outlives Slicer.

    logic.start(TrainingRequest(name="my-organs", segmentations=(node,)), onError=print)
    for run in logic.runs:
        print(run.name, run.state)

What is known of a run is what its folder says (docs/training.md), so runs of an earlier Slicer, or of a terminal, are
found as well. The folder is polled by a timer as long as a run lives. Nothing is started but by `start` and `resume`.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from rwkv_core.errors import InputError, RWKVUNetError
from rwkv_core.vocabulary import is_model_id
from RWKVUNetSegmentLib.EventLoop import Timer, later, runInChunks
from RWKVUNetSegmentLib.Scene.InputVolume import modalityOf
from RWKVUNetSegmentLib.Signal import Signal, emit
from RWKVUNetSegmentLib.Training.TrainingCommand import TrainingCommand
from RWKVUNetSegmentLib.Training.TrainingDataExport import exportData, problemOf, removeData, volumeOf
from RWKVUNetSegmentLib.Training.TrainingRun import TrainingRun, dataFolder

_POLL_SECONDS = 1.0
_SEMI_SUPERVISED = "fugc"


@dataclass(frozen=True, eq=False)
class TrainingRequest:
    """What to train.

    Attributes:
        name: of the run, and id of the model.
        segmentations: nodes of the scene.
        folder: a further data set, or the only one, in any layout of docs/training.md; empty for none.
        classes: names of those to learn; None for all.
        preset: a recipe of rwkv_core/training/presets.
        model: id of the model to start from; empty for what the recipe says.
        epochs: 0 for what the recipe says.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        unlabelled: folder with images for recipes that learn from such, too.
        changes: further fields of the recipe, "key=value".
    """

    name: str
    segmentations: tuple[Any, ...] = ()
    folder: str = ""
    classes: tuple[str, ...] | None = None
    preset: str = "finetune"
    model: str = ""
    epochs: int = 0
    device: str = "auto"
    unlabelled: str = ""
    changes: tuple[str, ...] = ()

    @property
    def semiSupervised(self) -> bool:
        """Whether the recipe needs unlabelled images."""
        return self.preset == _SEMI_SUPERVISED

    def arguments(self, data: Path) -> list[str]:
        """List the arguments of `rwkv-unet train`, without the run's folder."""
        words = [str(data), f"--name={self.name}", f"--preset={self.preset}", f"--device={self.device}"]
        if self.model:
            words.append(f"--init={self.model}")
        if self.semiSupervised:
            words.append(f"--unlabelled={self.unlabelled}")
        changes = [f"epochs={self.epochs}"] if self.epochs else []
        modalities = {modalityOf(volumeOf(node)) for node in self.segmentations}
        if not self.folder and len(modalities) == 1 and modalities <= {"CT", "MR"}:
            changes.append(f"modality={modalities.pop()}")
        changes += self.changes
        return words + [f"--set={change}" for change in changes]


class TrainingLogic:
    """The runs in one folder.

    Args:
        models: `ModelsLogic`: says where the runs lie, and is refreshed when one has finished.

    Attributes:
        runs: newest first, as they were when looked at last.
        starting: what is being done to start or resume a run, in words; empty when nothing is.
        warnings: about the data of the run that was started last.
    """

    def __init__(self, models: Any):
        self.runs: tuple[TrainingRun, ...] = ()
        self.starting = ""
        self.warnings: tuple[str, ...] = ()
        self._models = models
        self._folder: Path | None = None
        self._command: TrainingCommand | None = None
        self._giveUp: Callable[[], None] | None = None
        self.changed = Signal()
        self._timer = Timer(self.refresh, int(1000 * _POLL_SECONDS), repeats=True)

    @property
    def defaultFolder(self) -> Path | None:
        """Beside the store of models; None as long as that is not known."""
        return self._models.store.parent / "runs" if self._models.store else None

    @property
    def folder(self) -> Path | None:
        """The folder in which the runs lie."""
        return self._folder or self.defaultFolder

    def setFolder(self, folder: Path | None) -> None:
        """Look for runs, and start them, somewhere else; None for the default."""
        if folder != self._folder:
            self._folder = folder
            self.refresh()

    @property
    def cancellable(self) -> bool:
        """Whether data are being written for a run that has not begun."""
        return self._giveUp is not None

    def cancelStart(self) -> None:
        """Give up writing data; nothing is left, and no callback comes."""
        if self._giveUp is not None:
            self._giveUp()
            self._over()

    def find(self, name: str) -> TrainingRun | None:
        """Give the run of a name; None when there is none."""
        return next((run for run in self.runs if run.name == name), None)

    def refresh(self) -> None:
        """Look at the folder again."""
        before = {run.folder: run.state for run in self.runs}
        found = self._look()
        if any(run.state == "finished" and before.get(run.folder, "finished") != "finished" for run in found):
            self._models.refresh()
        if found != self.runs:
            self.runs = found
            self.changed.emit()
        if any(run.active for run in found):
            self._timer.start()
        elif not self.starting:
            self._timer.stop()

    def canStart(self, request: TrainingRequest) -> tuple[bool, str]:
        """Tell whether it can be started now, and else why not."""
        if self.starting:
            return False, _("Wait until the other run has begun.")
        if self.folder is None:
            return False, _("The list of models is being read.")
        if not request.segmentations and not request.folder:
            return False, _("Tick the segmentations to learn from, or choose a folder with a data set.")
        if reason := problemOf(request.segmentations):
            return False, reason
        if request.folder and not Path(request.folder).exists():
            return False, _("There is no folder {folder}.").format(folder=request.folder)
        if request.classes is not None and not request.classes:
            return False, _("Tick at least one class.")
        if request.semiSupervised and not (request.unlabelled and Path(request.unlabelled).exists()):
            return False, _("This recipe learns from unlabeled images, too: choose their folder.")
        return self._canBeNamed(request.name)

    def start(
        self,
        request: TrainingRequest,
        onStarted: Callable[[TrainingRun | None], object] | None = None,
        onError: Callable[[RWKVUNetError], object] | None = None,
    ) -> None:
        """Write the scene's data, and start the run. Never raises: exactly one of the callbacks comes.

        `onStarted` says that the process has begun; whether it accepts the data is seen in its state. `onError` gets
        what the process said, and then nothing is left of the run.
        """
        possible, reason = self.canStart(request)
        if not possible or self.folder is None:
            later(lambda: emit(onError, InputError(reason)))
            return
        folder = self.folder / request.name
        data = dataFolder(folder)

        def launch(written: tuple[Path, list[str]]) -> None:
            self._giveUp = None
            self.warnings = tuple(written[1])
            self._launch(folder, [*request.arguments(written[0]), "-o", str(folder)], onStarted, failed)

        def failed(error: RWKVUNetError) -> None:
            removeData(data)
            self._over()
            emit(onError, error)

        self.warnings = ()
        if request.segmentations or request.classes is not None:
            work = exportData(request.segmentations, request.classes, request.folder, data)
            self._giveUp = runInChunks(work, launch, failed)
            self._set(_("Writing the data…"))
        else:
            launch((Path(request.folder), []))

    def stop(self, run: TrainingRun) -> None:
        """Ask a run to end after its current step; it can be resumed.

        Raises:
            InputError: when its folder cannot be written.
        """
        from rwkv_core.training.run_status import request_stop

        try:
            request_stop(run.folder)
        except OSError as error:
            raise InputError(
                _("{folder} cannot be written: {reason}.").format(folder=run.folder, reason=error.strerror)
            ) from None
        self.refresh()

    def resume(
        self,
        run: TrainingRun,
        device: str = "auto",
        onStarted: Callable[[TrainingRun | None], object] | None = None,
        onError: Callable[[RWKVUNetError], object] | None = None,
    ) -> None:
        """Go on with a run that was stopped, or ended otherwise. Callbacks as in `start`."""
        if self.starting:
            busy = InputError(_("Wait until the other run has begun."))
            later(lambda: emit(onError, busy))
            return

        def failed(error: RWKVUNetError) -> None:
            self._over()
            emit(onError, error)

        self._launch(run.folder, ["--resume", f"--device={device}", "-o", str(run.folder)], onStarted, failed)

    def remove(self, run: TrainingRun) -> None:
        """Delete a run's folder and the data that was written for it. Its model stays in the list.

        Raises:
            InputError: when it is running, or cannot be deleted.
        """
        self.refresh()
        if any(other.folder == run.folder and other.active for other in self.runs):
            raise InputError(_("{name} is running. Stop it first.").format(name=run.name))
        hidden = run.folder.with_name(f".removed-{run.name}")
        try:
            if hidden.exists():
                shutil.rmtree(hidden)
            run.folder.rename(hidden)  # whole or not at all, as some system may hold a file of it
            shutil.rmtree(hidden)
        except OSError as error:
            raise InputError(
                _("{folder} cannot be deleted: {reason}.").format(folder=run.folder, reason=error.strerror or error)
            ) from None
        finally:
            self.refresh()
        removeData(run.data)

    def cleanup(self) -> None:
        """Stop watching, at module reload or quit. Runs go on."""
        self.changed.clear()
        self._timer.delete()
        self.cancelStart()
        if self._command is not None:
            self._command.end()
        self._over()

    def _look(self) -> tuple[TrainingRun, ...]:
        if self.folder is None:
            return ()
        try:
            from rwkv_core.training.run_status import read_status, runs_in
        except ImportError:  # filelock comes with PyTorch
            return ()
        try:
            return tuple(TrainingRun(folder, read_status(folder)) for folder in runs_in(self.folder))
        except OSError:
            return ()

    def _canBeNamed(self, name: str) -> tuple[bool, str]:
        if not name:
            return False, _("Give the model a name.")
        if not is_model_id(name):
            return False, _(
                "{name} cannot be a model's name. Use letters, digits, dots, dashes and underscores, at most 64."
            ).format(name=name)
        if self._models.find(name) is not None:
            return False, _("There is a model named {name} already. Choose another name.").format(name=name)
        folder = (self.folder or Path()) / name
        if folder.exists() or dataFolder(folder).exists():
            return False, _("There is a run named {name} already. Choose another name, or remove it below.").format(
                name=name
            )
        return True, ""

    def _launch(
        self,
        folder: Path,
        arguments: list[str],
        onStarted: Callable[[TrainingRun | None], object] | None,
        onError: Callable[[RWKVUNetError], object],
    ) -> None:
        """Start a process that starts the run, in a session of its own, and ends when it has begun."""

        def begun(output: str) -> None:
            self._over()
            self.refresh()
            emit(onStarted, next((run for run in self.runs if run.folder == folder), None))

        self._command = TrainingCommand(["train", "--detach", *arguments], begun, onError)
        self._set(_("Starting {name}…").format(name=folder.name))

    def _over(self) -> None:
        self._command, self._giveUp = None, None
        self._set("")

    def _set(self, starting: str) -> None:
        self.starting = starting
        self.changed.emit()
