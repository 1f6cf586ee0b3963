import copy
import dataclasses
import functools
import importlib.util
import itertools
import logging
import re
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from rwkv_core import build_network, make_engine
from rwkv_core.cli.train import require_training
from rwkv_core.compiled_cache import CompiledCache
from rwkv_core.engines import availability, openvino_engine, openvino_kernels, why_unavailable
from rwkv_core.engines.availability import processor_features
from rwkv_core.engines.graphs import make_graph
from rwkv_core.engines.grid_wkv import SAFE_EXPONENT, GridWKV
from rwkv_core.engines.numpy_ops import NumPyOps
from rwkv_core.engines.openvino_ops import import_openvino
from rwkv_core.engines.torch_ops import TorchOps
from rwkv_core.errors import DeviceError, MissingPackageError
from rwkv_core.inference.segmenter import Segmenter
from rwkv_core.models.weights import NetworkWeights
from rwkv_core.ops import bi_wkv

from core.golden_weights import fill
from core.small_models import QuadrantNetwork, config, with_network

HAS_OPENVINO = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="OpenVINO is not installed (pip install openvino)")
ENGINES = ["torch", "numpy", pytest.param("openvino", marks=needs_openvino)]


def random_network(variant="T", num_classes=5, in_channels=1):
    """Each test gets its own: some change its weights."""
    return copy.deepcopy(_random_network(variant, num_classes, in_channels))


@functools.cache
def _random_network(variant, num_classes, in_channels):
    """BatchNorms with statistics, decays of both signs, mixes from 0 to 1."""
    network = build_network("rwkv-unet", variant=variant, num_classes=num_classes, in_channels=in_channels)
    values = fill({name: value.shape for name, value in network.state_dict().items()})
    network.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in values.items()})
    return network.eval()


def volumetric_network(variant="T", num_classes=5, in_channels=1):
    return copy.deepcopy(_volumetric_network(variant, num_classes, in_channels))


@functools.cache
def _volumetric_network(variant, num_classes, in_channels):
    """Orders that differ in decay, bonus and share; keys of the width that a trained network has."""
    torch.manual_seed(0)
    network = build_network("u-rwkv", variant=variant, num_classes=num_classes, in_channels=in_channels)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("decay", "first", "fusion", "mix_k", "mix_v", "mix_r")):
                parameter.add_(0.3 * torch.randn_like(parameter))
            if name.endswith("spatial.key.weight"):
                parameter.mul_(20)
    return network.eval()


def picture(batch, channels, *sides):
    return torch.rand(batch, channels, *sides, generator=torch.Generator().manual_seed(0))


def graph_in_torch(network):
    return make_graph(NetworkWeights.of(network), TorchOps())


