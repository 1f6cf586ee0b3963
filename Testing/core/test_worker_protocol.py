"""The protocol without a process: messages and lines."""

import re

import numpy as np
import pytest

from rwkv_core.errors import ErrorReport, Remedy
from rwkv_core.vocabulary import (
    Code,
    DescribedAs,
    FileOutcome,
    FilePair,
    ModelEntry,
    Offer,
    Region,
    SegmentClass,
    SegmentOptions,
    Slices,
    StructureVolume,
    Terminology,
)
from rwkv_core.worker.arrays import geometry_of
from rwkv_core.worker.errors import ProtocolError
from rwkv_core.worker.framing import LineSplitter, decode_reply, decode_request, encode
from rwkv_core.worker.protocol import (
    MAX_LINE,
    CancelRequest,
    DescribeRequest,
    DevicesRequest,
    DevicesResult,
    DownloadRequest,
    DownloadResult,
    Failure,
    HelloRequest,
    HelloResult,
    ImportRequest,
    ImportResult,
    LoadRequest,
    LoadResult,
    ModelsRequest,
    ModelsResult,
    PlanRequest,
    PlanResult,
    Progress,
    RemoveRequest,
    RemoveResult,
    SegmentFileRequest,
    SegmentFileResult,
    SegmentFilesRequest,
    SegmentFilesResult,
    SegmentRequest,
    SegmentResult,
    ShutdownRequest,
    ShutdownResult,
    VolumeFile,
)

GEOMETRY = geometry_of(np.diag([-1.0, -1.5, 3, 1]))
CODE = Code(scheme="SCT", value="12738006", meaning="Brain")
VOLUME = VolumeFile(file="array-0123456789abcdef.npy", ijk_to_ras=GEOMETRY, name="Köpf 软", modality="MR")
REQUESTS = [
    HelloRequest(id=1),
    DevicesRequest(id=2),
    LoadRequest(id=3, options=SegmentOptions(model="modèles/ü软 x", device="cuda:1", mode="paper")),
    SegmentRequest(id=4, volume=VOLUME, options=SegmentOptions(model="default")),
    SegmentRequest(
        id=5,
        volume=VOLUME,
        options=SegmentOptions(
            model="default", any_modality=True, engine="openvino", islands="remove", smoothing=1.5, average=True
        ),
        region=Region(i=(3, 9)),
        slices=Slices(axis="K", indices=(4, 9)),
        outputs=("labelmap", "probabilities"),
    ),
    CancelRequest(id=6, request=4),
    ModelsRequest(id=7),
    DownloadRequest(id=8, bundle="synapse-b", repo="owner/name", revision="abc1234"),
    ImportRequest(
        id=9,
        path="modèles/ü软 x.pth",
        bundle="synapse-b",
        described=DescribedAs(title="Ü", modality="CT", structures=("软",)),
    ),
    DescribeRequest(id=15, path="modèles/ü软 x.pth"),
    RemoveRequest(id=10, bundle="synapse-b"),
    PlanRequest(id=12, input="/scans ü软", output="/results"),
    SegmentFileRequest(
        id=13,
        input="/scans ü软/a.nii.gz",
        output="/results/a.seg.nrrd",
        options=SegmentOptions(model="default", smoothing=0.5, average=False),
    ),
    SegmentFilesRequest(
        id=14,
        files=(FilePair(input="/scans ü软/a.nii.gz", output="/results/a.seg.nrrd", done=False),),
        dask="tcp://host:8786",
        options=SegmentOptions(model="default"),
    ),
    ShutdownRequest(id=11),
]
OUTCOME = FileOutcome(input="/a.nii", output="/b.seg.nrrd").failed(ErrorReport(kind="input", message="Empty."))
REPLIES = [
    HelloResult(id=1, protocol=1, pid=4711, versions={"torch": "2.8", "openvino": None}),
    DevicesResult(id=2, auto="cpu", devices=(Offer(name="cpu"),), engines=(Offer(name="x", unavailable="why"),)),
    LoadResult(
        id=3, folder="x", config={"id": "a", "n": [1, {}]}, device="cpu", engine="torch", warm=False, timings={"a": 1.5}
    ),
    SegmentResult(
        id=4,
        labelmap="array-0123456789abcdef.npy",
        probabilities=None,
        region=Region(),
        slices=None,
        ijk_to_ras=GEOMETRY,
        classes=(
            SegmentClass(value=1, name="Brain", color=(1, 2, 3), terminology=Terminology(category=CODE, type=CODE)),
        ),
        volumes=(StructureVolume(name="Brain ü软", value=1, volume_ml=1.5, confidence=None),),
        device="cpu",
        engine="torch",
        timings={"total": 0.5},
        count=3,
        orientation="SPL",
        warnings=("Careful.",),
        warm=True,
    ),
    Progress(id=4, stage="segment", done=2, total=9, seconds_left=0.25),
    Progress(id=8, stage="download", done=2**33, total=2**34),
    Progress(id=14, stage="volumes", done=1, total=3, file=OUTCOME),
    Failure(id=None, kind="protocol", message="What?", hint=""),
    Failure(id=4, kind="bundle", message="Gone.", remedy=Remedy("download model", "lungs")),
    ModelsResult(
        id=7,
        models=(
            ModelEntry(
                id="a",
                title="A",
                description="",
                state="needs download",
                reason="",
                kind="segmentation",
                modality="CT",
                variant="T",
                classes=(SegmentClass(value=1, name="Brain", color=(1, 2, 3)),),
                licence="none",
                citation="",
                size=None,
                folder="",
                origin="",
                repo="owner/name",
                revision="abc",
                in_channels=1,
                orientations=("SPL",),
            ),
        ),
        store="/home/ü软/bundles",
    ),
    DownloadResult(id=8, bundle="a", folder="/home/a"),
    ImportResult(id=9, bundle="a", folder="/home/a"),
    RemoveResult(id=10, bundle="a"),
    PlanResult(id=12, files=(FilePair(input="/a.nii", output="/b.seg.nrrd", done=True),)),
    SegmentFileResult(
        id=13,
        file=FileOutcome(
            input="/a.nii",
            output="/b.seg.nrrd",
            status="done",
            seconds=0.75,
            timings={"total": 0.5},
            slices=3,
            volumes_ml={"Brain": 1500.0},
            volumes=(StructureVolume(name="Brain", value=1, volume_ml=1500.0, confidence=0.9),),
            warnings=("Careful.",),
        ),
    ),
    SegmentFilesResult(id=14),
    ShutdownResult(id=11),
]


