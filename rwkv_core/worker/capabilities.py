"""What a worker can tell about itself and its machine."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version

import rwkv_core
from rwkv_core.vocabulary import Offer
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.protocol import PROTOCOL, DevicesRequest, DevicesResult, HelloRequest, HelloResult

_PACKAGES = ("torch", "numpy", "SimpleITK", "pydantic", "safetensors", "huggingface_hub", "openvino")


def hello(request: HelloRequest) -> HelloResult:
    """Tell versions and process id. Imports nothing, so that it takes milliseconds where torch takes seconds."""
    versions: dict[str, str | None] = {"rwkv_core": rwkv_core.__version__, "python": platform.python_version()}
    versions.update((package, _version(package)) for package in _PACKAGES)
    return HelloResult(id=request.id, protocol=PROTOCOL, pid=os.getpid(), versions=versions)


def devices(request: DevicesRequest, job: Job, report: Reporter) -> DevicesResult:
    """Find devices and engines, and why one cannot be used. Imports torch where it is installed.

    Raises:
        ImportError, OSError: when torch is broken.
    """
    report.stage("library")
    from rwkv_core.engines import choose_device, why_unavailable

    offers, without_torch = [], why_unavailable("torch")
    reason, count = why_unavailable("cuda"), 0
    if not without_torch:
        import torch

        count = torch.cuda.device_count()
        for index in range(count):
            name = f"cuda:{index}"
            offers.append(Offer(name=name, title=torch.cuda.get_device_name(index), unavailable=why_unavailable(name)))
    if reason and not count:
        offers.append(Offer(name="cuda", title="NVIDIA GPU", unavailable=reason))
    offers.append(Offer(name="mps", title="Apple GPU", unavailable=why_unavailable("mps")))
    offers.append(Offer(name="cpu", title=f"{platform.machine()}, {os.cpu_count()} cores"))
    titles = {
        "torch": " ".join(["PyTorch", _version("torch") or ""]).strip(),
        "openvino": "OpenVINO",
        "openvino-int8": "OpenVINO, partly in 8 bits: faster, less exact",
        "cuda": "CUDA graphs, half precision",
        "numpy": "NumPy: slow, and there everywhere",
    }
    engines = tuple(Offer(name=name, title=title, unavailable=why_unavailable(name)) for name, title in titles.items())
    return DevicesResult(id=request.id, auto=choose_device("auto"), devices=tuple(offers), engines=engines)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
