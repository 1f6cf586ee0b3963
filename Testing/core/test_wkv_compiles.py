"""Compiling wkv.cu, and what a user reads where that does not work. Needs no GPU."""

import ctypes
import logging
import shutil
import subprocess

import pytest
import torch

from rwkv_core.errors import DeviceError
from rwkv_core.ops.biwkv import cuda, gpu_driver, ninja_build, nvrtc
from rwkv_core.ops.biwkv.scan_plan import BACKWARD, FORWARD, TILES, Build

pytestmark = pytest.mark.long

NVCC = shutil.which("nvcc")
needs_nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc on the PATH")
TYPES = (torch.float32, torch.float16, torch.bfloat16)
PASSES = {"forward": FORWARD, "backward": BACKWARD}


@pytest.fixture
def nvrtc_here(monkeypatch):
    """NVRTC, if the dynamic linker finds one; a PyTorch without CUDA does not say which it wants."""
    nvrtc._library.cache_clear()
    for version in [torch.version.cuda] if torch.version.cuda else ["13.0", "12.0"]:
        monkeypatch.setattr(torch.version, "cuda", version)
        try:
            yield nvrtc._library()
        except DeviceError:
            continue
        nvrtc._library.cache_clear()
        return
    pytest.skip("no NVRTC library")


@needs_nvcc
@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("arch", ["75", "80", "86", "89", "90", "100", "120"])
def test_compiles_for_every_generation_without_spills(arch, kind, tmp_path):
    assert_compiles(Build(TYPES[int(arch) % 3], TILES[0], PASSES[kind]), arch, tmp_path)


@needs_nvcc
@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("arch", ["75", "90"])
def test_compiles_for_voxels_in_any_order_without_spills(arch, kind, tmp_path):
    assert_compiles(Build(TYPES[int(arch) % 3], TILES[-1], PASSES[kind], ordered=True), arch, tmp_path)


def assert_compiles(build, arch, tmp_path):
    options = ninja_build.options(build, (int(arch[:-1]), int(arch[-1])))
    command = [NVCC, *options, "-cubin", "-Xptxas", "-v", "-o", str(tmp_path / "wkv.cubin")]
    made = subprocess.run([*command, str(cuda._SOURCE)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "warning" not in made.stderr
    assert made.stderr.count("Compiling entry function") == made.stderr.count("0 bytes spill stores") == 2


@needs_nvcc
def test_library_of_the_ninja_route(tmp_path):
    """What the extension builder compiles loads, and answers without a GPU too."""
    build = Build(torch.float32, TILES[0], FORWARD)
    path = tmp_path / "wkv.so"
    options = [*ninja_build.options(build, (9, 0)), "-shared", "-Xcompiler", "-fPIC", "-o", str(path)]
    subprocess.run([NVCC, *options, str(ninja_build.SOURCE)], check=True)
    library = ctypes.CDLL(str(path))
    library.biwkv_error.restype = ctypes.c_char_p
    assert (
        "invalid device function"
        in library.biwkv_error(library.biwkv_launch(b"none", 1, 1, 32, 0, None, None)).decode()
    )
    if not torch.cuda.is_available():
        assert library.biwkv_launch(b"biwkv_forward", 1, 1, 512, 50_000, None, None) != 0


@pytest.mark.parametrize("ordered", [False, True], ids=["as-it-lies", "ordered"])
@pytest.mark.parametrize("kind", PASSES)
def test_compiles_at_run_time(nvrtc_here, kind, ordered):
    build = Build(torch.float16, TILES[0], PASSES[kind], ordered)
    code = nvrtc.compiled(cuda._SOURCE.read_text(), (9, 0), build.defines)
    assert code.startswith(b"\x7fELF") and all(name.encode() in code for name in build.kind.kernels)


def test_unknown_gpus_get_intermediate_code_or_a_sentence(nvrtc_here):
    assert nvrtc.options((9, 0))[-1] == "--gpu-architecture=sm_90"
    assert nvrtc.options((99, 0))[-1].startswith("--gpu-architecture=compute_")
    with pytest.raises(DeviceError, match=r"this one has 3\.5\. Install a PyTorch built for an older CUDA"):
        nvrtc.options((3, 5))


def test_broken_source_is_reported_with_the_compilers_words(nvrtc_here):
    with pytest.raises(DeviceError, match=r"does not compile the kernel: .*nonsense"):
        nvrtc.compiled("nonsense", (9, 0), {})


def test_missing_nvrtc_is_told_with_what_to_install(monkeypatch):
    nvrtc._library.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(nvrtc, "_candidates", lambda major: iter(["libnowhere.so"]))
    with pytest.raises(DeviceError, match=r"NVRTC of CUDA 13\.0 was not found\. Install it \(pip install"):
        nvrtc.version()


def test_old_gpu_is_told_what_is_needed(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GTX 1080")
    with pytest.raises(DeviceError, match=r"GTX 1080 has compute capability 6\.1\. The kernel needs 7\.0"):
        cuda.GPU(torch.device("cuda", 0))


def test_old_driver_is_told_to_be_updated():
    class Driver:  # stand-in
        def cuGetErrorString(self, code, text):  # noqa: N802
            text._obj.value = b"the provided PTX was compiled with an unsupported toolchain."

    with pytest.raises(DeviceError, match=r"unsupported toolchain.*Update NVIDIA's driver"):
        gpu_driver._check(Driver(), 222)
    with pytest.raises(gpu_driver.GPUError, match="700"):
        gpu_driver._check(Driver(), 700)


def test_reason_is_logged_once(monkeypatch, caplog):
    monkeypatch.setattr(torch.version, "cuda", None)
    for cached in (cuda._gpu, cuda._why_unavailable, cuda._log_once):
        cached.cache_clear()
    with caplog.at_level(logging.WARNING):
        for tokens in (196, 196, 784):
            reason = cuda.why_unavailable(torch.device("cuda", 0), torch.float16, tokens)
    assert reason == "This PyTorch was not built for NVIDIA's CUDA. Install one that was."
    assert [record.message for record in caplog.records] == [
        f"The CUDA kernel for BiWKV is not used, slower operators of PyTorch are: {reason}"
    ]
    for cached in (cuda._gpu, cuda._why_unavailable, cuda._log_once):
        cached.cache_clear()


def test_double_precision_is_not_for_the_kernel():
    assert "not torch.float64" in cuda.why_unavailable(torch.device("cuda", 0), torch.float64, 9)
