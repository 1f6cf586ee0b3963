"""What an installation costs, with and without PyTorch: python benchmarks/install.py [--extras "" torch]

Each row is an environment of its own, made empty by `python -m venv` and filled by pip from this folder; each figure is
taken in it, with an empty cache of compiled networks, on the sample head. pip's own cache is left as it is unless
`--no-cache` is said, so the seconds of installing are those of unpacking where everything was downloaded before.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]

RESULTS = """
import json, resource, sys, time
begin = time.perf_counter()
import rwkv_core
from rwkv_core.cli.demo import SAMPLE
volume = rwkv_core.read_volume(SAMPLE)
segmenter = rwkv_core.Segmenter("default", "cpu")
seconds = []
for _ in range(2):
    segmenter.segment(volume)
    seconds.append(time.perf_counter() - begin)
    begin = time.perf_counter()
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
print(json.dumps({"engine": segmenter.engine.name, "seconds": seconds, "memory": memory}))
"""

HELLO = """
import sys
from pathlib import Path
place, testing = sys.argv[1:]
sys.path.insert(0, testing)
from core.worker_client import WorkerClient
with WorkerClient(Path(place) / "worker.log") as worker:
    pass
"""


def seconds_of(command: list[str | Path], **more: object) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, **more)  # type: ignore[call-overload]
    return time.perf_counter() - start


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def measure(extra: str, index: str | None, no_cache: bool) -> dict[str, float | str]:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        subprocess.run([sys.executable, "-m", "venv", place / "venv"], check=True)
        python = place / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        empty = bytes_in(place / "venv")
        pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
        if no_cache:
            pip.append("--no-cache-dir")
        install = 0.0
        if index and extra:
            install += seconds_of([*pip, "torch", "--index-url", index])
        install += seconds_of([*pip, f"{ROOT}[{extra}]" if extra else ROOT])
        size = bytes_in(place / "venv") - empty
        environment = {**os.environ, "RWKV_UNET_CACHE": str(place / "cache")}
        environment.pop("PYTHONPATH", None)
        more = {"env": environment, "cwd": place}
        said = [python, "-m", "rwkv_core.cli", "--version"]
        seconds_of(said, **more)  # compiles the sources
        version = min(seconds_of(said, **more) for _ in range(3))
        hello = min(seconds_of([python, "-c", HELLO, place, ROOT / "Testing"], **more) for _ in range(3))
        run = subprocess.run([python, "-c", RESULTS], check=True, capture_output=True, text=True, **more)  # type: ignore[call-overload]
        results = json.loads(run.stdout.splitlines()[-1])
        again = json.loads(
            subprocess.run([python, "-c", RESULTS], check=True, capture_output=True, text=True, **more).stdout  # type: ignore[call-overload]
        )
    return {
        "size": size / 1e6, "install": install, "version": version, "hello": hello, "first": results["seconds"][0],
        "second": again["seconds"][0], "later": again["seconds"][1], "memory": again["memory"],
        "engine": results["engine"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--extras", nargs="+", default=["", "torch"], help='of pyproject.toml; "" for none')
    parser.add_argument("--torch-index", metavar="URL", help="where to take PyTorch from, such as its CPU builds")
    parser.add_argument("--no-cache", action="store_true", help="download everything again")
    options = parser.parse_args()
    table = Table(
        "Installation", "MB on disk", "install, s", "--version, s", "worker ready, s", "first result, s",
        "first of a later start, s", "next result, s", "memory, MB", "engine",
        title=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    )  # fmt: skip
    for extra in options.extras:
        r = measure(extra, options.torch_index, options.no_cache)
        table.add_row(
            f"[{extra}]" if extra else "(base)", f"{r['size']:.0f}", f"{r['install']:.0f}", f"{r['version']:.2f}",
            f"{r['hello']:.2f}", f"{r['first']:.1f}", f"{r['second']:.1f}", f"{r['later']:.1f}", f"{r['memory']:.0f}",
            str(r["engine"]),
        )  # fmt: skip
    Console(width=170, markup=False).print(table)


if __name__ == "__main__":
    main()
