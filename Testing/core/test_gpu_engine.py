"""What of the GPU engine can be tested without a GPU; the network's own test runs on one where there is one."""

import logging
from typing import ClassVar

import pytest
import torch

from rwkv_core import make_engine
from rwkv_core.engines import availability, cuda_engine, why_unavailable
from rwkv_core.engines.agreement import FLOAT32, HALF_PRECISION, disagreement, example
from rwkv_core.engines.cuda_engine import CUDAEngine, half_run
from rwkv_core.engines.gpu_memory import Halving, is_out_of_memory
from rwkv_core.engines.graphs import make_graph
from rwkv_core.engines.torch_engine import TorchEngine
from rwkv_core.engines.torch_ops import TorchOps
from rwkv_core.errors import DeviceError
from rwkv_core.models.weights import NetworkWeights

from core.small_models import QuadrantNetwork
from core.test_engines import picture, random_network, relative_error

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU, or PyTorch without CUDA")


class Captured:
    """Stand-in for a CUDA graph: the function itself, with fixed memory for input and output."""

    made: ClassVar[list[int]] = []

    def __init__(self, run, batch):
        self.made.append(len(batch))
        self.most, self._run, self._input = len(batch), run, torch.full_like(batch, torch.nan)

    def __call__(self, batch):
        self._input[: len(batch)] = batch
        self._input[len(batch) :] = 0
        logits, trusted = self._run(self._input)
        return logits[: len(batch)], trusted


class SmallGPU:
    """Stand-in for a GPU that holds so many slices."""

    def __init__(self, slices, words=None):
        self.slices, self.words, self.sizes = slices, words, []

    def __call__(self, batch):
        self.sizes.append(len(batch))
        if len(batch) > self.slices:
            raise RuntimeError(self.words) if self.words else torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return 2 * batch


@pytest.fixture
def on_the_host(monkeypatch):
    """The engine's own logic and float16, on the CPU."""
    monkeypatch.setattr(cuda_engine, "CapturedRun", Captured)
    monkeypatch.setattr(cuda_engine, "_scans", lambda *_: False)
    monkeypatch.setattr(Captured, "made", [])


@pytest.mark.parametrize("words", [None, "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED when calling"])
def test_batches_are_halved_until_they_fit_and_stay_small(words):
    gpu = SmallGPU(3, words)
    run = Halving(CPU)
    batch = picture(20, 1, 2, 2)
    assert torch.equal(run(gpu, batch), 2 * batch)
    assert gpu.sizes == [20, 10, 5, 3, 3, 3, 3, 3, 3, 2]
    gpu.sizes.clear()
    assert torch.equal(run(gpu, batch[:7]), 2 * batch[:7])
    assert gpu.sizes == [3, 3, 1]


def test_memory_for_one_slice_is_asked_for_in_words():
    released = []
    words = r"too little free memory for one input of 8 x 16.*choose the device cpu"
    with pytest.raises(DeviceError, match=words):
        Halving(CPU, lambda: released.append(1))(SmallGPU(0), picture(5, 1, 8, 16))
    assert len(released) == 4  # 5, 3, 2, 1 slices


def test_other_failures_are_not_taken_for_lack_of_memory():
    with pytest.raises(RuntimeError, match="illegal instruction"):
        Halving(CPU)(SmallGPU(0, "an illegal instruction was encountered"), picture(5, 1, 8, 16))
    failed = RuntimeError("operation failed due to a previous error during capture")
    failed.__context__ = torch.cuda.OutOfMemoryError("CUDA out of memory.")
    assert is_out_of_memory(failed)


def test_eager_torch_halves_too():
    class Network(QuadrantNetwork):
        def forward(self, image):
            if len(image) > 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
            return super().forward(image)

    images = picture(5, 1, 32, 32)
    assert torch.equal(TorchEngine(Network(), CPU)(images), QuadrantNetwork()(images))


@pytest.mark.parametrize("variant", ["T", "B"])
def test_float16_gives_the_labels_of_the_network(variant, on_the_host, caplog):
    network, images = random_network(variant), picture(2, 1, 64, 48)
    with torch.inference_mode():
        expected = network(images)
    made = CUDAEngine(network, CPU)
    logits = made(images)
    assert made.name == "cuda" and logits.dtype == torch.float32 and caplog.records == []
    assert 1e-6 < relative_error(logits, expected) < 0.02
    assert (logits.argmax(1) == expected.argmax(1)).float().mean() > 0.998


