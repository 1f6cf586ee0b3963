"""The module's tests once more with freed memory overwritten: what still reads it dies, instead of living by luck."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FILES = ("test_widget.py", "test_widget_controls.py", "test_training_panel.py", "test_scenes.py", "test_endings.py")


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's MALLOC_PERTURB_")
@pytest.mark.parametrize("name", FILES)
def test_nothing_reads_memory_that_was_freed(name):
    file = Path(__file__).with_name(name)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", str(file)],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"MALLOC_PERTURB_": "165"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
