"""A batch on a Dask cluster of real worker processes on this machine."""

import json
import os
import signal
import time

import numpy as np
import pytest
import SimpleITK as sitk

from rwkv_core.cli import main
from rwkv_core.errors import CancelledError, InputError
from rwkv_core.inference.batch import BatchOptions, plan
from rwkv_core.inference.cluster import segment_on_cluster
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.volume import read_volume

from core import dask_stand_in
from core.worker_helpers import LIMIT, posix

distributed = pytest.importorskip("distributed")
pytestmark = [posix, pytest.mark.filterwarnings("default")]  # Dask's own threads and sockets warn as they end

WORKERS = 2


@pytest.fixture(scope="module")
def cluster(place):
    """Two workers, which leave notes in `place`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(dask_stand_in.PLACE, str(place))
        patch.setenv("OMP_NUM_THREADS", "1")
        with distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            local_directory=str(place / "dask"),
            preload=[dask_stand_in.__file__],
        ) as running:
            yield running


@pytest.fixture
def notes(place):
    """The folder in which the workers leave notes, without those of another test."""
    for name in ("held", "cancelled", "loads"):
        (place / name).unlink(missing_ok=True)
    return place


def scans(folder, *names):
    place = folder / "scäns"
    place.mkdir()
    for name in names:
        image = sitk.GetImageFromArray(np.random.default_rng(len(name)).normal(size=(10, 40, 36)).astype(np.float32))
        sitk.WriteImage(image, str(place / f"{name}.nrrd"))
    return place


def wait_for(path):
    end = time.monotonic() + LIMIT
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} did not appear in time"
        time.sleep(0.02)
    return path


@pytest.mark.long
def test_workers_write_what_one_machine_would(cluster, tmp_path, notes, model, capsys):
    place = scans(tmp_path, "a", "b", "c", "d")
    (place / "broken.mha").write_bytes(b"not an image")
    out, here = tmp_path / "out", tmp_path / "here"
    arguments = ["segment", str(place), "--model", model, "--device", "cpu"]
    assert main([*arguments, "-o", str(out), "--dask", cluster.scheduler_address, "--json"]) == 1
    printed = capsys.readouterr()
    results = {result["input"].rpartition("/")[2]: result for result in json.loads(printed.out)["results"]}
    assert results["broken.mha"]["status"] == "failed" and "broken.mha" in results["broken.mha"]["error"]["message"]
    assert "1 of 5 failed" in printed.err
    assert main([*arguments, "-o", str(here)]) == 1
    for name in "abcd":
        assert results[f"{name}.nrrd"]["status"] == "done" and results[f"{name}.nrrd"]["slices"] == 10
        ours, theirs = (read_volume(where / f"{name}.seg.nrrd").array for where in (here, out))
        assert np.array_equal(ours, theirs)
    loads = (notes / "loads").read_text().split()
    assert len(loads) == len(set(loads)) <= WORKERS  # once per worker, not per volume

    (place / "broken.mha").unlink()
    (out / "b.seg.nrrd").unlink()
    before = (out / "a.seg.nrrd").stat().st_mtime_ns
    capsys.readouterr()
    assert main([*arguments, "-o", str(out), "--dask", cluster.scheduler_address, "--json"]) == 0
    again = [result["status"] for result in json.loads(capsys.readouterr().out)["results"]]
    assert again == ["skipped", "done", "skipped", "skipped"]
    assert (out / "a.seg.nrrd").stat().st_mtime_ns == before


@pytest.mark.long
def test_a_worker_killed_in_the_middle_loses_nothing(cluster, tmp_path, notes, model):
    jobs = plan([scans(tmp_path, "a", "hold", "b")], tmp_path / "out")
    killed, seen = [], []

    def kill_who_holds():
        if not killed and (notes / "held").exists():
            killed.append(int((notes / "held").read_text()))
            os.kill(killed[0], signal.SIGKILL)
        return False

    outcomes = segment_on_cluster(
        cluster.scheduler_address,
        jobs,
        BatchOptions(SegmentOptions(model=model, device="cpu")),
        progress=lambda done, total, workers: seen.append((done, total, workers)),
        cancel=kill_who_holds,
    )
    assert killed and not (notes / "cancelled").exists()
    assert [outcome.status for outcome in outcomes] == ["done"] * 3
    assert all(target.exists() for _, target in jobs)
    assert seen[0][:2] == (0, 3) and seen[-1][:2] == (3, 3)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    left = [path for path in (tmp_path / "out").rglob("*") if not path.name.endswith((".seg.nrrd", ".seg.nrrd.json"))]
    assert left == []


@pytest.mark.long
def test_cancelling_stops_the_workers_too(cluster, tmp_path, notes, model):
    jobs = plan([scans(tmp_path, "hold", "later")], tmp_path / "out")
    with pytest.raises(CancelledError):
        segment_on_cluster(
            cluster.scheduler_address,
            jobs,
            BatchOptions(SegmentOptions(model=model, device="cpu")),
            cancel=lambda: (notes / "held").exists(),
        )
    wait_for(notes / "cancelled")
    assert not (tmp_path / "out" / "hold.seg.nrrd").exists()


@pytest.mark.long
def test_an_unknown_model_and_a_wrong_address_are_told(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("rwkv_core.inference.cluster._CONNECT_SECONDS", 1)
    jobs = plan([scans(tmp_path, "a")], tmp_path / "out")
    (outcome,) = segment_on_cluster(
        cluster.scheduler_address, jobs, BatchOptions(SegmentOptions(model="no-such-model"))
    )
    assert outcome.status == "failed" and "no-such-model" in outcome.error.message
    with pytest.raises(InputError, match=r"No Dask scheduler answers at 127\.0\.0\.1:9"):
        segment_on_cluster("127.0.0.1:9", jobs, BatchOptions(SegmentOptions(model="no-such-model")))
