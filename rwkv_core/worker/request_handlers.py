"""What the worker does for each request: a table of handlers. One runs at a time."""

from collections.abc import Callable
from typing import Any

from rwkv_core.worker import capabilities, model_requests
from rwkv_core.worker.arrays import PrivateFolder
from rwkv_core.worker.interactive import Interactive
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.loaded_models import LoadedModels
from rwkv_core.worker.prompts import Prompts
from rwkv_core.worker.protocol import (
    AnyRequest,
    DevicesRequest,
    DownloadRequest,
    Failure,
    FollowRequest,
    ImportRequest,
    LoadRequest,
    ModelsRequest,
    PlanRequest,
    Progress,
    PromptRequest,
    RefineRequest,
    RemoveRequest,
    Result,
    SegmentFileRequest,
    SegmentFilesRequest,
    SegmentRequest,
    SpreadRequest,
    UncertaintyRequest,
)
from rwkv_core.worker.segmenting import Segmenting, plan, segment_files

Handler = Callable[[Any, Job, Reporter], Result | Failure]


class RequestHandlers:
    """Answers requests.

    Args:
        folder: where arrays come from and go to.
        send: takes progress.
    """

    def __init__(self, folder: PrivateFolder, send: Callable[[Progress], None]):
        self._send, self._models = send, LoadedModels()
        self._interactive = interactive = Interactive(folder, self._models)
        segmenting = Segmenting(folder, self._models, interactive.kept)
        prompts = Prompts(folder)
        self._handlers: dict[type[AnyRequest], Handler] = {
            DevicesRequest: capabilities.devices,
            LoadRequest: segmenting.load,
            SegmentRequest: segmenting.segment,
            PlanRequest: plan,
            SegmentFileRequest: segmenting.segment_file,
            SegmentFilesRequest: segment_files,
            ModelsRequest: model_requests.models,
            DownloadRequest: model_requests.download,
            ImportRequest: model_requests.import_model,
            RemoveRequest: model_requests.remove,
            RefineRequest: interactive.refine,
            UncertaintyRequest: interactive.uncertainty,
            PromptRequest: prompts.answer,
            FollowRequest: prompts.follow,
            SpreadRequest: interactive.spread,
        }

    def answer(self, job: Job) -> Result | Failure:
        """Do what a request asks. Of a volume on disk, what is wrong with it comes as a `Failure`.

        Raises:
            CancelledError: when the job was cancelled.
            RWKVUNetError: with what is wrong with the request.
        """
        return self._handlers[type(job.request)](job.request, job, Reporter(job.request.id, self._send))

    def forget(self) -> None:
        """Drop models and probabilities, to make room in memory."""
        self._models.clear()
        self._interactive.kept.forget()
