"""Volumes on disk through the worker to a Dask cluster of real worker processes on this machine."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from rwkv_core.errors import CancelledError, InputError
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.volume import read_volume
from rwkv_core.worker.protocol import PlanRequest, SegmentFileRequest, SegmentFilesRequest

from core import dask_stand_in
from core.worker_helpers import noise, posix

distributed = pytest.importorskip("distributed")
pytestmark = [posix, pytest.mark.filterwarnings("default")]  # Dask's own threads and sockets warn as they end


@pytest.fixture
def address(tmp_path, monkeypatch):
    """Of a scheduler with one worker."""
    monkeypatch.setenv(dask_stand_in.PLACE, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        local_directory=str(tmp_path / "dask"),
        preload=[dask_stand_in.__file__],
    ) as cluster:
        yield cluster.scheduler_address


def files(worker, folder, *names):
    scans = folder / "scäns"
    scans.mkdir()
    for name in names:
        sitk.WriteImage(sitk.GetImageFromArray(noise((4, 20, 24))), str(scans / f"{name}.nrrd"))
    return worker.request(PlanRequest(input=str(scans), output=str(folder / "out"))).files


def test_each_outcome_is_told_as_it_comes(worker, model, address, tmp_path):
    a, b, c = files(worker, tmp_path, "a", "b", "c")
    Path(b.input).write_bytes(b"no volume")
    steps = []
    worker.request(
        SegmentFilesRequest(files=(a, b, c), dask=address, options=SegmentOptions(model=model, device="cpu")),
        progress=steps.append,
    )
    told = {step.file.output: step.file for step in steps if step.file}
    assert set(told) == {a.output, b.output, c.output}
    assert "b.nrrd" in told[b.output].error.message
    assert not Path(b.output).exists()
    assert told[a.output].error is None
    assert told[a.output].seconds > 0
    here = worker.request(
        SegmentFileRequest(
            input=a.input, output=str(tmp_path / "here.seg.nrrd"), options=SegmentOptions(model=model, device="cpu")
        )
    )
    assert told[a.output].volumes_ml == here.file.volumes_ml
    assert np.array_equal(read_volume(Path(a.output)).array, read_volume(tmp_path / "here.seg.nrrd").array)
    assert (steps[-1].stage, steps[-1].done, steps[-1].total) == ("volumes", 3, 3)


def test_cancel_leaves_what_is_done(worker, model, address, tmp_path):
    pair, held = files(worker, tmp_path, "a", "hold")
    pending = worker.start(
        SegmentFilesRequest(files=(pair, held), dask=address, options=SegmentOptions(model=model, device="cpu"))
    )
    told = []

    def then_cancel(step):
        told.append(step.file)
        if step.done == 1:
            pending.cancel()

    with pytest.raises(CancelledError):
        pending.result(progress=then_cancel)
    assert [file.output for file in told if file] == [pair.output]
    assert Path(pair.output).exists()
    assert not Path(held.output).exists()


def test_no_scheduler_is_told(worker, model, tmp_path):
    (pair,) = files(worker, tmp_path, "a")
    missing = str(tmp_path / "no scheduler.json")
    with pytest.raises(InputError, match="No Dask scheduler answers"):
        worker.request(SegmentFilesRequest(files=(pair,), dask=missing, options=SegmentOptions(model=model)))