def name(message):
    return type(message).__name__


@pytest.mark.parametrize("message", REQUESTS, ids=name)
def test_requests_survive_the_way(message):
    assert decode_request(encode(message)) == message


@pytest.mark.parametrize("message", REPLIES, ids=name)
def test_replies_survive_the_way(message):
    assert decode_reply(encode(message)) == message


def test_a_line_is_ascii_and_one_line():
    line = encode(LoadRequest(id=1, options=SegmentOptions(model="a\nü软\u2028\udc80")))
    assert line.isascii()
    assert line.count(b"\n") == 1


@pytest.mark.parametrize(
    ("line", "said", "request_id"),
    [
        (b"nonsense", "no JSON", None),
        (b"\xff\xfe{}", "no JSON", None),
        (b"[" * 100_000, "no JSON", None),
        (b'{"id":1,"type":"hello","protocol":NaN}', "NaN", None),
        (b"[1]", "must hold a JSON object, not a list of 1", None),
        (b'"x"', 'not "x"', None),
        (b'{"type":"hello"}', "'id' is missing", None),
        (b'{"id":true,"type":"hello"}', "'id' must be", None),
        (b'{"id":0,"type":"hello"}', "'id' must be a whole number from 1", None),
        (b'{"id":3}', "no request of type None", 3),
        (b'{"id":3,"type":["hello"]}', "no request of type", 3),
        (b'{"id":3,"type":"dance"}', "no request of type 'dance'. Known are: hello, devices, load", 3),
        (b'{"id":3,"type":"hello","protocol":"1"}', "'protocol' must be a whole number, not \"1\"", 3),
        (b'{"id":3,"type":"hello","protocol":true}', "'protocol' must be a whole number, not true", 3),
        (b'{"id":3,"type":"hello","protocol":1.5}', "'protocol' must be a whole number, not 1.5", 3),
        (b'{"id":3,"type":"cancel"}', "'request' is missing", 3),
        (b'{"id":3,"type":"load","options":{"model":null}}', "'options.model' must be text, not null", 3),
        (b'{"id":3,"type":"load","color":1}', "no field 'color'. Known are: id, options", 3),
        (b'{"id":3,"type":"load","options":{"mode":"quick"}}', "'options.mode' must be one of 'best', 'paper'", 3),
        (
            b'{"id":3,"type":"load","options":{"mode":{}}}',
            "'options.mode' must be one of 'best', 'paper', not an object",
            3,
        ),
        (b'{"id":3,"type":"load","options":{"smoothing":-1}}', "'options': The smoothing must be 0 mm or more", 3),
    ],
)
def test_a_bad_line_is_explained(line, said, request_id):
    with pytest.raises(ProtocolError, match=re.escape(said)) as caught:
        decode_request(line)
    assert caught.value.request_id == request_id


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"file":"array-0123456789abcdef.npy"', '"file":7', "'volume.file' must be text, not 7"),
        ("3.0", '"3"', "'volume.ijk_to_ras[2][2]' must be a finite number"),
        ("3.0", "1e999", "'volume.ijk_to_ras[2][2]' must be a finite number"),
        ("3.0", f"1{400 * '0'}", "'volume.ijk_to_ras[2][2]' must be a finite number"),
        ("3.0,0.0", "3.0", "'volume.ijk_to_ras[2]' must be a list of 4, not a list of 3"),
        ('"region":null', '"region":{"first":1}', "no field 'region.first'"),
        ('"region":null', '"region":[1]', "'region' must be an object, not a list of 1"),
        ('"slices":null', '"slices":{"axis":"K","indices":[1,"2"]}', "'slices.indices[1]' must be a whole number"),
        ('"slices":null', '"slices":{"axis":"K","indices":3}', "'slices.indices' must be a list, not 3"),
        ('["labelmap"]', '["labelmap","mesh"]', "'outputs[1]' must be one of"),
    ],
)
def test_a_bad_field_is_named_with_its_place(old, new, said):
    line = encode(SegmentRequest(id=5, volume=VOLUME, options=SegmentOptions(model="x"))).decode()
    assert old in line
    with pytest.raises(ProtocolError, match=re.escape(said)):
        decode_request(line.replace(old, new, 1).encode())


