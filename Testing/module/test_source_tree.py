"""The README's steps for adding the module by hand: its folder is all that Slicer puts on the path."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

LOADS = """
import sys
sys.path = [entry for entry in sys.path if entry not in {here!r}]
sys.meta_path = [one for one in sys.meta_path if "editable" not in (getattr(one, "__module__", "") or "").lower()]
import bench
bench.start()
sys.path = [entry for entry in sys.path if entry not in {here!r}]
import importlib.util
assert importlib.util.find_spec("rwkv_core") is None, importlib.util.find_spec("rwkv_core")
opened = bench.open_module({module!r})
import rwkv_core
print(rwkv_core.__file__)
print(len(opened.widget.panels))
print(sorted(name for name in ("torch", "pydantic", "SimpleITK", "scipy", "openvino") if name in sys.modules))
opened.close()
assert not bench.records.errors(), bench.records.errors()
"""


def test_the_module_loads_from_its_folder_alone(tmp_path):
    """A fresh interpreter in which rwkv_core cannot be imported; neither it nor anything large is imported to load."""
    code = LOADS.format(here=[str(ROOT), ""], module=str(ROOT / "RWKVUNetSegment" / "RWKVUNetSegment.py"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(ROOT / "Testing"), "RWKV_UNET_HOME": str(tmp_path / "home")}
    # -S and the site's folders by hand: an installed copy for developers is no part of a user's Slicer
    folders = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    code = f"import sys; sys.path += {folders!r}\n{code}"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    where, panels, imported = done.stdout.splitlines()[-3:]
    assert where == str(ROOT / "rwkv_core" / "__init__.py")
    assert int(panels) >= 8
    assert imported == "[]"