def test_a_size_is_captured_when_it_comes_again_and_serves_smaller_batches(on_the_host):
    network, images = random_network(), picture(9, 1, 32, 48)
    engine = CUDAEngine(network, CPU)
    expected = half_run(network, CPU, torch.float16, scan=False)
    answers = [engine(part) for part in images.split(4)]
    assert Captured.made == [4]
    with torch.inference_mode():
        assert relative_error(torch.cat(answers), expected(images)[0]) < 0.01
    engine(images)
    engine(images)
    engine(images[:1])
    assert Captured.made == [4, 9]
    for height in (64, 80, 64, 80):
        engine(picture(1, 1, height, 32))
    engine(images)
    assert Captured.made == [4, 9, 1, 1, 9]  # of three sizes, the one used longest ago was given up


def test_captured_memory_is_given_up_before_a_batch_is_made_smaller(on_the_host, monkeypatch):
    engine = CUDAEngine(random_network(), CPU)
    images = picture(4, 1, 32, 32)
    expected = engine(images)
    engine(images)
    run, most = engine._run, 4

    def small(batch):
        if len(batch) > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return run(batch)

    engine._run = small
    engine._captured.clear()
    most = 2
    assert relative_error(engine(images), expected) < 0.01
    assert engine.name == "cuda" and Captured.made[-1] <= 2


def test_values_beyond_float16_are_left_to_the_network(on_the_host):
    network, image = random_network(), picture(1, 1, 32, 32)
    engine = CUDAEngine(network, CPU)
    with torch.inference_mode():
        for factor in (1e4, 1):
            assert torch.isfinite(engine(factor * image)).all()
        assert relative_error(engine(1e4 * image), network(1e4 * image)) < 0.05


def test_a_network_that_float16_breaks_runs_in_float32(on_the_host):
    network, image = random_network(), picture(1, 1, 32, 32)
    with torch.no_grad():
        network.ccm.channel.key.weight.mul_(1e4)
    engine = CUDAEngine(network, CPU)
    with torch.inference_mode():
        assert engine.name == "cuda" and relative_error(engine(image), network(image)) < 1e-4


def test_failure_hands_over_to_eager_torch_with_one_line(on_the_host, monkeypatch, caplog):
    network, image = random_network(), picture(2, 1, 32, 32)
    engine = CUDAEngine(network, CPU)

    def fail(*_):
        raise RuntimeError("an illegal instruction was encountered")

    monkeypatch.setattr(cuda_engine, "CapturedRun", fail)
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        for _ in range(3):
            assert relative_error(engine(image), network(image)) < 0.05
        assert relative_error(engine(image), network(image)) < 1e-5
    assert engine.name == "torch" and len(caplog.records) == 1 and "illegal instruction" in caplog.text


def test_agreement_is_told_in_words():
    expected = example(3, 16, 16)
    assert disagreement(expected, expected, FLOAT32) == ""
    assert "its logits differ by" in disagreement(expected + 0.1, expected, HALF_PRECISION)
    assert disagreement(expected * torch.nan, expected, HALF_PRECISION)


def test_old_driver_is_told_in_pytorchs_words(monkeypatch):
    def fail():
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by "
            "downloading and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx "
            "Alternatively, go to: https://pytorch.org to install a PyTorch version"
        )

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)
    assert "your system is too old (found version 11040). Please update" in why_unavailable("cuda")
    with pytest.raises(DeviceError, match=r"The device cuda cannot be used: the NVIDIA driver.*auto or cpu"):
        make_engine(random_network(), "cuda")


def test_gpu_that_this_pytorch_does_not_know(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75", "sm_90", "compute_90"])
    assert availability.why_unavailable("cuda") == (
        "this PyTorch holds no code for the GPU (sm_61; it was built for sm_75, sm_90, compute_90); install a newer one"
    )


def test_the_engine_wants_a_gpu_and_rwkv_unet():
    with pytest.raises(DeviceError, match="on NVIDIA GPUs only"):
        make_engine(random_network(), "cpu", engine="cuda")


@needs_gpu
@pytest.mark.parametrize("variant", ["T", "B"])
@pytest.mark.parametrize("scan", [False, True])
def test_graph_on_the_gpu_gives_the_logits_of_the_network(variant, scan):
    network, images = random_network(variant).cuda(), picture(2, 1, 96, 64).cuda()
    graph = make_graph(NetworkWeights.of(network), TorchOps("cuda", scan=scan))
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert relative_error(graph(images.to(memory_format=torch.channels_last))[0], network(images)) < 1e-3


@needs_gpu
def test_engine_on_the_gpu(caplog):
    network, images = random_network("B"), picture(20, 1, 96, 64)
    with torch.inference_mode():
        expected = network(images)
    engine = make_engine(network, "cuda", (96, 64))
    assert engine.name == "cuda"
    for _ in range(3):  # as it is, captured, replayed
        logits = torch.cat(list(engine.map(images.split(8), 20))).cpu()
        assert relative_error(logits, expected) < 0.05
        assert (logits.argmax(1) == expected.argmax(1)).float().mean() > 0.998
    assert caplog.records == []
