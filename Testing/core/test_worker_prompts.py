"""Pointing at structures through a worker as a real process."""

import numpy as np
import pytest
import torch

from rwkv_core import Prompter, Volume
from rwkv_core.bundle.bundle import write_bundle
from rwkv_core.bundle.config import BundleConfig
from rwkv_core.errors import BundleError, InputError
from rwkv_core.inference.prompt_maps import CHANNELS
from rwkv_core.models.rwkv_unet import RWKVUNet
from rwkv_core.vocabulary import SliceIndex
from rwkv_core.worker.framing import decode_reply, decode_request, encode
from rwkv_core.worker.protocol import FollowRequest, FollowResult, PromptRequest, PromptResult, VolumeFile

from core.worker_helpers import OBLIQUE, noise, volume_file

ROWS = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))
VOLUME = VolumeFile(file="array-0123456789abcdef.npy", ijk_to_ras=ROWS)


@pytest.mark.parametrize(
    "message",
    [
        PromptRequest(
            id=1, volume=VOLUME, slice=SliceIndex("J", 3), points=((1.0, 3.0, 2.5),), labels=(True,),
            box=((0.0, 3.0, 0.0), (4.0, 3.0, 5.0)), scribble="a.npy", mask="b.npy", window=(-160.0, 240.0),
        ),
        FollowRequest(id=2, volume=VOLUME, slice=SliceIndex("K", 3), mask="a.npy", range=(1, 9), stop=0.5),
    ],
)  # fmt: skip
def test_requests_survive_the_way(message):
    assert decode_request(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        PromptResult(id=1, probabilities="a.npy", seconds=0.1, warm=True),
        FollowResult(
            id=2, labelmap="a.npy", slices=(SliceIndex("K", 2),), agreement=(0.75,), first=2, last=3, reasons=("a", "b")
        ),
    ],
)
def test_replies_survive_the_way(message):
    assert decode_reply(encode(message)) == message


@pytest.fixture(scope="module")
def model(place):
    torch.manual_seed(0)
    config = BundleConfig(
        id="prompt", title="Anything", kind="prompt", architecture="rwkv-unet", variant="T", in_channels=len(CHANNELS),
        modality="any", licence="Apache-2.0",
    )  # fmt: skip
    network = RWKVUNet("T", 1, len(CHANNELS))
    torch.nn.init.constant_(network.final_conv.bias, 0.2)
    return str(write_bundle(place / "prompt", config, network).folder)


@pytest.mark.parametrize("axis", ["I", "J", "K"])
def test_a_click_is_answered_as_by_the_library(worker, model, axis):
    array = noise()
    shape = dict(zip("KJI", array.shape, strict=True))
    index = shape[axis] // 2
    point = {"I": 10.0, "J": 9.0, "K": 3.0} | {axis: float(index)}
    request = PromptRequest(
        volume=volume_file(worker, array), slice=SliceIndex(axis, index), bundle=model, device="cpu",
        points=((point["I"], point["J"], point["K"]),), labels=(True,),
    )  # fmt: skip

    found = worker.folder.get(worker.request(request).probabilities)

    prompter = Prompter(model, "cpu")
    prompter.set_volume(Volume(array, OBLIQUE))
    at = [point[name] for name in "KJI" if name != axis]
    expected = prompter.predict(axis, index, [(at[0], at[1])])
    assert found.dtype == np.float16
    assert found.shape == SliceIndex(axis, index).of(array).shape
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_volume_can_be_removed_after_an_answer_and_the_model_stays_ready(worker, model):
    volume = volume_file(worker, noise())
    request = PromptRequest(
        volume=volume, slice=SliceIndex("K", 2), bundle=model, device="cpu", points=((3.0, 3.0, 2.0),), labels=(True,)
    )
    worker.request(request)

    assert worker.request(request).warm
    worker.folder.discard(volume.file)
    with pytest.raises(InputError):
        worker.request(request)


def test_a_structure_is_followed(worker, model):
    array = noise()
    mask = np.zeros(array.shape[1:], np.uint8)
    mask[5:12, 6:15] = 1
    told = []
    result = worker.request(
        FollowRequest(
            volume=volume_file(worker, array), slice=SliceIndex("K", 3), bundle=model, device="cpu",
            mask=worker.folder.put(mask), range=(2, 5), stop=0.0,
        ),
        progress=told.append,
    )  # fmt: skip

    labelmap = worker.folder.get(result.labelmap)
    np.testing.assert_array_equal(labelmap[3], mask)
    assert not labelmap[:2].any()
    assert len(result.slices) == len(result.agreement)
    assert 2 <= result.first <= 3 <= result.last <= 5
    assert all(result.reasons)
    assert [step.stage for step in told].count("segment") >= 1


def test_what_is_wrong_is_told_in_a_sentence(worker, model):
    volume = volume_file(worker, noise())
    good = {"volume": volume, "slice": SliceIndex("K", 2), "bundle": model, "device": "cpu"}

    with pytest.raises(InputError, match="lies outside slice 2 along K"):
        worker.request(PromptRequest(**good, points=((3.0, 3.0, 4.0),), labels=(True,)))
    with pytest.raises(InputError, match="No prompt says what belongs"):
        worker.request(PromptRequest(**good))
    with pytest.raises(InputError, match="There is no slice 99"):
        worker.request(PromptRequest(**good | {"slice": SliceIndex("K", 99)}))
    with pytest.raises(BundleError, match="takes no clicks"):
        worker.request(PromptRequest(**good | {"bundle": "default"}, points=((3.0, 3.0, 2.0),), labels=(True,)))
