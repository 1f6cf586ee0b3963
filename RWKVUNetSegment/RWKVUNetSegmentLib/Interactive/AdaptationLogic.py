"""Learn from the user's corrections: adapt a copy of the model, write its result where the user has not worked.

interactive.adaptation.adapt("mine")          # then compare(), revert(), save()
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import CancelledError, InputError, RWKVUNetError
from rwkv_core.vocabulary import ClassChange, Region, SegmentOptions, SliceIndex, is_model_id
from rwkv_core.worker.protocol import AdaptRequest, AdaptResult, Progress, VolumeFile
from RWKVUNetSegmentLib.Interactive.VerifiedSlices import editedSlices, gridOf, slicesMask
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart
from RWKVUNetSegmentLib.Scene.SegmentLabels import withNewClasses
from RWKVUNetSegmentLib.Segmentation.ResultLogic import KeptResult, ResultLogic
from RWKVUNetSegmentLib.Worker.Signal import emit
from RWKVUNetSegmentLib.Worker.VolumeOfWorker import VolumeOfWorker
from RWKVUNetSegmentLib.Worker.WorkerClient import WorkerTicket


@dataclass(frozen=True, eq=False)
class Adaptation:
    """A model that learnt in this session.

    Attributes:
        name: id that it will be saved by.
        folder: where it lies until then; deleted at the end of the session.
        changes: by class, from the result before to the new one.
        before, after: the result that it began with, and the new one.
    """

    name: str
    folder: Path
    slices: tuple[SliceIndex, ...]
    changes: tuple[ClassChange, ...]
    before: KeptResult
    after: KeptResult


class AdaptationLogic:
    """Adaptations of this session; the last is the one that `compare`, `revert` and `save` are about.

    Args:
        result: what they begin with.
        volume: hands the scan over.
        models: `ModelsLogic`, which saves them.

    Attributes:
        adaptations: those that were not reverted, oldest first.
        progress: of the one that goes on; None when none does.
    """

    def __init__(self, result: ResultLogic, volume: VolumeOfWorker, models: Any):
        self._result, self._volume, self._models = result, volume, models
        self.adaptations: list[Adaptation] = []
        self.progress: Progress | None = None
        self._folder: Path | None = None
        self._ticket: WorkerTicket | None = None
        self._cancelled = False
        self._compared = ""
        self._running = False

    @property
    def running(self) -> bool:
        return self._running

    @property
    def last(self) -> Adaptation | None:
        return self.adaptations[-1] if self.adaptations else None

    def corrected(self) -> tuple[SliceIndex, ...]:
        """Slices to learn from: verified ones, those that were learnt from before, and those that were edited.

        Raises:
            InputError: when there is no result.
        """
        current = self._result.settled()
        users, _new = self._users(current)
        edited = editedSlices(current.labels, users)
        return tuple(dict.fromkeys([*self._result.protectedSlices(), *edited]))

    def canAdapt(self, name: str) -> tuple[bool, str]:
        """Whether `adapt` can be tried, and else why not. That there are no corrections is told by `adapt`'s error."""
        possible, reason = self._result.canLearn()
        if not possible:
            return False, reason
        if not is_model_id(name):
            return False, _("Give the adapted model a name: at most 64 letters, digits, dots, underscores and hyphens.")
        if self._models.find(name) is not None:
            return False, _("There is a model named {name}. Choose another name.").format(name=name)
        return True, ""

    def adapt(
        self,
        name: str,
        slices: Sequence[SliceIndex] = (),
        seconds: float = 55.0,
        device: str | None = None,
        engine: str | None = None,
        onProgress: Callable[[Progress], object] | None = None,
        onFinished: Callable[[Adaptation | RWKVUNetError], object] | None = None,
    ) -> None:
        """Learn from corrected slices, then segment again what is neither verified nor edited. One undo step.

        Args:
            name: of the adapted model.
            slices: that were corrected, besides verified ones and those that differ from the result.
            seconds: for learning, about.
            device, engine: None for those of the result.
            onFinished: gets the adaptation, or why there is none.

        Raises:
            InputError: when that cannot be tried now.
        """
        possible, reason = self.canAdapt(name)
        if not possible:
            raise InputError(reason)
        current = self._result.settled()
        users, new = self._users(current)
        marked = tuple(dict.fromkeys([*self._result.protectedSlices(), *slices]))
        self._running, self._cancelled = True, False

        def giveUp(error: RWKVUNetError) -> None:
            self.cancel()
            over(error)

        self._result.begin(_("Learning from the corrections"), giveUp)
        client = self._result.client
        files: list[str] = []

        finished: list[bool] = []

        def over(outcome: Adaptation | RWKVUNetError) -> None:
            if finished:  # given up before
                return
            finished.append(True)
            for file in files:
                client.discard(file)
            self._running, self.progress, self._ticket = False, None, None
            self._result.end(outcome if isinstance(outcome, RWKVUNetError) else self._outcome(outcome))
            emit(onFinished, outcome)

        def withVolume(file: VolumeFile) -> None:
            client.put(users, lambda name: withUsers(file, name), over)

        def withUsers(file: VolumeFile, name: str) -> None:
            files.append(name)
            client.put(current.labels, lambda name: ask(file, name), over)

        def ask(file: VolumeFile, before: str) -> None:
            files.append(before)
            if self._cancelled:
                over(CancelledError())
                return
            try:
                folder = self._newFolder(name)
            except OSError as error:
                over(InputError(_("The adapted model cannot be written: {error}.").format(error=error)))
                return
            request = AdaptRequest(
                volume=file,
                labelmap=files[0],
                folder=str(folder),
                name=name,
                title=name,
                prediction=before,
                slices=marked,
                new_classes=new,
                seconds=seconds,
                region=current.box,
                options=SegmentOptions(
                    model=current.model,
                    device=device or current.device,
                    engine=engine or current.engine,
                    any_modality=True,  # the user was asked when the result was made
                ),
            )

            def take(answer: AdaptResult) -> None:
                try:
                    labels = self._result.take(answer.labelmap)
                    if self._result.current is not current:
                        raise CancelledError  # what was learnt from is gone
                    over(self._write(name, current, users, answer, labels))
                except RWKVUNetError as error:
                    over(error)

            def step(progress: Progress) -> None:
                self.progress = progress
                emit(onProgress, progress)
                self._result.changed.emit()

            self._ticket = client.ask(request, step, take, over)

        self._volume.get(current.volume, withVolume, over)

    def cancel(self) -> None:
        """End what goes on; nothing is changed then."""
        self._cancelled = True
        if self._ticket is not None:
            self._result.client.cancel(self._ticket)

    def canRevert(self) -> tuple[bool, str]:
        """Whether the result is that of an adaptation, and nothing else goes on."""
        current = self._result.current
        if self.last is None:
            return False, _("Nothing was adapted.")
        if current is None or current.model != self.last.after.model:
            return False, _("What is there now was not made by the adapted model.")
        return not self._result.busy, _("Wait until this is done: {action}").format(action=self._result.busy)

    def compare(self, shown: bool = True) -> None:
        """Show what was before the last adaptation in place of what is now, until it is called with False."""
        node = slicer.mrmlScene.GetNodeByID(self._compared) if self._compared else None
        self._compared = ""
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)
        if self.last is None:
            return
        after, before = self.last.after, self.last.before
        if shown:
            name = _("{name} before").format(name=after.node.GetName())
            node = self._result.writer.newHiddenNode(after.volume, name, "RWKVUNetSegment.Comparison")
            part = LabelledPart(before.written, Region.whole(before.written.shape), before.classes)
            self._result.writer.write(node, after.volume, part, undoable=False)
            self._compared = node.GetID()
        if after.node.GetDisplayNode() is not None:
            after.node.GetDisplayNode().SetVisibility(not shown)
        self._result.changed.emit()

    @property
    def comparing(self) -> bool:
        """Whether what was before is shown."""
        return bool(self._compared and slicer.mrmlScene.GetNodeByID(self._compared))

    def revert(self) -> None:
        """Go back to the result, and to the model, before the last adaptation. One undo step.

        Raises:
            InputError: when there is none, or it cannot be written.
        """
        possible, reason = self.canRevert()
        if not possible:
            raise InputError(reason)
        self.compare(False)
        last = self.adaptations[-1]
        users = self._result.users()
        stays = slicesMask(users.shape, last.after.fixed) | (users != last.after.written)
        labels = last.before.written
        part = LabelledPart(labels, Region.whole(labels.shape), last.after.classes, where=~stays)
        self._result.writer.write(last.after.node, last.after.volume, part)
        before = replace(last.before, request=None, written=self._result.users())
        # Undo brings its result back, not the model: its files are gone.
        self._result.adopt(before, replace(last.after, request=None, model=last.before.model))
        self.adaptations.pop()
        shutil.rmtree(last.folder, ignore_errors=True)
        self._result.changed.emit()

    def save(
        self,
        onDone: Callable[[], object] | None = None,
        onError: Callable[[RWKVUNetError], object] | None = None,
    ) -> None:
        """Put the last adaptation into the list of models, by its name.

        Raises:
            InputError: when there is none.
        """
        if self.last is None:
            raise InputError(_("Nothing was adapted."))
        self._models.importModel(self.last.folder, self.last.name, onDone=onDone, onError=onError)

    def forget(self) -> None:
        """Drop the adaptations of a result that is gone, and their files."""
        self.cancel()
        adaptations, self.adaptations = self.adaptations, []  # first: what follows tells listeners
        for one in adaptations[-1:] if self.comparing else ():
            if one.after.node.GetDisplayNode() is not None:
                one.after.node.GetDisplayNode().SetVisibility(True)
        self.compare(False)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _users(self, current: KeptResult) -> tuple[np.ndarray, Any]:
        grid = gridOf(current.node, current.volume)
        return withNewClasses(current.node, grid, current.classes, self._result.users())

    def _newFolder(self, name: str) -> Path:
        if self._folder is None:
            Path(slicer.app.temporaryPath).mkdir(parents=True, exist_ok=True)
            self._folder = Path(tempfile.mkdtemp(prefix="RWKVUNetSegment-adapted-", dir=slicer.app.temporaryPath))
        return Path(tempfile.mkdtemp(dir=self._folder)) / name

    def _write(
        self, name: str, before: KeptResult, users: np.ndarray, answer: AdaptResult, labels: np.ndarray
    ) -> Adaptation:
        fixed = tuple(dict.fromkeys(answer.slices))
        where = np.zeros(labels.shape, bool)
        where[before.inside] = True
        where &= ~slicesMask(labels.shape, fixed)
        part = LabelledPart(labels, Region.whole(labels.shape), answer.classes, where=where)
        self._result.writer.write(before.node, before.volume, part)
        found = replace(before, classes=answer.classes)
        self._result.current = found
        written = self._result.users()
        after = replace(
            found,
            request=answer.id if answer.kept else None,
            session=self._result.client.session if answer.kept else None,
            model=answer.folder,
            labels=written,
            written=written,
            fixed=fixed,
            processing=type(before.processing)(),
        )
        before = replace(before, written=users)
        self._result.adopt(after, before)
        self.adaptations.append(Adaptation(name, Path(answer.folder), answer.slices, answer.changes, before, after))
        return self.adaptations[-1]

    def _outcome(self, adaptation: Adaptation) -> str:
        changed = max(adaptation.changes, key=lambda one: abs(one.after_ml - one.before_ml), default=None)
        said = _("Learnt from {count} slices.").format(count=len(adaptation.slices))
        if changed is not None:
            said += " " + _("Most changed: {name}, {before:.1f} ml, now {after:.1f} ml.").format(
                name=changed.name, before=changed.before_ml, after=changed.after_ml
            )
        return said
