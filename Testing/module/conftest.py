"""The bench for the tests of the Slicer module: started once, a clean scene for each, nothing wrong left unsaid.

It starts when the tests are collected, so that their files can import slicer, qt and the module's Lib at the top.
Without slicer-core or PySide6 the files that need it are left out, and the header of the run says so.
"""

import contextlib
import importlib.util
import os
import sys
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[2] / "RWKVUNetSegment"
MISSING = [name for name in ("slicer", "PySide6") if importlib.util.find_spec(name) is None]

WITHOUT_VIEWS = "RWKV_BENCH_WITHOUT_VIEWS"
"""Environment variable: every test that is not marked `views` runs in a Slicer without views and main window."""

sys.path.insert(0, str(MODULE))  # where Slicer puts it when it loads the module
if MISSING:
    collect_ignore_glob = ["test_*.py"]
else:
    import bench
    from bench.layout import without_views

    bench.start()
    from module.interactive_user import stand_in_fixture, stand_in_program, user_fixture  # noqa: F401 (fixtures)
    from module.panel import opened, state, ui, volume  # noqa: F401 (fixtures)
    from module.worker_fixtures import model, place, shared  # noqa: F401 (fixtures)


def pytest_report_header():
    if MISSING:
        return (
            f"Testing/module is left out: {' and '.join(MISSING)} missing (pip install slicer-core PySide6-Essentials)"
        )
    return None


def _children():
    """Process ids of this process's children, ended ones that nobody waited for included; none outside Linux."""
    tasks = Path(f"/proc/{os.getpid()}/task")
    if not tasks.exists():
        return set()
    found: set[int] = set()
    for task in tasks.iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has just ended
            found.update(int(child) for child in (task / "children").read_text().split())
    return found


@pytest.fixture
def slicer_app():
    """slicer.app of the bench."""
    return bench.start()


@pytest.fixture(autouse=True)
def clean(request):
    """A clean scene; afterwards no exception in a slot, failed connect, unknown widget or open question, no child."""
    if MISSING:
        yield
        return
    from bench import packaging

    children = _children()
    if not bench.is_clear():  # the test before has cleared it
        bench.clear_scene()
    bench.records.clear()
    bench.dialogs.clear()
    packaging.clear()
    bench.start().extensionsManagerModel()._clear()
    blind = WITHOUT_VIEWS in os.environ and not request.node.get_closest_marker("views")
    with without_views() if blind else contextlib.nullcontext():
        yield
        bench.process_events()
    errors, unanswered = bench.records.errors(), list(bench.dialogs.answers)
    bench.records.clear()
    bench.dialogs.clear()
    bench.clear_scene()
    assert not errors, "\n".join(errors)
    assert not unanswered, f"Prepared answers that no dialog asked for: {unanswered}"
    assert not _children() - children, "The test left child processes behind"


@pytest.fixture
def wait_until():
    """wait_until(condition, timeout=30, what=None): turns the event loop, without sleeping, until it is true."""
    return bench.wait_until


@pytest.fixture
def open_module():
    """open_module(path): opens a scripted module, and unloads it after the test."""
    opened = []

    def open_(path):
        opened.append(bench.open_module(path))
        return opened[-1]

    yield open_
    for module in opened:
        module.close()
    bench.process_events()
