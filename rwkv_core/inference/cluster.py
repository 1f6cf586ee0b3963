"""A batch over the machines of a Dask cluster: one volume a task, written where it was computed.

Every worker must see the files under the same paths and have this package and the model. Dask gives the tasks of a lost
worker to another one; a volume that has brought down several workers is given up.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from rwkv_core.errors import Cancel, CancelledError, ErrorReport, InputError, RWKVUNetError, as_question
from rwkv_core.inference.batch import BatchOptions, segment_file
from rwkv_core.vocabulary import FileOutcome, SegmentOptions

if TYPE_CHECKING:
    from rwkv_core.inference.model_chain import ModelChain

_RETRIES = 2
"""New attempts at a task that failed for a reason that is not the volume's, such as a network share that was gone."""
_CONNECT_SECONDS = 20
_TICK_SECONDS = 0.2
_ASK_SECONDS = 1.0

_loading = threading.Lock()


def segment_on_cluster(
    address: str,
    jobs: Sequence[tuple[Path, Path]],
    options: BatchOptions,
    progress: Callable[[int, int, int], None] | None = None,
    cancel: Cancel | None = None,
    finished: Callable[[int, FileOutcome], None] | None = None,
) -> list[FileOutcome]:
    """Segment volumes on the workers of a running Dask scheduler.

    Args:
        address: of the scheduler, "tcp://host:8786", or the path of its scheduler file (.json).
        jobs: pairs of input and output, see `plan`. Outputs that exist are skipped unless `options.overwrite`.
        options: the device "auto" is chosen by each worker for itself.
        progress: called with (volumes done, volumes in all, workers there are), first with 0 and whenever it changes.
        cancel: asked a few times a second. Volumes in progress stop after their current slices.
        finished: called with the index of a job and its outcome, soon after it is known; not for skipped ones.

    Returns:
        One outcome for each job, in their order. One that an attempt had written before its worker was lost says no
        more than that it is done.

    Raises:
        InputError: when Dask is not installed, or no scheduler answers.
        CancelledError: when `cancel` said so; finished volumes stay.
    """
    cancelled = as_question(cancel)
    tell = progress or (lambda done, total, workers: None)
    model, *then = (
        str(Path(each).absolute()) if Path(each).is_dir() else each
        for each in (options.segment.model, *options.segment.then)
    )
    options = replace(options, segment=replace(options.segment, model=model, then=tuple(then)))
    distributed, client = _connect(address)
    name = f"rwkv-unet-{uuid4().hex}"
    outcomes = [FileOutcome(input=str(source), output=str(target)) for source, target in jobs]
    with client:
        stop = distributed.Event(name, client=client)
        changed = threading.Event()
        running = {}
        for number, (source, target) in enumerate(jobs):
            if target.exists() and not options.overwrite:
                outcomes[number] = replace(outcomes[number], status="skipped")
                continue
            paths = str(source.absolute()), str(target.absolute())
            key = f"{name}-{number}"
            running[number] = client.submit(_segment, *paths, options, name, key=key, retries=_RETRIES, pure=False)
            running[number].add_done_callback(lambda _: changed.set())
        try:
            said = (-1, -1)
            while True:
                if cancelled():
                    raise CancelledError
                for number in [number for number, future in running.items() if future.done()]:
                    # Now, and not in the end: what a worker holds is lost with it.
                    outcomes[number] = _outcome(running.pop(number), *jobs[number])
                    if finished:
                        finished(number, outcomes[number])
                now = (len(jobs) - len(running), len(client.nthreads()))
                if now != said:
                    said = now
                    tell(now[0], len(jobs), now[1])
                if not running:
                    return outcomes
                changed.wait(_TICK_SECONDS)
                changed.clear()
        except BaseException:  # Ctrl-C too
            stop.set()
            client.cancel(list(running.values()), force=True)
            raise


def _connect(address: str) -> tuple[Any, Any]:
    """Dask's module and a client."""
    try:
        import distributed
    except ImportError:
        raise InputError(
            "Dask is not installed here.", hint="pip install 'rwkv-unet-segment[dask]', here and on every worker."
        ) from None
    if address.endswith(".json") and not Path(address).is_file():  # Dask would wait for it without end
        raise InputError(
            f"No Dask scheduler answers: {address} is not there.",
            hint="Give the file that `dask scheduler --scheduler-file FILE` has written, or the scheduler's address.",
        )
    where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    try:
        return distributed, distributed.Client(**where, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"No Dask scheduler answers at {address} ({error}).",
            hint="Check the address; `dask scheduler` starts one, `dask worker ADDRESS --nthreads 1` a worker.",
        ) from None


def _outcome(future: Any, source: Path, target: Path) -> FileOutcome:
    """Read what a finished task says; the paths as they were given."""
    if future.status == "finished":
        return replace(future.result(), input=str(source), output=str(target))
    outcome = FileOutcome(input=str(source), output=str(target))
    error = future.exception() if future.status == "error" else None
    if type(error).__name__ == "KilledWorker":
        report = ErrorReport(
            kind="died",
            message="Several workers ended while they segmented this volume.",
            hint="Perhaps their memory is too small for it: see the workers' logs, or give them more.",
        )
    else:
        said = f"{type(error).__name__}: {error}" if error else f"the task is {future.status}"
        report = ErrorReport(
            kind="internal", message=f"The cluster could not segment this ({said}).", hint="See the workers' logs."
        )
    return outcome.failed(report)


def _segment(source: str, target: str, options: BatchOptions, name: str) -> FileOutcome:
    """Do the task: runs on a worker."""
    import distributed

    outcome = FileOutcome(input=source, output=target)
    if Path(target).exists() and not options.overwrite:
        return replace(outcome, status="done")  # by an attempt whose worker was lost when it had written
    stop = distributed.Event(name, client=distributed.get_client())
    asked = time.monotonic()

    def cancelled() -> bool:
        nonlocal asked
        if time.monotonic() - asked < _ASK_SECONDS:
            return False
        asked = time.monotonic()
        return bool(stop.is_set())

    try:
        with _loading:  # of a worker's threads, one loads and the others wait
            segmenter = _loaded(_of_model(options.segment))
    except RWKVUNetError as error:
        return outcome.failed(ErrorReport.of(error))
    return segment_file(segmenter, Path(source), Path(target), options, cancel=cancelled)


@cache
def _loaded(options: SegmentOptions) -> "ModelChain":
    """Load a worker's models with its first task, and keep them."""
    from rwkv_core.inference.model_chain import ModelChain

    return ModelChain.from_options(options)


def _of_model(options: SegmentOptions) -> SegmentOptions:
    """Leave what makes another model: a batch with other smoothing does not load it again."""
    return replace(
        SegmentOptions(model=options.model, device=options.device, engine=options.engine, mode=options.mode),
        then=options.then,
        overlap=options.overlap,
    )