def relative_error(logits, expected):
    return ((logits - expected).abs().max() / expected.std()).item()


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RWKV_UNET_CACHE", str(tmp_path))
    return tmp_path / "openvino"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("variant", "in_channels", "batch", "size"),
    [
        ("T", 3, 3, (32, 48)),
        ("T", 1, 2, (16, 16, 32)),
        pytest.param("S", 3, 1, (48, 16), marks=pytest.mark.long),
        pytest.param("T", 1, 3, (96, 160), marks=pytest.mark.long),
        pytest.param("S", 1, 1, (160, 96), marks=pytest.mark.long),
        pytest.param("B", 1, 3, (96, 160), marks=pytest.mark.long),
        pytest.param("B", 3, 1, (16, 48), marks=pytest.mark.long),
        pytest.param("S", 2, 1, (32, 16, 32), marks=pytest.mark.long),
    ],
)
def test_every_engine_gives_the_logits_of_the_network(engine, variant, in_channels, batch, size, caplog):
    make = random_network if len(size) == 2 else volumetric_network
    network = make(variant, in_channels=in_channels)
    image = picture(batch, in_channels, *size)
    with torch.inference_mode():
        expected = network.double()(image.double()).float()
    network.float()
    made = make_engine(network, "cpu", size, engine)
    logits = made(image)
    assert made.name == engine and made.device == "cpu" and caplog.records == []
    assert logits.dtype == torch.float32 and logits.shape == expected.shape
    assert isinstance(made(image[:1].numpy()), np.ndarray)
    # Torch's group normalisation of channels-last maps is less exact than that of others.
    assert relative_error(logits, expected) < (1e-5 if len(size) == 2 else 5e-5)
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() > 0.999


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("slices", [3, pytest.param(40, marks=pytest.mark.long)])
def test_many_slices_give_what_each_gives_alone(engine, slices, caplog):
    network = random_network()
    made = make_engine(network, "cpu", engine=engine)
    batches = picture(slices, 1, 32, 48).split(max(2, slices // 6))
    answers = list(made.map(iter(batches), slices))
    assert [len(answer) for answer in answers] == [len(answer) for answer in batches]
    with torch.inference_mode():
        expected = network(torch.cat(batches))
    assert relative_error(torch.cat(answers), expected) < 1e-5
    assert made.name == engine and caplog.records == []


@pytest.mark.long
@needs_openvino
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("slices", [3, 20])
def test_halved_logits_are_those_before_the_last_step(engine, slices):
    network = random_network()
    images = picture(slices, 1, 32, 48)
    answers = torch.cat(list(make_engine(network, "cpu", engine=engine).map(images.split(6), slices, halved=True)))
    assert answers.shape[2:] == (16, 24)
    enlarged = F.interpolate(answers, scale_factor=2, mode="bilinear", align_corners=False)
    with torch.inference_mode():
        assert relative_error(enlarged, network(images)) < 1e-5


def test_halved_logits_of_any_other_network_are_averaged():
    network, images = nn.Conv2d(1, 3, 1), picture(4, 1, 32, 48)
    (answers,) = make_engine(network, "cpu", engine="torch").map([images], 4, halved=True)
    with torch.inference_mode():
        assert relative_error(answers, F.avg_pool2d(network(images), 2)) < 1e-5


def test_several_slices_at_once_without_anything_in_the_cache(empty_cache, caplog):
    network = random_network()
    images = picture(20, 1, 32, 32)
    with caplog.at_level(logging.INFO):
        answers = torch.cat(list(make_engine(network, "cpu", engine="openvino").map(images.split(20), 20)))
    with torch.inference_mode():
        assert relative_error(answers, network(images)) < 1e-5
    assert caplog.records == []  # such as that it had to take one after another


@pytest.mark.long
@needs_openvino
def test_slices_beyond_float32_among_many_are_left_to_the_network():
    network = random_network()
    with torch.no_grad():
        network.encoder.stage3[1].att.key.weight.mul_(200)
    images = picture(20, 1, 32, 32)
    with torch.inference_mode():
        answers = torch.cat(list(make_engine(network, "cpu", engine="openvino").map(images.split(4), 20)))
        for image, answer in zip(images, answers, strict=True):
            assert relative_error(answer, network(image[None])[0]) < 1e-4


@needs_openvino
def test_loading_for_several_slices_is_tried_once_for_all_of_them(empty_cache, monkeypatch):
    network, images = random_network(), picture(20, 1, 32, 48)
    made = make_engine(network, "cpu", engine="openvino")
    load, tried = made._load, []

    def fail_for_several(size, halved, options):
        tried.append(options)
        if options is openvino_engine._SEVERAL:
            raise RuntimeError("out of memory")
        return load(size, halved, options)

    monkeypatch.setattr(made, "_load", fail_for_several)
    assert relative_error(torch.cat(list(made.map(images.split(20), 20))), network(images)) < 1e-5
    assert tried == [openvino_engine._SEVERAL, openvino_engine._OPTIONS]


@needs_openvino
def test_failure_with_several_slices_at_once_is_no_failure(empty_cache, monkeypatch):
    network = random_network()
    images = picture(20, 1, 32, 32)
    made = make_engine(network, "cpu", engine="openvino")

    def fail(*_):
        raise RuntimeError("too little memory for streams")

    monkeypatch.setattr(made, "_load", fail)
    with torch.inference_mode():
        assert relative_error(torch.cat(list(made.map(images.split(20), 20))), network(images)) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
def test_an_iteration_may_be_left_early(engine):
    made = make_engine(random_network(), "cpu", engine=engine)
    images = picture(12, 1, 32, 48)
    for _ in made.map(images.split(1), 12):
        break
    assert len(list(made.map(images.split(6), 12))) == 2


@pytest.mark.parametrize("engine", ENGINES)
def test_sizes_may_change_and_earlier_answers_stay(engine):
    network = random_network()
    made = make_engine(network, "cpu", engine=engine)
    first, second = picture(2, 1, 32, 48), picture(1, 1, 48, 32)
    before = made(first)
    copy = before.clone()
    with torch.inference_mode():
        assert relative_error(made(second), network(second)) < 1e-5
        made(1 - first)
        assert torch.equal(before, copy)
        assert relative_error(made(first), network(first)) < 1e-5


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("make", "shape"),
    [(random_network, (1, 1, 30, 32)), (random_network, (1, 3, 32, 32)), (random_network, (1, 32, 32)),
     (volumetric_network, (1, 1, 16, 30, 32)), (volumetric_network, (1, 1, 32, 32))],
)  # fmt: skip
def test_wrong_batches_are_refused_in_words(engine, make, shape):
    with pytest.raises(ValueError, match=r"multiples of 16|expected a batch"):
        make_engine(make(), "cpu", engine=engine)(torch.rand(shape))


@pytest.mark.parametrize("engine", ENGINES)
def test_keys_beyond_float32_are_left_to_the_network(engine):
    network = random_network()
    with torch.no_grad():
        network.encoder.stage3[1].att.key.weight.mul_(200)
    image = picture(1, 1, 64, 64)
    with torch.inference_mode():
        assert graph_in_torch(network)(image)[1] > SAFE_EXPONENT
        assert relative_error(make_engine(network, "cpu", engine=engine)(image), network(image)) < 1e-4


@pytest.mark.parametrize(
    "engine", ["torch", "numpy", pytest.param("openvino", marks=[needs_openvino, pytest.mark.long])]
)
def test_keys_of_blocks_beyond_float32_are_left_to_the_network(engine):
    network = volumetric_network()
    with torch.no_grad():
        network.encoder.stage3[1].spatial.key.weight.mul_(100)
    block = picture(1, 1, 16, 16, 32)
    with torch.inference_mode():
        assert graph_in_torch(network)(block)[1] > SAFE_EXPONENT
        assert relative_error(make_engine(network, "cpu", engine=engine)(block), network(block)) < 1e-5


def test_decays_of_blocks_beyond_float32_are_left_to_the_network(caplog):
    network = volumetric_network()
    with torch.no_grad():
        network.encoder.stage4[1].spatial.decay[1, 3] = -100
    block = picture(1, 1, 16, 16, 16)
    made = make_engine(network, "cpu")
    with torch.inference_mode():
        assert relative_error(made(block), network(block)) < 1e-5
    assert made.name == "torch"


def test_decays_beyond_float32_are_left_to_the_network():
    network = random_network()
    with torch.no_grad():
        network.encoder.stage4[1].att.spatial_decay[3] = -100
    image = picture(1, 1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(make_engine(network, "cpu", engine="torch")(image), network(image))
        assert relative_error(make_engine(network, "cpu")(image), network(image)) < 1e-5


@pytest.mark.parametrize("sides", [(7, 5), (1, 9), (9, 1), (1, 1), (3, 4, 5), (2, 1, 7)])
@pytest.mark.parametrize("way", ["along the sides", "numpy"])
def test_wkv_over_a_grid_is_the_definition(sides, way):
    random = torch.Generator().manual_seed(1)
    decay, first = 4 * torch.randn(6, generator=random), 4 * torch.randn(6, generator=random)
    key, value = torch.randn(2, 3, 6, *sides, generator=random)
    tokens = key[0, 0].numel()
    weights = decay.double().numpy(), first.double().numpy()
    for order in itertools.permutations(range(2, 2 + len(sides))):
        axes = (0, 1, *order)
        flat = [x.permute(axes).flatten(2).mT.contiguous() for x in (key, value)]
        expected = bi_wkv(decay / tokens, first / tokens, *flat, "reference")
        if way == "numpy":
            found = torch.from_numpy(NumPyOps(np.float64).wkv(*weights, order)(key.numpy(), value.numpy())[0]).float()
        else:
            found, key_range = GridWKV(*weights, order, TorchOps())(key, value)
            torch.testing.assert_close(key_range, (key.flatten(2).amax(2) - key.flatten(2).amin(2))[..., None])
        torch.testing.assert_close(found.permute(axes).flatten(2).mT, expected, rtol=2e-5, atol=2e-6)


def test_the_graph_is_a_copy():
    network = random_network()
    graph, image = graph_in_torch(network), picture(1, 1, 32, 32)
    before = graph(image)[0]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(graph(image)[0], before)


def test_auto_takes_torch_where_openvino_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert "not installed" in why_unavailable("openvino")
    network = random_network()
    assert make_engine(network, "cpu").name == "torch"
    with pytest.raises(DeviceError, match=r"not installed.*Choose the engine auto"):
        make_engine(network, "cpu", engine="openvino")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert make_engine(NetworkWeights.of(network), "cpu").name == "numpy"
    with pytest.raises(DeviceError, match=r"PyTorch is not installed.*\[torch\]"):
        make_engine(NetworkWeights.of(network), "cpu", engine="torch")


@pytest.mark.parametrize("survives", [False, True])
def test_a_processor_that_openvino_kills(survives, tmp_path, monkeypatch, caplog):
    """The stand-in of OpenVINO ends its process as an unknown instruction does."""
    monkeypatch.setattr(availability, "_lacks_avx2", lambda: True)
    code = "Core = dict" if survives else "import os; os.kill(os.getpid(), 4)"
    (tmp_path / "openvino.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "openvino", None)  # put back as it was, also where it was not imported yet
    del sys.modules["openvino"]
    availability._survives.cache_clear()
    try:
        reason = why_unavailable("openvino")
        assert reason == "" if survives else "does not start on this processor, which has no AVX2" in reason
        if not survives:
            with caplog.at_level(logging.WARNING):
                assert make_engine(random_network(), "cpu").name == "torch"
            assert "no AVX2" in caplog.text
    finally:
        availability._survives.cache_clear()


@needs_openvino
def test_auto_takes_openvino_for_networks_that_it_runs():
    assert make_engine(random_network(), "cpu").name == "openvino"
    assert make_engine(volumetric_network(), "cpu").name == "openvino"
    assert make_engine(QuadrantNetwork(), "cpu").name == "torch"
    with pytest.raises(DeviceError, match="RWKV-UNet and U-RWKV, on the CPU only"):
        make_engine(QuadrantNetwork(), "cpu", engine="openvino")


def test_unknown_engines_are_told_what_there_is():
    with pytest.raises(DeviceError, match="auto, torch, openvino, openvino-int8, cuda, numpy"):
        make_engine(random_network(), engine="steam")
    with pytest.raises(DeviceError, match="auto, torch, openvino, openvino-int8, cuda, numpy"):
        Segmenter(with_network(config(), QuadrantNetwork()), "cpu", engine="steam")


@needs_openvino
@pytest.mark.skipif(not processor_features().get("AVX2"), reason="a processor without AVX2")
@pytest.mark.parametrize("wide", [False, True], ids=["AVX2", "AVX512"])
def test_depthwise_kernels_are_asked_for_where_they_are_known_to_be_quicker(wide, monkeypatch):
    monkeypatch.setattr(openvino_kernels, "processor_features", lambda: {"AVX2": True, "AVX512F": wide})
    model = openvino_engine.convert(NetworkWeights.of(random_network()), (16, 16))
    asked = openvino_kernels.with_depthwise_kernels(model)
    if wide:
        assert asked is model
        return
    compiled = import_openvino().Core().compile_model(asked, "CPU", {"PERF_COUNT": True})
    request = compiled.create_infer_request()
    request.infer({0: np.zeros((1, 1, 16, 16), np.float32)})
    used = {layer.exec_type for layer in request.profiling_info if layer.node_type == "GroupConvolution"}
    assert used and all(name.startswith("jit_avx2_dw") for name in used)


@needs_openvino
@pytest.mark.parametrize(
    ("make", "size"),
    [(random_network, (32, 48)), pytest.param(volumetric_network, (16, 16, 16), marks=pytest.mark.long)],
)
def test_second_start_compiles_nothing(empty_cache, monkeypatch, make, size):
    network, image = make(), picture(1, 1, *size)
    first = make_engine(network, "cpu")(image)
    assert [path.suffix for path in empty_cache.iterdir()] == [".blob"]

    def refuse(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(openvino_engine, "convert", refuse)
    made = make_engine(network, "cpu")
    assert torch.equal(made(image), first) and made.name == "openvino"


@pytest.mark.long
@needs_openvino
def test_other_weights_and_sizes_are_other_files(empty_cache):
    network = random_network()
    make_engine(network, "cpu", (32, 48))
    make_engine(network, "cpu", (48, 32))
    with torch.no_grad():
        network.final_conv.bias.add_(1)
    image = picture(1, 1, 32, 48)
    with torch.inference_mode():
        assert relative_error(make_engine(network, "cpu")(image), network(image)) < 1e-5
    assert len(list(empty_cache.iterdir())) == 3


@needs_openvino
@pytest.mark.parametrize(
    "damage",
    ["cut", pytest.param("whole garbage", marks=pytest.mark.long), pytest.param("garbage", marks=pytest.mark.long)],
)
def test_damaged_cache_is_compiled_anew(empty_cache, damage):
    network, image = random_network(), picture(1, 1, 32, 32)
    make_engine(network, "cpu", (32, 32))
    (path,) = empty_cache.iterdir()
    whole = path.read_bytes()
    if damage == "whole garbage":
        CompiledCache("openvino").save(path.stem, {"compiled": b"not one", "expected": b""})
    else:
        path.write_bytes(whole[:-1000] if damage == "cut" else b"\0" * 1000)
    made = make_engine(network, "cpu")
    with torch.inference_mode():
        assert relative_error(made(image), network(image)) < 1e-5
    assert made.name == "openvino" and len(path.read_bytes()) > len(whole) // 2


@pytest.mark.long
@needs_openvino
def test_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RWKV_UNET_CACHE", str(tmp_path / "file"))
    engine = make_engine(random_network(), "cpu", (32, 32))
    engine(picture(1, 1, 16, 16))
    assert engine.name == "openvino" and len(caplog.records) == 1 and "RWKV_UNET_CACHE" in caplog.text


def test_cache_forgets_the_oldest(empty_cache, monkeypatch):
    monkeypatch.setattr("rwkv_core.compiled_cache._LIMIT_BYTES", 250)
    cache = CompiledCache("openvino")
    for key in ("a", "b", "c"):
        cache.save(key, {"letter": key.encode(), "rest": b"\n" * 40})
    assert [cache.load(key) for key in ("b", "c")] == [{"letter": x, "rest": b"\n" * 40} for x in (b"b", b"c")]
    assert cache.load("a") is None
    assert cache.load("d") is None


@needs_openvino
def test_disagreement_with_torch_hands_over_to_torch(empty_cache, monkeypatch, caplog):
    network, image = random_network(), picture(2, 1, 32, 32)
    convert = openvino_engine.convert

    def wrong(weights, *form):
        other = weights.arrays | {"final_conv.bias": weights.arrays["final_conv.bias"] + 0.1}
        return convert(dataclasses.replace(weights, arrays=other), *form)

    monkeypatch.setattr(openvino_engine, "convert", wrong)
    with caplog.at_level(logging.WARNING):
        made = make_engine(network, "cpu", (32, 32))
    assert made.name == "torch" and len(caplog.records) == 1 and "logits differ" in caplog.text
    with torch.inference_mode():
        assert relative_error(made(image), network(image)) < 1e-5
    assert not empty_cache.exists()


@needs_openvino
def test_failure_of_openvino_hands_over_to_torch(empty_cache, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("unsupported processor")

    monkeypatch.setattr(openvino_engine, "convert", fail)
    made = make_engine(random_network(), "cpu")
    for _ in range(2):
        assert made(picture(1, 1, 32, 32)).shape == (1, 5, 32, 32)
    assert made.name == "torch" and len(caplog.records) == 1 and "unsupported processor" in caplog.text


@pytest.mark.parametrize("engine", ENGINES)
def test_segmenter_uses_the_engine(engine):
    bundle = with_network(config(), random_network())
    assert Segmenter(bundle, "cpu", engine=engine).engine.name == engine


def test_a_torch_that_takes_no_arrays_is_told(monkeypatch):
    """torch 2.2.2 under NumPy 2.2, as seen: it imports, and its first use of an array fails."""

    def refuse(array):
        raise RuntimeError("Numpy is not available")

    assert why_unavailable("torch") == ""
    bundle = with_network(config(), random_network())
    monkeypatch.setattr(torch, "from_numpy", refuse)
    said = "do not go together (Numpy is not available)"
    assert said in why_unavailable("torch")
    with pytest.raises(DeviceError, match=re.escape(said)):
        Segmenter(bundle, "cpu", engine="torch")
    with pytest.raises(MissingPackageError, match=re.escape(said)):
        require_training()
    assert Segmenter(bundle, "cpu").engine.name == "openvino"
