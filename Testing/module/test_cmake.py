"""What the CMake files ship: configured and installed with a stand-in for Slicer's macros (slicer_build)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QImage

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("slicer_build")
RAW = "https://raw.githubusercontent.com/RWKVUNetSegment/RWKVUNetSegment/main/"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """Folder with the installed tree in `installed`, and what the macros were told in text files."""
    # The environment's own CMake, which the test extra brings: the system's may be older than Slicer's.
    program = shutil.which("cmake", path=str(Path(sys.executable).parent))
    assert program, 'needs CMake: pip install -c constraints.txt ".[test]"'
    folder = tmp_path_factory.mktemp("build")
    options = [
        f"-D{language}_COMPILER_{fact}=1" for language in ("CMAKE_C", "CMAKE_CXX") for fact in ("FORCED", "ID_RUN")
    ]
    compilers = [f"-D{language}_COMPILER={program}" for language in ("CMAKE_C", "CMAKE_CXX")]  # nothing is compiled
    source = ["-S", str(ROOT), "-B", str(folder), f"-DSlicer_DIR={STAND_IN}"]
    run(program, *source, *options, *compilers)
    run(program, "--install", str(folder), "--prefix", str(folder / "installed"))
    return folder


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def tree(folder, *skipped):
    """Relative paths of the files, without bytecode, hidden files and the named folders."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    hidden = {"__pycache__", *skipped}
    return {path.as_posix() for path in files if not any(p in hidden or p.startswith(".") for p in path.parts)}


def metadata(build):
    return dict(line.split("=", 1) for line in (build / "metadata.txt").read_text().splitlines())


def test_everything_of_the_module_ships_and_nothing_else(build):
    module = tree(ROOT / "RWKVUNetSegment", "Testing") - {"CMakeLists.txt"}
    core = {f"rwkv_core/{path}" for path in tree(ROOT / "rwkv_core")}
    assert tree(build / "installed" / "lib") == module | core


def test_the_installed_library_finds_the_shipped_model_and_the_sample(build):
    library = build / "installed" / "lib"
    code = (
        "import sys, pathlib; sys.path.insert(0, sys.argv[1])\n"
        "import rwkv_core; from rwkv_core.bundle.bundle import read_bundle\n"
        "home = pathlib.Path(rwkv_core.__file__).parent; data = home / 'data'\n"
        "print(home, read_bundle(data / 'bundles' / 'default').config.id, (data / 'sample' / 'ch2.nii.gz').is_file())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(library)],
        capture_output=True,
        text=True,
        check=True,
        cwd=build,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.stdout.split() == [str(library / "rwkv_core"), "default", "True"]


def test_tests_for_ctest_exist(build):
    scripts = [Path(line) for line in (build / "unittests.txt").read_text().splitlines()]
    assert scripts and all(script.is_file() for script in scripts)
    in_slicer = set((ROOT / "RWKVUNetSegment" / "Testing").rglob("*Test.py"))
    assert in_slicer <= set(scripts)


def test_pictures_of_the_extension_are_where_their_addresses_say(build):
    facts = metadata(build)
    assert all(facts.values())
    icon = ROOT / facts["ICONURL"].removeprefix(RAW)
    image = QImage(str(icon))
    assert (image.width(), image.height()) == (128, 128)
    for address in facts["SCREENSHOTURLS"].split():
        picture = ROOT / address.removeprefix(RAW)
        assert picture.is_file(), picture
        assert picture.stat().st_size < 400_000, picture


def test_icon_reads_at_sixteen_pixels():
    """As Slicer's list of modules shows it: the two halves and what lies between them are still told apart."""
    image = QImage(str(ROOT / "RWKVUNetSegment" / "Resources" / "Icons" / "RWKVUNetSegment.png"))
    small = image.scaled(16, 16, Qt.KeepAspectRatio, Qt.SmoothTransformation)
    left, right, inside, corner = (small.pixelColor(*at) for at in ((3, 8), (12, 8), (5, 6), (1, 1)))
    assert left.red() - left.blue() > 80 and right.green() - right.red() > 80
    assert min(inside.red(), inside.green(), inside.blue()) > 150
    assert corner.lightness() < 80


def test_catalogue_entry_says_what_the_index_wants_and_no_more(build):
    entry = json.loads((ROOT / "RWKVUNetSegment.json").read_text())
    assert set(entry) == {
        "$schema",
        "category",
        "scm_url",
        "scm_revision",
        "build_dependencies",
        "build_subdirectory",
        "tier",
    }
    assert entry["category"] == "Segmentation"
    assert entry["build_dependencies"] == [name for name in metadata(build)["DEPENDS"].split() if name != "NA"]
    assert entry["build_subdirectory"] == "." and entry["tier"] == 1
    assert entry["scm_url"].removesuffix(".git") == metadata(build)["HOMEPAGE"]


def test_ui_file_passes_the_scene_to_every_node_selector():
    ui = ElementTree.parse(ROOT / "RWKVUNetSegment/Resources/UI/RWKVUNetSegment.ui")
    selectors = {w.get("name") for w in ui.iter("widget") if w.get("class").startswith("qMRMLNode")}
    connected = {
        c.findtext("receiver") for c in ui.iter("connection") if c.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
    }
    assert selectors == connected
