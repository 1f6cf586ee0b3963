"""The worker's process: reads requests in one thread and does them, one after another, in the main one.

It ends with a shutdown request, and at once when standard input ends or its parent dies, even in the middle of a
request: nobody is left to take the answer. It opens no port.
"""

import argparse
import gc
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from rwkv_core.errors import CancelledError, RWKVUNetError
from rwkv_core.worker import machine
from rwkv_core.worker.arrays import PrivateFolder
from rwkv_core.worker.errors import ProtocolError, explain
from rwkv_core.worker.framing import LineSplitter, decode_request, encode
from rwkv_core.worker.interactive import Interactive, Prompts
from rwkv_core.worker.jobs import Job, Jobs, Reporter
from rwkv_core.worker.loaded_models import LoadedModels
from rwkv_core.worker.process import (
    LOG_LEVEL_VARIABLE,
    LOG_LEVELS,
    leave_terminal,
    start_log,
    take_over_streams,
    watch_parent,
)
from rwkv_core.worker.protocol import (
    MAX_LINE,
    PROTOCOL,
    AnyRequest,
    CancelRequest,
    CancelResult,
    DescribeRequest,
    DevicesRequest,
    DownloadRequest,
    Failure,
    FollowRequest,
    HelloRequest,
    ImportRequest,
    LoadRequest,
    ModelsRequest,
    PlanRequest,
    PrepareSpreadRequest,
    Progress,
    PromptRequest,
    RefineRequest,
    RemoveRequest,
    Reply,
    Result,
    SegmentFileRequest,
    SegmentFilesRequest,
    SegmentRequest,
    ShutdownRequest,
    ShutdownResult,
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
            DevicesRequest: machine.devices,
            LoadRequest: segmenting.load,
            SegmentRequest: segmenting.segment,
            PlanRequest: plan,
            SegmentFileRequest: segmenting.segment_file,
            SegmentFilesRequest: segment_files,
            ModelsRequest: machine.models,
            DownloadRequest: machine.download,
            DescribeRequest: machine.describe_model,
            ImportRequest: machine.import_model,
            RemoveRequest: machine.remove,
            RefineRequest: interactive.refine,
            UncertaintyRequest: interactive.uncertainty,
            PromptRequest: prompts.answer,
            FollowRequest: prompts.follow,
            SpreadRequest: interactive.spread,
            PrepareSpreadRequest: interactive.prepare_spread,
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


_log = logging.getLogger(__name__)
_CHUNK = 1 << 16


def main(arguments: list[str] | None = None) -> int:
    """Run a worker until it is told to shut down, or its client is gone.

    Args:
        arguments: without the program's name; None takes them from the process.

    Returns:
        The exit code: 0 after a shutdown, 1 when the folder cannot be used.
    """
    options = _parse(arguments)
    requests, replies = take_over_streams()
    start_log(options.log_level)
    leave_terminal()
    try:
        folder = PrivateFolder(options.folder)
    except RWKVUNetError as error:
        _log.error("%s", error)
        return 1
    server = Server(folder, replies)
    watch_parent(options.parent, server.leave)
    threading.Thread(target=server.read, args=(requests,), name="requests", daemon=True).start()
    server.work()
    return 0


class Server:
    """One conversation.

    Args:
        folder: for arrays.
        replies: where replies go; nothing else writes there.
    """

    def __init__(self, folder: PrivateFolder, replies: BinaryIO):
        self._folder = folder
        self._replies = replies
        self._writing = threading.Lock()
        self._jobs = Jobs()
        self._handlers = RequestHandlers(folder, self._send)
        self._greeted = False
        self._shutdown: ShutdownResult | None = None
        self._handled_at_once: dict[type[AnyRequest], Callable[[Any], None]] = {
            HelloRequest: self._greet,
            CancelRequest: self._cancel,
            ShutdownRequest: self._shut_down,
        }

    def read(self, requests: int) -> None:
        """Take requests from a descriptor until it ends, then end the process. For a thread of its own."""
        splitter = LineSplitter()
        try:
            while data := os.read(requests, _CHUNK):
                for line in splitter.feed(data):
                    self._receive(line)
        except OSError as error:
            _log.error("Standard input cannot be read: %s", error)
        self.leave()

    def work(self) -> None:
        """Do requests until shutdown. For the main thread: some libraries want to be used there."""
        while job := self._jobs.next():
            reply: Reply
            start = time.perf_counter()
            try:
                if job.cancelled.is_set():
                    raise CancelledError
                reply = self._handlers.answer(job)
            except (Exception, SystemExit) as error:  # no request may end the worker
                reply = explain(job.request.id, error)
            if isinstance(reply, Failure):
                gc.collect()  # a traceback may hold arrays, which Windows does not let the client delete meanwhile
                if reply.kind in ("memory", "device"):  # a GPU's memory is one reason for the latter
                    self._handlers.forget()
            self._jobs.finish()
            end = reply.kind if isinstance(reply, Failure) else "done"
            what, seconds = type(job.request).__name__, time.perf_counter() - start
            _log.info("%s %d: %s after %.2f s", what, job.request.id, end, seconds)
            self._send(reply)
        if self._shutdown:
            self._send(self._shutdown)

    def leave(self) -> None:
        """Remove the arrays, which were for a client that is gone, and end the process."""
        _log.info("The client is gone")
        self._folder.close()
        os._exit(0)

    def _receive(self, line: bytes | None) -> None:
        try:
            if line is None:
                raise ProtocolError(f"A line is longer than {MAX_LINE} bytes.")
            self._handle(decode_request(line))
        except ProtocolError as error:
            _log.warning("%s", error)
            self._send(explain(error.request_id, error))
        except Exception as error:
            self._send(explain(None, error))

    def _handle(self, request: AnyRequest) -> None:
        if not isinstance(request, HelloRequest):
            if not self._greeted:
                raise ProtocolError("The first request must be hello.", request_id=request.id)
            if self._shutdown:
                raise ProtocolError("The worker is shutting down.", request_id=request.id)
        self._handled_at_once.get(type(request), self._queue)(request)

    def _queue(self, request: AnyRequest) -> None:
        if not self._jobs.add(request):
            raise ProtocolError(f"A request with the id {request.id} is not answered yet; this one is ignored.")

    def _cancel(self, request: CancelRequest) -> None:
        found, job = self._jobs.cancel(request.request)
        if job:
            self._send(explain(job.request.id, CancelledError()))
        self._send(CancelResult(id=request.id, found=found))

    def _shut_down(self, request: ShutdownRequest) -> None:
        self._shutdown = ShutdownResult(id=request.id)
        self._jobs.close()

    def _greet(self, request: HelloRequest) -> None:
        if request.protocol != PROTOCOL:
            raise ProtocolError(
                f"The client speaks version {request.protocol} of the protocol, this worker version {PROTOCOL}.",
                hint="They come from different installations: install the extension again.",
                request_id=request.id,
            )
        self._greeted = True
        self._send(machine.hello(request))

    def _send(self, reply: Reply | Progress) -> None:
        try:
            line = encode(reply)
        except ProtocolError as error:
            line = encode(explain(reply.id, error))
        try:
            with self._writing:
                self._replies.write(line)
                self._replies.flush()
        except OSError:
            self.leave()


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rwkv_core.worker",
        description="Segments for another program, which sends requests to standard input. To segment by hand, use "
        "rwkv-unet.",
    )
    parser.add_argument("--folder", type=Path, required=True, help="private folder (mode 0700) for arrays")
    parser.add_argument("--parent", type=int, metavar="PID", help="end when this process ends")
    level = os.environ.get(LOG_LEVEL_VARIABLE, "").lower()
    parser.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default=level if level in LOG_LEVELS else "info",
        help=f"how much to write to standard error (default: {LOG_LEVEL_VARIABLE}, else info)",
    )
    return parser.parse_args(arguments)
