"""The worker as a real process: what it answers."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkv_core import Segmenter, Volume
from rwkv_core.engines import ENGINES, why_unavailable
from rwkv_core.errors import BundleError, DeviceError, InputError
from rwkv_core.vocabulary import Region, SegmentOptions, Slices
from rwkv_core.worker.arrays import geometry_of
from rwkv_core.worker.framing import encode
from rwkv_core.worker.loaded_models import KEPT
from rwkv_core.worker.protocol import (
    MAX_LINE,
    PROTOCOL,
    DevicesRequest,
    HelloRequest,
    LoadRequest,
    SegmentRequest,
    VolumeFile,
)

from core.worker_helpers import (
    HELLO,
    LIMIT,
    OBLIQUE,
    Raw,
    ask_for,
    asking,
    noise,
    volume_file,
    write_small,
)
from core.worker_stand_ins import PROGRAM


def segment(worker, model, array, **more):
    request = SegmentRequest(volume=volume_file(worker, array), **asking(model, more))
    result = worker.request(request)
    worker.folder.discard(request.volume.file)
    return result


def test_hello_tells_who_answers(worker):
    hello = worker.request(HelloRequest())
    assert hello.protocol == PROTOCOL
    assert hello.pid == worker.pid == worker.hello.pid
    assert hello.versions["rwkv_core"]
    assert hello.versions["python"].startswith("3.")
    assert hello.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"numpy", "SimpleITK", "huggingface_hub", "openvino"} <= set(hello.versions)


def test_devices_and_engines_with_reasons(worker):
    seen = []
    answer = worker.request(DevicesRequest(), progress=seen.append)
    assert [step.stage for step in seen] == ["library"]
    devices = {device.name: device for device in answer.devices}
    assert not devices["cpu"].unavailable
    assert answer.auto in devices or answer.auto in ("cuda", "mps")
    assert all(option.title for option in (*answer.devices, *answer.engines))
    if not torch.cuda.is_available():
        assert devices["cuda"].unavailable
    engines = {engine.name: engine.unavailable for engine in answer.engines}
    assert engines == {name: why_unavailable(name) for name in ENGINES if name != "auto"}
    assert engines["torch"] == ""


def test_a_volume_is_segmented_as_in_this_process(worker, model):
    array = noise(dtype=np.int16)
    expected = Segmenter(model, "cpu").segment(Volume(array, OBLIQUE), probabilities=True)
    loaded = worker.request(LoadRequest(options=SegmentOptions(model=model, device="cpu")))
    assert loaded.config["id"] == "small"
    assert (loaded.device, loaded.engine, loaded.folder) == (
        "cpu",
        "torch" if why_unavailable("openvino") else "openvino",
        model,
    )

    seen = []
    request = SegmentRequest(
        volume=volume_file(worker, array),
        options=SegmentOptions(model=model, device="cpu"),
        outputs=("labelmap", "probabilities"),
    )
    result = worker.request(request, progress=seen.append)
    labelmap = worker.folder.take(result.labelmap)
    assert labelmap.dtype == expected.labelmap.dtype
    assert np.array_equal(labelmap, expected.labelmap)
    assert np.array_equal(worker.folder.take(result.probabilities), expected.probabilities)
    assert np.array_equal(result.ijk_to_ras, OBLIQUE)
    assert result.region == Region(i=(0, 24), j=(0, 20), k=(0, 6))
    assert (result.orientation, result.count) == (expected.orientation, expected.slices) == ("SPL", 6)
    assert set(result.timings) == {*expected.timings, "load", "write"}
    assert [(entry.value, entry.name, entry.color) for entry in result.classes] == [
        (entry.value, entry.name, entry.color) for entry in expected.classes
    ]
    stages = [step.stage for step in seen]
    assert stages == ["library", "segment", "segment", "write"]
    assert [(step.done, step.total) for step in seen if step.stage == "segment"] == [(0, 6), (6, 6)]
    assert result.engine == loaded.engine
    assert [step.seconds_left for step in seen if step.stage == "segment"] == [None, 0.0]


def test_terminology_arrives(worker, place):
    brain = {"scheme": "SCT", "value": "12738006", "meaning": "Brain"}
    entry = {"value": 7, "name": "Gehirn", "color": [1, 2, 3], "terminology": {"category": brain, "type": brain}}
    folder = write_small(place / "coded", classes=[entry])
    entry = segment(worker, folder, noise()).classes[0]
    assert (entry.value, entry.name, entry.color) == (7, "Gehirn", (1, 2, 3))
    assert entry.terminology.type.value == "12738006"
    assert entry.terminology.modifier is None


def test_a_box_and_slices_come_back_alone(worker, model):
    array = noise((12, 20, 24))
    segmenter = Segmenter(model, "cpu")
    result = segment(worker, model, array, region=Region(i=(3, 20), k=(2, 5)))
    expected = segmenter.segment(Volume(array, OBLIQUE), Region(i=(3, 20), k=(2, 5))).labelmap[2:5, :, 3:20]
    assert np.array_equal(worker.folder.take(result.labelmap), expected)
    assert result.region == Region(i=(3, 20), j=(0, 20), k=(2, 5))
    corner = np.array(result.ijk_to_ras) @ [0, 0, 0, 1]
    assert np.allclose(corner, OBLIQUE @ [3, 0, 2, 1])

    single = segment(worker, model, array, slices=Slices(axis="K", indices=(7,)))
    whole = segmenter.segment(Volume(array, OBLIQUE)).labelmap
    assert np.array_equal(worker.folder.take(single.labelmap), whole[7:8])
    assert single.count == 1

    seen = []
    request = SegmentRequest(
        volume=volume_file(worker, array),
        options=SegmentOptions(model=model, device="cpu"),
        slices=Slices(axis="K", indices=(1, 2, 9)),
        outputs=("probabilities",),
    )
    some = worker.request(request, progress=seen.append)
    assert some.labelmap is None
    soft = worker.folder.take(some.probabilities)
    assert soft.shape == (5, 3, 20, 24)
    assert np.allclose(soft.sum(0, dtype=np.float32), 1, atol=5e-3)
    assert np.array_equal(soft.argmax(0), whole[[1, 2, 9]])
    steps = [step.done for step in seen if step.stage == "segment"]
    assert steps == sorted(steps)
    assert steps[-1] == 3
    assert {step.total for step in seen if step.stage == "segment"} == {3}


def test_the_second_request_finds_the_model_warm(worker, place):
    folder = write_small(place / "warm")
    first = worker.request(LoadRequest(options=SegmentOptions(model=folder, device="cpu")))
    again = worker.request(LoadRequest(options=SegmentOptions(model=folder, device="cpu")))
    assert (first.warm, again.warm) == (False, True)
    assert first.timings["total"] > 0
    assert set(again.timings.values()) == {0.0}
    assert segment(worker, folder, noise()).warm
    assert segment(worker, folder, noise()).timings["load"] == 0

    stamp = Path(folder, "config.json").stat().st_mtime_ns
    write_small(folder, values=(1, 2))
    os.utime(Path(folder, "config.json"), ns=(stamp + 10**9, stamp + 10**9))
    assert not worker.request(LoadRequest(options=SegmentOptions(model=folder, device="cpu"))).warm
    assert len(segment(worker, folder, noise()).classes) == 2


def test_the_engine_can_be_chosen(worker, place):
    folder = write_small(place / "torch alone")
    assert (
        worker.request(LoadRequest(options=SegmentOptions(model=folder, device="cpu", engine="torch"))).engine
        == "torch"
    )
    result = segment(worker, folder, noise(), engine="torch")
    assert (result.engine, result.warm) == ("torch", True)
    with pytest.raises(DeviceError, match="no engine named 'steam'"):
        worker.request(LoadRequest(options=SegmentOptions(model=folder, device="cpu", engine="steam")))


@pytest.fixture(scope="module")
def lively(place):
    return write_small(place / "lively", lively=True, intensity={"method": "zscore"})


def test_a_volume_is_measured_once(worker, lively):
    model = lively
    request = SegmentRequest(volume=volume_file(worker, noise()), options=SegmentOptions(model=model, device="cpu"))
    first = worker.request(request)
    assert len(np.unique(worker.folder.get(first.labelmap))) > 2
    part = replace(request, slices=Slices(axis="K", indices=(3,)))
    preview = worker.request(part)
    assert preview.timings["measure"] < first.timings["measure"]
    assert np.array_equal(worker.folder.take(preview.labelmap), worker.folder.get(first.labelmap)[3:4])
    other = noise() * 3 + 50  # as bright and as rich in contrast for a model that measures anew
    again = replace(part, volume=volume_file(worker, other))
    assert np.array_equal(worker.folder.take(worker.request(again).labelmap), worker.folder.get(first.labelmap)[3:4])


def test_islands_and_smoothing(worker, lively):
    array = noise((12, 20, 24))
    plain, volume = Segmenter(lively, "cpu"), Volume(array, OBLIQUE)
    for options in ({"islands": "remove"}, {"smoothing": 1.5}, {"islands": "remove", "smoothing": 1.5}):
        result = segment(worker, lively, array, **options)
        expected = plain.segment(volume, options=SegmentOptions(**options)).labelmap
        assert np.array_equal(worker.folder.take(result.labelmap), expected)
        assert not np.array_equal(expected, plain.segment(volume).labelmap)
    with pytest.raises(InputError, match="not negative"):
        segment(worker, lively, array, smoothing=-1.0)


def test_only_a_few_models_stay_warm(worker, place):
    models = [write_small(place / f"one of many {n}") for n in range(KEPT + 1)]
    for folder in models:
        worker.request(LoadRequest(options=SegmentOptions(model=folder, device="cpu")))
    assert worker.request(LoadRequest(options=SegmentOptions(model=models[-1], device="cpu"))).warm
    assert not worker.request(LoadRequest(options=SegmentOptions(model=models[0], device="cpu"))).warm
    assert not worker.request(LoadRequest(options=SegmentOptions(model=models[-1], device="cpu", mode="paper"))).warm


@pytest.mark.long
def test_a_large_volume_stays_on_disk(worker, place):
    shape, box = (512, 1024, 1024), (slice(100, 106), slice(500, 520), slice(300, 324))
    if shutil.disk_usage(place).free < 4e9:
        pytest.skip("too little space on the disk for a volume of 1 GB")
    folder = write_small(place / "windowed", intensity={"method": "window", "low": 0, "high": 200})
    file = "array-00000000000000ff.npy"
    array = np.lib.format.open_memmap(worker.folder.path / file, "w+", dtype=np.int16, shape=shape)
    array[box] = noise(dtype=np.int16)
    request = SegmentRequest(
        volume=VolumeFile(file=file, ijk_to_ras=geometry_of(OBLIQUE)),
        options=SegmentOptions(model=folder, device="cpu"),
        region=Region(**{axis: (side.start, side.stop) for axis, side in zip("kji", box, strict=True)}),
    )
    assert array.nbytes == 2**30
    assert len(encode(request)) < 1000
    result = worker.request(request)
    expected = Segmenter(folder, "cpu").segment(Volume(noise(dtype=np.int16), OBLIQUE)).labelmap
    assert np.array_equal(worker.folder.take(result.labelmap), expected)
    del array
    worker.folder.discard(file)


def test_nan_becomes_background_and_is_told(worker, model):
    array = noise()
    array[2, 3:9] = np.nan
    result = segment(worker, model, array)
    assert "not finite" in result.warnings[0]
    labelmap = worker.folder.take(result.labelmap)
    assert labelmap.any()
    assert not labelmap[2, 3:9].any()


def test_mistakes_are_explained_and_the_worker_goes_on(worker, model, place):
    outside = place / "array-0123456789abcdef.npy"
    np.save(outside, noise())
    good = SegmentRequest(volume=volume_file(worker, noise()), options=SegmentOptions(model=model, device="cpu"))

    def refused(error, said, **changes):
        with pytest.raises(error, match=said):
            worker.request(replace(good, **changes))

    refused(InputError, "not the name of an array", volume=replace(good.volume, file=str(outside)))
    refused(InputError, "not the name of an array", volume=replace(good.volume, file=f"../{outside.name}"))
    refused(InputError, "cannot be read", volume=replace(good.volume, file=outside.name))
    flat = OBLIQUE[:, [0, 1, 1, 3]]
    refused(InputError, "one plane", volume=replace(good.volume, ijk_to_ras=geometry_of(flat)))
    refused(InputError, "4 dimensions", volume=volume_file(worker, np.zeros((2, 3, 4, 5))))
    refused(InputError, "does not fit", region=Region(k=(2, 99)))
    refused(InputError, "no slice", slices=Slices(axis="J", indices=(4,)))
    refused(BundleError, "no-such-model", options=SegmentOptions(model="no-such-model"))
    refused(DeviceError, "abacus", options=SegmentOptions(model=model, device="abacus"))
    assert worker.request(good).count == 6


def test_lines_that_make_no_sense_are_answered(tmp_path):
    with Raw(tmp_path) as worker:
        early = worker.ask({"id": 9, "type": "devices"})
        assert (early["type"], early["id"], early["kind"]) == ("error", 9, "protocol")
        assert "hello" in early["message"]
        other = worker.ask({**HELLO, "protocol": 99})
        assert (other["type"], other["id"]) == ("error", 1)
        assert "version 99" in other["message"]
        assert "install" in other["hint"]
        assert worker.ask(HELLO)["of"] == "hello"

        for line, request_id, said in [
            (b"garbage", None, "no JSON"),
            (b"x" * (2 * MAX_LINE), None, "longer than"),
            (b'{"id": 5, "type": "load", "options": {"model": 3}}', 5, "'options.model' must be text"),
            (b'{"id": 5, "type": "load", "speed": 3}', 5, "no field 'speed'"),
            (b'{"id": 5, "type": "reload"}', 5, "no request of type 'reload'"),
            (b'{"id": "5", "type": "hello"}', None, "'id' must be"),
        ]:
            reply = worker.ask(line)
            assert (reply["type"], reply["id"], reply["kind"]) == ("error", request_id, "protocol")
            assert said in reply["message"]
        assert worker.ask({"id": 6, "type": "cancel", "request": 5}) == {
            "type": "result", "of": "cancel", "id": 6, "found": "none",
        }  # fmt: skip
        assert worker.ask({"id": 7, "type": "shutdown"}) == {"type": "result", "of": "shutdown", "id": 7}
        assert worker.process.wait(LIMIT) == 0


def test_an_id_in_use_is_refused(tmp_path, model):
    with Raw(tmp_path, PROGRAM) as worker:
        worker.process.stdout.readline()  # the launcher's greeting
        worker.ask(HELLO)
        worker.say(encode(replace(ask_for(worker, model, "wait for cancel"), id=4)).strip())
        while not worker.hear().get("done"):
            pass
        reply = worker.ask({"id": 4, "type": "devices"})
        assert (reply["type"], reply["id"]) == ("error", None)
        assert "4 is not answered yet" in reply["message"]
        assert worker.ask({"id": 5, "type": "cancel", "request": 4})["found"] == "running"
        assert worker.hear() == {
            "type": "error",
            "id": 4,
            "kind": "cancelled",
            "message": "Cancelled.",
            "hint": "",
            "remedy": None,
        }
