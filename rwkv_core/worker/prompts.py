"""Requests of a user who points at structures."""

import time
from typing import TYPE_CHECKING

import numpy as np

from rwkv_core.errors import CancelledError, InputError
from rwkv_core.vocabulary import SliceIndex
from rwkv_core.worker.arrays import PrivateFolder
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.protocol import FollowRequest, FollowResult, PromptRequest, PromptResult, Stage

if TYPE_CHECKING:
    from rwkv_core.inference.prompter import Memory, Prompter


class Prompts:
    """Answers `PromptRequest` and `FollowRequest`; keeps one model ready, and what was answered about the last slice.

    No volume is held between requests: one that stays mapped could not be deleted on Windows.

    Args:
        folder: where arrays come from and go to.
    """

    def __init__(self, folder: PrivateFolder):
        self._folder = folder
        self._prompter: Prompter | None = None
        self._made_from: object = None
        self._remembered: tuple[object, Memory | None] = (None, None)

    def answer(self, request: PromptRequest, job: Job, report: Reporter) -> PromptResult:
        """Find what is pointed at.

        Raises:
            CancelledError: when the job was cancelled.
            RWKVUNetError: with what is wrong with the request.
        """
        prompter, warm = self._ready(request, job, report)
        start = time.perf_counter()
        try:
            self._set_volume(prompter, request)
            key = (self._folder.state(request.volume.file), request.window, self._made_from)
            if self._remembered[0] == key:
                prompter.memory = self._remembered[1]
            dimension = request.slice.dimension
            places = [*request.points, *(request.box or ())]
            for place in places:
                if round(place[2 - dimension]) != request.slice.index:
                    raise InputError(f"A point lies outside slice {request.slice.index} along {request.slice.axis}.")
            across = [2 - axis for axis in range(3) if axis != dimension]
            found = [(place[across[0]], place[across[1]]) for place in places]
            points, corners = found[: len(request.points)], np.array(found[len(request.points) :])
            box = None if request.box is None else (*corners.min(0).tolist(), *corners.max(0).tolist())
            probabilities = prompter.predict(
                request.slice.axis,
                request.slice.index,
                points,
                [int(label) for label in request.labels],
                box,
                None if request.scribble is None else self._folder.get(request.scribble),
                None if request.mask is None else self._folder.get(request.mask),
                job.cancelled,
            )
            self._remembered = (key, prompter.memory)
        finally:
            prompter.drop_volume()
        if job.cancelled.is_set():
            raise CancelledError
        return PromptResult(
            id=request.id,
            probabilities=self._folder.put(probabilities.astype(np.float16)),
            seconds=time.perf_counter() - start,
            warm=warm,
        )

    def follow(self, request: FollowRequest, job: Job, report: Reporter) -> FollowResult:
        """Follow a structure through the slices.

        Raises:
            CancelledError: when the job was cancelled.
            RWKVUNetError: with what is wrong with the request.
        """
        prompter, _ = self._ready(request, job, report)
        try:
            self._set_volume(prompter, request)
            mask = self._folder.get(request.mask) > 0
            axis, index = request.slice.axis, request.slice.index
            found = prompter.propagate(
                mask, index, axis, request.range, request.stop, report.counter("segment"), job.cancelled
            )
        finally:
            prompter.drop_volume()
        labelled = [n for n in found.agreement if found.first <= n <= found.last]
        return FollowResult(
            id=request.id,
            labelmap=self._folder.put(found.labelmap),
            slices=tuple(SliceIndex(axis, n) for n in labelled),
            agreement=tuple(found.agreement[n] for n in labelled),
            first=found.first,
            last=found.last,
            reasons=found.reasons,
        )

    def _set_volume(self, prompter: "Prompter", request: PromptRequest | FollowRequest) -> None:
        volume = self._folder.volume(request.volume)
        request.slice.of(volume.array)  # tells of a slice that is not there
        prompter.set_volume(volume, request.window)

    def _ready(self, request: PromptRequest | FollowRequest, job: Job, report: Reporter) -> "tuple[Prompter, bool]":
        """The model, and whether it was ready before."""

        def begin(stage: Stage) -> None:
            if job.cancelled.is_set():
                raise CancelledError
            report.stage(stage)

        made_from = (request.bundle, request.device, request.engine)
        if self._prompter is not None and self._made_from == made_from:
            return self._prompter, True
        begin("library")
        from rwkv_core.inference.prompter import Prompter

        begin("weights")
        self._prompter = None
        self._prompter, self._made_from = Prompter(request.bundle, request.device, request.engine), made_from
        return self._prompter, False
