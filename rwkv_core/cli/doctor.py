"""`rwkv-unet doctor`: what this installation and machine can do, as plain text for a bug report; nothing personal."""

import argparse
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
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
    """Print the report; 1 when no engine gives an answer."""
    working = False
    for title, lines in _sections():
        print(f"{title}\n" + "\n".join(f"  {line}" for line in lines))
    if options.no_test:
        return 0
    print("Self test: one slice by the shipped model")
    for engine, answer in self_tests():
        working |= answer.startswith("ok")
        print(f"  {engine}: {answer}")
    return 0 if working else 1


def _sections() -> Iterator[tuple[str, list[str]]]:
    from rwkv_core.bundle.catalogue import load_catalogue
    from rwkv_core.bundle.store import list_bundles, user_store
    from rwkv_core.compiled_cache import cache_folder
    from rwkv_core.worker.capabilities import devices, hello
    from rwkv_core.worker.jobs import Job, Reporter
    from rwkv_core.worker.protocol import DevicesRequest, HelloRequest

    versions = hello(HelloRequest(id=1)).versions
    yield "Versions", [f"{name} {version or 'not installed'}" for name, version in versions.items()]
    machine = f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores"
    yield "Machine", [machine]
    request = DevicesRequest(id=1)
    found = devices(request, Job(request), Reporter(request.id, lambda message: None))
    for title, offers in (("Devices", found.devices), ("Engines", found.engines)):
        yield title, [f"{x.name} ({x.title}): {f'no: {x.unavailable}' if x.unavailable else 'yes'}" for x in offers]
    folders = {"models": user_store(), "compiled networks": cache_folder(), "temporary": Path(tempfile.gettempdir())}
    yield "Folders", [f"{name}: {_rights(folder)}" for name, folder in folders.items()]
    catalogue = load_catalogue()
    listed = list_bundles(catalogue)
    public = [
        status for status in listed if catalogue.find(status.id) is not None
    ]  # an own model's name may name people
    own = len(listed) - len(public)
    yield "Models", [f"{status.id}: {status.state}" for status in public] + [f"your own: {own}"]
    proxies = [name for name in PROXIES if os.environ.get(name) or os.environ.get(name.lower())]
    yield (
        "Network",
        [
            f"proxy: {', '.join(proxies) or 'none set'}",
            f"offline: {'yes (HF_HUB_OFFLINE)' if os.environ.get('HF_HUB_OFFLINE') else 'no'}",
            f"Hugging Face endpoint: {'set (HF_ENDPOINT)' if os.environ.get('HF_ENDPOINT') else 'the usual one'}",
        ],
    )


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
            yield name, f"FAILED: {' '.join(str(error).split())[:300]}"
            continue
        labels = answer.argmax(1)
        expected = labels if expected is None else expected
        same = float((labels == expected).mean())
        seconds = time.perf_counter() - start
        yield name, f"ok, {seconds:.1f} s" if same > 0.99 else f"DIFFERS in {1 - same:.1%} of the pixels"
