"""The module's tests once more in a Slicer without views, layout manager and main window.

Tests that look at a view themselves are marked `views`, and run with views here, too.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = sorted(
    path.name
    for part in (
        "batch",
        "endings",
        "interactive",
        "panel",
        "preview",
        "region",
        "scenes",
        "sequences",
        "several",
        "take",
        "training",
        "widget",
    )
    for path in Path(__file__).parent.glob(f"test_{part}*.py")
)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", FILES)
def test_nothing_needs_a_view(name):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", str(Path(__file__).with_name(name))],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"RWKV_BENCH_WITHOUT_VIEWS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    nothing = pytest.ExitCode.NO_TESTS_COLLECTED  # all of the file is in the long part
    assert done.returncode in (0, nothing), done.stdout[-4000:] + done.stderr[-4000:]
