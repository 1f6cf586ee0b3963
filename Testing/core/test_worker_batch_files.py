"""Volumes on disk through the worker: planned, segmented, skipped."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from rwkv_core import Segmenter
from rwkv_core.errors import CancelledError, InputError
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.volume import read_volume
from rwkv_core.worker.protocol import PlanRequest, SegmentFileRequest

from core.worker_helpers import LONG, noise, write_small


@pytest.fixture
def scans(tmp_path):
    folder = tmp_path / "scans ü软 x"
    folder.mkdir()
    for name, shape in (("a.nii.gz", (4, 20, 24)), ("b.nrrd", LONG)):
        sitk.WriteImage(sitk.GetImageFromArray(noise(shape)), str(folder / name))
    return folder


def files_of(worker, scans):
    return worker.request(PlanRequest(input=str(scans), output=str(scans.parent / "out"))).files


def test_a_folder_is_planned_segmented_and_then_done(worker, model, scans):
    first, second = files_of(worker, scans)
    assert [Path(file.output).name for file in (first, second)] == ["a.seg.nrrd", "b.seg.nrrd"]
    assert not first.done
    steps = []
    result = worker.request(
        SegmentFileRequest(input=first.input, output=first.output, options=SegmentOptions(model=model, device="cpu")),
        progress=steps.append,
    )
    assert [step.stage for step in steps if step.stage in ("read", "write")] == ["read", "write"]
    assert next(step.total for step in reversed(steps) if step.stage == "segment") == 4
    assert result.file.slices == 4
    written = read_volume(Path(first.output)).array
    assert written.shape == (4, 20, 24)
    spacing_ml = 1 / 1000
    for known in Segmenter(model, "cpu").bundle.config.classes:
        voxels = np.count_nonzero(written == known.value)
        assert result.file.volumes_ml[known.name] == pytest.approx(voxels * spacing_ml)
    assert [file.done for file in files_of(worker, scans)] == [True, False]


def test_options_are_those_of_volumes_in_memory(worker, place, scans):
    lively = write_small(place / "lively files", lively=True, intensity={"method": "zscore"})
    _, second = files_of(worker, scans)
    options = SegmentOptions(model=lively, device="cpu", islands="remove", smoothing=1.5)
    request = SegmentFileRequest(input=second.input, output=second.output, options=options)
    worker.request(request)
    expected = Segmenter(lively, "cpu").segment(read_volume(Path(second.input)), options=options).labelmap
    assert np.array_equal(read_volume(Path(second.output)).array, expected)


def test_a_damaged_file_is_told_and_nothing_is_written(worker, model, scans):
    (scans / "a.nii.gz").write_bytes(b"no volume")
    first, _ = files_of(worker, scans)
    with pytest.raises(InputError, match=r"a\.nii\.gz"):
        worker.request(
            SegmentFileRequest(
                input=first.input, output=first.output, options=SegmentOptions(model=model, device="cpu")
            )
        )
    assert not Path(first.output).exists()


def test_cancel_writes_nothing(worker, model, scans):
    _, second = files_of(worker, scans)
    pending = worker.start(
        SegmentFileRequest(input=second.input, output=second.output, options=SegmentOptions(model=model, device="cpu"))
    )
    with pytest.raises(CancelledError):
        pending.result(progress=lambda step: pending.cancel() if step.stage == "read" else None)
    assert not Path(second.output).exists()


def test_an_empty_folder_is_told(worker, tmp_path):
    with pytest.raises(InputError, match="holds no volume"):
        files_of(worker, tmp_path)
