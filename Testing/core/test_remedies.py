"""What to do about an error: in neutral words from the library, with its own flags from the command line."""

import ast
import pickle
import re
from pathlib import Path
from typing import get_args

import pytest

import rwkv_core
from rwkv_core.cli import main
from rwkv_core.cli.remedies import advice
from rwkv_core.errors import ErrorReport, InputError, Remedy, RemedyCode, read_report

LIBRARY = Path(rwkv_core.__file__).parent
COMMAND_LINE = re.compile(r"(?<![\w-])-(-[a-z]|[a-z]\b)|rwkv-unet [a-z]|\b[Pp]ress\b")


def help_of(capsys, *command):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    return capsys.readouterr().out


def test_every_flag_and_command_that_is_named_exists(capsys):
    words = " ".join(advice("", Remedy(code, "x")) for code in get_args(RemedyCode))
    commands = ("segment",), ("train",), ("evaluate",), *(("models", action) for action in ("download", "import"))
    known = " ".join(help_of(capsys, *command) for command in commands)
    flags = set(re.findall(r"--[a-z-]+", words))
    assert flags and flags <= set(re.findall(r"--[a-z-]+", known))
    for command, action in re.findall(r"`rwkv-unet ([a-z]+)(?: ([a-z]+))?", words):
        assert action in help_of(capsys, command)


def test_the_library_names_no_flag_of_the_command_line():
    found = []
    for path in LIBRARY.rglob("*.py"):
        if path.is_relative_to(LIBRARY / "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "").endswith("Error"):
                text = " ".join(
                    n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)
                )
                found += [f"{path.name}: {text}"] if COMMAND_LINE.search(text) else []
    others = "dask", "python -c"  # programs whose options are the same everywhere
    assert [line for line in found if not any(name in line for name in others)] == []


def test_remedies_cross_processes():
    error = InputError("Made for CT.", "Choose another.", Remedy("download model", "lungs"))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.remedy) == (str(error), error.remedy)


def test_programs_get_errors_as_json(tmp_path, capsys):
    command = ["segment", str(tmp_path / "none.nii"), "-o", str(tmp_path / "x.nii.gz"), "--model", "synapse-b"]
    assert main([*command, "--smoothing", "-1"]) == 1
    words = capsys.readouterr().err
    assert words.startswith("Error: ") and read_report(words) is None
    assert main(["--json-errors", *command, "--smoothing", "-1"]) == 1
    report = read_report("A warning of a library.\n" + capsys.readouterr().err)
    assert isinstance(report, ErrorReport) and report.kind == "input" and "smoothing" in report.message
