"""`rwkv-unet doctor`: what this installation and machine can do, as plain text for a bug report; nothing personal."""

import argparse
import ctypes
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import rwkv_core
from rwkv_core.cli.terminal import printable
from rwkv_core.packages import PACKAGES, installed_version
from rwkv_core.vocabulary import Offer

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_ANSWERED = "ok, "
SIDE = 160
"""Pixels of the self test's slice."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its options."""
    parser = subparsers.add_parser(
        "doctor",
        help="tell what this installation can do, for a bug report",
        description="Prints versions, devices, engines with a self test of each, folders and network settings. "
        "No name of a user, a computer or a file of yours is in it.",
    )
    parser.add_argument("--no-test", action="store_true", help="leave out the self test of the engines")
    parser.set_defaults(func=run)


def run(options: argparse.Namespace) -> int:
    """Print the report as it comes; 1 when no engine gives an answer."""
    working = options.no_test
    for line in report(test=not options.no_test):
        print(printable(line))
        working |= _ANSWERED in line
    return 0 if working else 1


def report(test: bool = True) -> Iterator[str]:
    """Give the report line by line: versions, machine, devices, engines, folders, models, network, self test.

    No part that fails keeps the others from being told. It imports torch where it is installed, and computes: for a
    process of its own (`python -m rwkv_core.cli doctor`), not for Slicer's.

    Args:
        test: run one slice through each engine.
    """
    for title, part in _PARTS.items():
        yield title
        try:
            yield from (f"  {line}" for line in part())
        except Exception as error:  # a broken package, catalogue or driver is what a report is asked for
            yield f"  FAILED: {type(error).__name__}: {_without_home(str(error))}"
    if test:
        yield "Self test: one slice by the shipped model"
        yield from (f"  {engine}: {answer}" for engine, answer in self_tests())


def _versions() -> Iterator[str]:
    yield f"rwkv_core {rwkv_core.__version__}"
    yield f"python {platform.python_version()}"
    for package in PACKAGES:
        yield f"{package} {installed_version(package) or 'not installed'}"


def _machine() -> Iterator[str]:
    yield f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores"
    yield f"NVIDIA driver: {_driver_cuda()}; this PyTorch: {_torch_cuda()}"


def _driver_cuda() -> str:
    """Give the newest CUDA that NVIDIA's driver takes."""
    number = ctypes.c_int()
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        if driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
            return "does not answer"
    except (OSError, AttributeError):
        return "none"
    return f"up to CUDA {number.value // 1000}.{number.value % 1000 // 10}"


def _torch_cuda() -> str:
    if find_spec("torch") is None:
        return "not installed"
    from rwkv_core.engines import why_unavailable

    if reason := why_unavailable("torch"):
        return reason
    import torch

    return f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"


def _devices() -> Iterator[str]:
    from rwkv_core.engines import list_devices

    return map(_in_words, list_devices())


def _engines() -> Iterator[str]:
    from rwkv_core.engines import list_engines

    return map(_in_words, list_engines())


def _in_words(offer: Offer) -> str:
    return f"{offer.name} ({offer.title}): {f'no: {offer.unavailable}' if offer.unavailable else 'yes'}"


def _folders() -> Iterator[str]:
    from rwkv_core.bundle.store import user_store
    from rwkv_core.compiled_cache import cache_folder

    folders = {"models": user_store(), "compiled networks": cache_folder(), "temporary": Path(tempfile.gettempdir())}
    for name, folder in folders.items():
        yield f"{name}: {_rights(folder)}"


def _models() -> Iterator[str]:
    from rwkv_core.bundle.catalogue import load_catalogue
    from rwkv_core.bundle.store import list_bundles

    catalogue = load_catalogue()
    listed = list_bundles(catalogue)
    public = [model for model in listed if catalogue.find(model.id) is not None]  # an own model's name may name people
    for model in public:
        yield f"{model.id}: {model.state}"
    yield f"your own: {len(listed) - len(public)}"


def _network() -> Iterator[str]:
    proxies = [name for name in PROXIES if os.environ.get(name) or os.environ.get(name.lower())]
    yield f"proxy: {', '.join(proxies) or 'none set'}"
    yield f"offline: {'yes (HF_HUB_OFFLINE)' if os.environ.get('HF_HUB_OFFLINE') else 'no'}"
    yield f"Hugging Face endpoint: {'set (HF_ENDPOINT)' if os.environ.get('HF_ENDPOINT') else 'the usual one'}"


_PARTS: dict[str, Callable[[], Iterator[str]]] = {
    "Versions": _versions,
    "Machine": _machine,
    "Devices": _devices,
    "Engines": _engines,
    "Folders": _folders,
    "Models": _models,
    "Network": _network,
}


def _without_home(text: str) -> str:
    """Give the text in one line, without folders: they may name a person."""
    return re.sub(r"(?:[A-Za-z]:)?[\\/][^:'\"]*[\\/]", ".../", " ".join(text.split()))[:300]


def _rights(folder: Path) -> str:
    """Free space and whether it can be written; the path itself may name a person, and is left out."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    writable = "can be written" if os.access(existing, os.W_OK) else "CANNOT be written"
    return f"{shutil.disk_usage(existing).free / 1e9:.1f} GB free, {writable}"


def self_tests() -> Iterator[tuple[str, str]]:
    """Run one slice through every engine of this machine that can be used.

    Yields:
        Name of the engine; "ok, SECONDS s" or what went wrong.
    """
    import numpy as np

    from rwkv_core.bundle.store import load_bundle
    from rwkv_core.engines import ENGINES, make_engine, why_unavailable
    from rwkv_core.errors import RWKVUNetError

    weights = load_bundle("default").weights
    image = np.random.default_rng(0).random((1, 1, SIDE, SIDE), np.float32)
    expected: np.ndarray | None = None
    for name in ("numpy", *(engine for engine in ENGINES if engine not in ("auto", "numpy", "openvino-int8"))):
        if why_unavailable(name):
            continue
        start = time.perf_counter()
        try:
            logits = make_engine(weights, "cuda" if name == "cuda" else "cpu", (SIDE, SIDE), name)(image)
            answer = np.asarray(logits.cpu() if hasattr(logits, "cpu") else logits)
        except (RWKVUNetError, RuntimeError, OSError, ImportError) as error:
            yield name, f"FAILED: {_without_home(str(error))}"
            continue
        labels = answer.argmax(1)
        expected = labels if expected is None else expected
        same = float((labels == expected).mean())
        seconds = time.perf_counter() - start
        yield name, f"{_ANSWERED}{seconds:.1f} s" if same > 0.99 else f"DIFFERS in {1 - same:.1%} of the pixels"