def test_a_whole_number_is_a_real_number_too():
    line = encode(SegmentRequest(id=5, volume=VOLUME, options=SegmentOptions(model="x"))).replace(b"3.0", b"3")
    assert decode_request(line).volume.ijk_to_ras == GEOMETRY


def test_what_json_cannot_hold_is_not_sent():
    wrong = VolumeFile(file="x", ijk_to_ras=geometry_of(np.full((4, 4), np.nan)))
    with pytest.raises(ProtocolError, match="cannot hold"):
        encode(SegmentRequest(id=1, volume=wrong, options=SegmentOptions(model="x")))
    with pytest.raises(ProtocolError, match="too long"):
        encode(LoadRequest(id=1, options=SegmentOptions(model="x" * MAX_LINE)))


@pytest.mark.parametrize(
    "line", [b'{"type":"result","of":"x","id":1}', b'{"type":"reply"}', b'{"type":"result","of":[]}', b"[]"]
)
def test_what_is_no_reply_is_refused(line):
    with pytest.raises(ProtocolError):
        decode_reply(line)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_lines_are_found_in_any_pieces(size):
    data = b"one\n\n  \r\ntwo\nthree"
    splitter, lines = LineSplitter(), []
    for start in range(0, len(data), size):
        lines += splitter.feed(data[start : start + size])
    assert lines == [b"one", b"two"]
    assert splitter.end() == b"three"


@pytest.mark.parametrize("size", [1 << 16, 1 << 30])
def test_too_long_a_line_is_dropped_and_told_once(size):
    data = b"a\n" + b"x" * (3 * MAX_LINE) + b"\nb\n"
    splitter, lines = LineSplitter(), []
    for start in range(0, len(data), size):
        lines += splitter.feed(data[start : start + size])
    assert lines == [b"a", None, b"b"]
