"""The command line among other programs: any name of a file, any locale, a terminal that obeys codes, a closed pipe."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rwkv_core.cli import main
from rwkv_core.cli.terminal import print_json, printable
from rwkv_core.vocabulary import SegmentClass
from rwkv_core.volume import OUTPUT_EXTENSIONS, find_volumes, read_volume, write_segmentation, write_volume

CLASSES = (SegmentClass(value=1, name="one", color=(1, 2, 3)),)
ARRAY = np.arange(24).reshape(2, 3, 4).astype(np.int16)
bytes_are_names = pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode there")


def rwkv_unet(*arguments, code=None, **how):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **how.pop("environment", {})}
    command = ["-c", code] if code else ["-m", "rwkv_core.cli"]
    return subprocess.Popen([sys.executable, *command, *map(str, arguments)], env=environment, text=True, **how)


@bytes_are_names
@pytest.mark.parametrize("extension", OUTPUT_EXTENSIONS)
def test_names_that_are_no_unicode(extension, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe"))
    folder.mkdir()
    scan = folder / f"{os.fsdecode(b'scan' + bytes([0x80]))}.nii.gz"
    write_volume(scan, ARRAY, np.eye(4))
    np.testing.assert_array_equal(read_volume(scan).array, ARRAY)
    write_segmentation(folder / f"x{extension}", ARRAY > 5, np.eye(4), CLASSES)
    np.testing.assert_array_equal(read_volume(folder / f"x{extension}").array, ARRAY > 5)
    assert find_volumes(folder) == [scan]
    assert len(list(folder.iterdir())) == 2


@bytes_are_names
def test_any_letter_under_a_locale_that_knows_ascii_alone(tmp_path):
    write_volume(tmp_path / "ü 软.nii.gz", ARRAY, np.eye(4))
    code = """
import sys
from pathlib import Path
from rwkv_core.volume import read_volume, write_volume
volume = read_volume(sys.argv[1])
write_volume(Path(sys.argv[1]).with_name("out.nii.gz"), volume.array + 1, volume.ijk_to_ras)
"""
    for utf8 in ("0", "1"):
        locale = {"LC_ALL": "C", "PYTHONUTF8": utf8, "PYTHONCOERCECLOCALE": "0"}
        run = rwkv_unet(tmp_path / "ü 软.nii.gz", code=code, environment=locale, stderr=subprocess.PIPE)
        _, words = run.communicate()
        assert run.returncode == 0, words
        np.testing.assert_array_equal(read_volume(tmp_path / "out.nii.gz").array, ARRAY + 1)
        (tmp_path / "out.nii.gz").unlink()


@pytest.mark.parametrize("name", ["\x1b[31mred.nii", "\x1b]0;title\x07.nii", "\x9b31m.nii", "a\rb.nii"])
def test_codes_in_names_do_not_reach_the_terminal(name, tmp_path, capsys):
    def said(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as error:
            code = error.code
        assert code in (1, 2)
        out, err = capsys.readouterr()
        assert not set(name) & {"\x1b", "\x07", "\x9b", "\r"} & set(out + err.replace("\r\x1b[2K", ""))
        return err

    assert printable(name) in said("segment", name, "-o", tmp_path / "out")
    assert "unrecognized" in said("models", "list", f"--{name}") or os.name == "nt"
    said("dataset", "check", name)
    print_json({"name": name})
    text = capsys.readouterr().out
    assert text.isprintable() or text.replace("\n", "").isprintable()
    assert json.loads(text) == {"name": name}


@pytest.mark.skipif(os.name == "nt", reason="no such pipes")
@pytest.mark.parametrize(
    "arguments", [("models", "list"), ("models", "list", "--json"), ("--help",), ("doctor", "--no-test")]
)
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(arguments):
    run = rwkv_unet(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    run.stdout.close()  # before anything was written
    words = run.stderr.read()
    run.stderr.close()
    assert run.wait() in (0, 141)  # argparse takes no notice
    assert words == ""


def test_a_damaged_header_is_told_once_and_by_us(tmp_path):
    """ITK's reader of MetaImage writes lines of its own on the standard error."""
    scan = tmp_path / "scan.mha"
    scan.write_bytes(b"ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_SHORT\n\n" + bytes(48))
    lines = {}
    for debug in ((), ("--debug",)):
        run = rwkv_unet(*debug, "segment", scan, "-o", tmp_path / "out.nii.gz", stderr=subprocess.PIPE)
        lines[debug] = run.communicate()[1]
        assert run.returncode == 1
    assert lines[()].strip().startswith(f"Error: {scan} cannot be read") and "Meta" not in lines[()]
    assert lines[()].count(str(scan)) == 1 and len(lines[("--debug",)]) > len(lines[()])
