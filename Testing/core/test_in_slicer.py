"""in_slicer.py's own logic, with a stand-in for Slicer's executable."""

import json
import sys
import zipfile
from pathlib import Path

import in_slicer
import pytest

STAND_IN = """
import json, os, sys, time
from pathlib import Path
output = Path(os.environ["RWKV_SESSION_OUTPUT"])
(output / "arguments.json").write_text(json.dumps([sys.argv[1:], os.environ["RWKV_SESSION_INSTALL"]]))
print("Slicer's log")
{what}
"""
STEPS = """
def step(name, state, said=""): return {"name": name, "state": state, "seconds": 1.5, "said": said}
def write(steps, complete):
    text = json.dumps({"slicer": "Slicer 5.12.3", "steps": steps, "complete": complete})
    (output / "session.json").write_text(text)
(output / "1-the_module_opens.png").write_bytes(b"picture")
"""
ALL = STEPS + 'write([step("opens", "passed", "ready"), step("installs", "skipped", "Not asked.")], True)'


@pytest.fixture
def stand_in(tmp_path):
    def make(what):
        path = tmp_path / "Slicer.py"
        path.write_text(STAND_IN.replace("{what}", what), encoding="utf-8")
        return path

    return make


def run(executable, folder, *options):
    report = folder / "reports" / "report.zip"
    report.parent.mkdir(exist_ok=True)
    code = in_slicer.main([str(executable), "--report", str(report), *options])
    with zipfile.ZipFile(report) as archive:
        names = set(archive.namelist())
        return code, json.loads(archive.read("report.json")), archive.read("report.txt").decode(), names


def test_a_session_in_which_everything_passes(stand_in, tmp_path, capsys):
    code, report, text, names = run(stand_in(ALL), tmp_path)
    assert code == 0 and report["passed"]
    assert "Slicer 5.12.3" in text and "Everything passed." in text
    assert {"report.json", "report.txt", "slicer.log", "1-the_module_opens.png"} <= names
    assert "session.json" not in names
    assert str(tmp_path / "reports" / "report.zip") in capsys.readouterr().out


def test_slicer_gets_settings_of_its_own_and_the_module_from_the_tree(stand_in, tmp_path):
    run(stand_in(ALL), tmp_path, "--install")
    arguments, install = json.loads((tmp_path / "reports" / "report" / "arguments.json").read_text())
    assert {"--disable-settings", "--ignore-slicerrc", "--no-splash"} <= set(arguments)
    folder = arguments[arguments.index("--additional-module-paths") + 1]
    assert Path(folder, "RWKVUNetSegment.py").is_file()
    assert Path(arguments[arguments.index("--python-script") + 1]).is_file()
    assert install == "1"


def test_a_built_extension_in_place_of_the_tree(stand_in, tmp_path, capsys):
    build = tmp_path / "build"
    build.mkdir()
    assert in_slicer.main([str(stand_in(ALL)), "--extension-build", str(build)]) == 2
    assert "holds no built module" in capsys.readouterr().err
    folder = build / "lib" / "Slicer-5.12" / "qt-scripted-modules"
    folder.mkdir(parents=True)
    (folder / "RWKVUNetSegment.py").touch()
    _code, report, _text, _names = run(stand_in(ALL), tmp_path, "--extension-build", str(build))
    assert report["modules"] == [str(folder)]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (STEPS + 'write([step("opens", "failed", "Trace\\nValueError: torn")], True)', "(1.5 s): ValueError: torn"),
        (STEPS + 'write([step("opens", "passed")], False); os._exit(11)', "exit code 11 in the middle of the session"),
        ("os._exit(3)", "exit code 3 before the module's session began"),
        ("(output / 'session.json').write_text('{'); os._exit(0)", "before the module's session began"),
    ],
    ids=["a step fails", "Slicer dies", "the module does not load", "a torn record"],
)  # fmt: skip
def test_what_goes_wrong_is_in_the_report(stand_in, tmp_path, what, said):
    code, report, text, names = run(stand_in(what), tmp_path)
    assert code == 1 and not report["passed"]
    assert said in text and "Something failed: please send the report." in text
    assert "slicer.log" in names


def test_a_slicer_that_hangs_is_killed(stand_in, tmp_path):
    code, _report, text, _names = run(stand_in("time.sleep(600)"), tmp_path, "--timeout", "2")
    assert code == 1 and "did not end within 2 seconds" in text


def test_a_file_that_is_no_program(tmp_path):
    executable = tmp_path / "Slicer"
    executable.write_text("")
    code, _report, text, _names = run(executable, tmp_path)
    assert code == 1 and "cannot be started" in text


def test_no_such_file(tmp_path, capsys):
    assert in_slicer.main([str(tmp_path / "nothing")]) == 2
    assert "give the path of Slicer's executable" in capsys.readouterr().err


def test_the_session_is_valid_python():
    compile(in_slicer.SESSION.read_text(encoding="utf-8"), str(in_slicer.SESSION), "exec")
    assert sys.version_info >= (3, 10)
