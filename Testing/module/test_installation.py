"""What is installed, and how the rest gets there: on a click, in order, resumable. Nothing is really installed here:
slicer.packaging, the extensions manager (of the bench) and PyTorchUtils (below) stand in."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import qt
import slicer

from RWKVUNetSegmentLib.Segmentation import InstallationLogic as installation
from RWKVUNetSegmentLib.Segmentation.InstallationLogic import REQUIREMENTS, RequirementState
from RWKVUNetSegmentLib.Segmentation.InstalledPackages import PackageState, loadRequirements, look, parse

import bench
from bench import packaging


@pytest.fixture
def computer(monkeypatch):
    """A computer with everything but what a test takes away: names in `packaging.missing`, `computer.broken`."""
    state = SimpleNamespace(broken={}, torchCalls=[], nvidia=False)

    def looked(requirement, anew=True):
        if requirement.name in state.broken:
            return PackageState(broken=state.broken[requirement.name])
        missing = requirement.name in packaging.missing
        return PackageState(missing=True) if missing else PackageState(version="99.0")

    monkeypatch.setattr(installation, "look", looked)
    monkeypatch.setattr(installation, "hasNvidiaGPU", lambda: state.nvidia)
    monkeypatch.setattr(installation, "_PROBE", "pass")
    monkeypatch.setattr(installation, "_TORCH_PROBE", "pass")
    monkeypatch.setattr(slicer.modules, "pytorchutils", object(), raising=False)

    class PyTorchUtilsLogic:
        """Stand-in with the signature of the extension's."""

        def installTorch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None):
            state.torchCalls.append((askConfirmation, torchVersionRequirement))
            packaging.missing.discard("torch")
            return object()

    state.PyTorchUtils = ModuleType("PyTorchUtils")
    state.PyTorchUtils.PyTorchUtilsLogic = PyTorchUtilsLogic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", state.PyTorchUtils)
    yield state
    for key in ("InstallationBegunBy", "ImportedWith", "TorchImportedWith"):
        qt.QSettings().remove(f"RWKVUNetSegment/{key}")


@pytest.fixture
def made(computer):
    """Makes logics, and ends their probes."""
    logics = []

    def make():
        logics.append(installation.InstallationLogic())
        return logics[-1]

    yield make
    for logic in logics:
        logic.cleanup()


@pytest.fixture
def logic(made):
    """Of a computer that was found in order before."""
    found = made()
    checked(found)
    return found


def checked(logic):
    logic.wait()
    bench.wait_until(lambda: all(row.state != RequirementState.CHECKING for row in logic.states()))


def stateOf(logic, name):
    return next(row for row in logic.states() if row.name == name)


def agree(text):
    return True


def pipCalls():
    return [sorted(parse(text).name for text in call.requirements if text[0] != "-") for call in packaging.installed]


def install(logic, **options):
    """Press Install and wait for the check; gives what was said."""
    _done, reason = logic.install(**{"confirm": agree, **options})
    checked(logic)
    return (logic.isValid()[0], reason)


def test_with_everything_there_nothing_is_asked_or_done(logic):
    assert logic.isValid() == (True, "")
    assert {row.state for row in logic.states()} == {RequirementState.READY}
    assert logic.install(confirm=pytest.fail) == (True, "")
    assert not packaging.installed


def test_ready_means_that_a_child_process_could_import_it_once(made, computer, monkeypatch, tmp_path):
    monkeypatch.setattr(installation, "_PROBE", f"open({str(tmp_path / 'probed')!r}, 'a').write('x')")
    first = made()
    assert stateOf(first, "packages").state == RequirementState.CHECKING and not first.isValid()[0]
    checked(first)
    assert first.isValid() == (True, "")
    assert made().isValid() == (True, "")  # the next Slicer does not look again
    assert (tmp_path / "probed").read_text() == "x"
    monkeypatch.setattr(slicer.app.__class__, "revision", "another")
    another = made()
    assert stateOf(another, "packages").state == RequirementState.CHECKING
    checked(another)
    assert (tmp_path / "probed").read_text() == "xx"


def test_pytorch_that_takes_no_arrays_is_not_ready_and_segmenting_goes_on_without_it(made, computer, monkeypatch):
    probe = "raise SystemExit('PyTorch 2.2.2 and NumPy 2.2.6 do not go together (Numpy is not available)')"
    monkeypatch.setattr(installation, "_TORCH_PROBE", probe)
    logic = made()
    bench.wait_until(lambda: stateOf(logic, "packages").state == RequirementState.READY)
    assert stateOf(logic, "torch").state == RequirementState.CHECKING
    assert logic.isValid() == (True, "") and not logic.busy  # nobody waits for it
    checked(logic)
    torch = stateOf(logic, "torch")
    assert (
        torch.state == RequirementState.BROKEN and "do not go together (Numpy is not available). Uninstall" in torch.why
    )
    assert logic.isValid() == (True, "")
    monkeypatch.setattr(installation, "_TORCH_PROBE", "pass")
    packaging.missing.add("torch")  # uninstalled, as it says
    logic.refresh()
    install(logic, torch=True)
    assert computer.torchCalls and stateOf(logic, "torch").state == RequirementState.BROKEN  # the same PyTorch again


def test_a_check_that_an_installation_ended_says_nothing(made, monkeypatch):
    monkeypatch.setattr(installation, "_TORCH_PROBE", "input()")  # it waits
    logic = made()
    bench.wait_until(lambda: stateOf(logic, "packages").state == RequirementState.READY)
    packaging.missing.add("pydantic")
    assert logic.install(confirm=agree) == (True, "")
    bench.process_events()
    assert stateOf(logic, "torch").state == RequirementState.CHECKING


def test_the_true_probe_of_pytorch_says_why(monkeypatch, tmp_path):
    torch = tmp_path / "torch.py"  # stands in for 2.2.2 under NumPy 2
    torch.write_text(
        "__version__ = '2.2.2'\ndef from_numpy(array):\n    raise RuntimeError('Numpy is not available')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    command = [sys.executable, "-c", installation._TORCH_PROBE]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1 and "PyTorch 2.2.2 and NumPy" in ended.stderr
    torch.write_text("def from_numpy(array):\n    return array\n")
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_what_is_there_and_cannot_be_imported_is_broken_and_installed_again(made, computer, monkeypatch, tmp_path):
    probe = (
        f"from pathlib import Path\nif not Path({str(tmp_path / 'mended')!r}).exists(): raise ImportError('no AVX2')"
    )
    monkeypatch.setattr(installation, "_PROBE", probe)
    logic = made()
    checked(logic)
    packages = stateOf(logic, "packages")
    assert packages.state == RequirementState.BROKEN and "ImportError: no AVX2. Press Install" in packages.why
    (tmp_path / "mended").touch()
    assert install(logic) == (True, "")
    (call,) = packaging.installed
    assert {"--ignore-installed", "--no-deps"} <= set(call.requirements)
    assert len(pipCalls()[0]) == len(loadRequirements(REQUIREMENTS))


@pytest.mark.parametrize("answer", ["Ok", "Cancel"])
def test_segment_asks_one_question_installs_and_segments(computer, monkeypatch, request, answer):
    monkeypatch.setattr("module.logic_stand_ins.Installation", installation.InstallationLogic)
    opened = request.getfixturevalue("opened")
    volume, ui = request.getfixturevalue("volume"), opened.widget.ui
    checked(opened.logic.installation)
    packaging.missing.update({"openvino", "torch"})
    opened.logic.installation.refresh()
    assert ui.segmentButton.enabled and ui.volumeSelector.currentNode() is volume
    bench.dialogs.answer(answer)
    ui.segmentButton.click()
    (question,) = bench.dialogs.shown
    assert "60 MB" in question.text
    if answer == "Ok":
        bench.wait_until(lambda: ui.segmentButton.text == "Cancel")
        assert pipCalls() == [["openvino"]] and len(bench.dialogs.shown) == 1
    else:
        slicer.app.processEvents()
        assert not packaging.installed and ui.segmentButton.text == "Segment" and ui.segmentButton.enabled


def test_what_is_missing_is_named_and_installed_without_an_extension(logic, monkeypatch):
    monkeypatch.delattr(slicer.modules, "pytorchutils")
    packaging.missing.update({"torch", "openvino", "safetensors"})
    logic.refresh()
    valid, reason = logic.isValid()
    assert not valid and "openvino, safetensors not installed" in reason
    asked, seen = [], []
    logic.changed.connect(lambda: seen.append([(row.name, row.state) for row in logic.states()]))
    assert install(logic, confirm=lambda text: asked.append(text) or True) == (True, "")
    (question,) = asked
    assert "60 MB" in question and "PyTorch" not in question
    assert pipCalls() == [["openvino", "safetensors"]]
    assert [("packages", RequirementState.INSTALLING) in states for states in seen].count(True) >= 1
    assert logic.torchOffered and not slicer.app.extensionsManagerModel().installedExtensions


def test_pip_keeps_what_slicer_and_the_extension_brought(logic, monkeypatch):
    said = []
    monkeypatch.setattr(packaging, "onInstall", lambda call: said.append(Path(call.constraints).read_text()))
    packaging.missing.add("pydantic")
    install(logic)
    (call,) = packaging.installed
    assert call.skip_packages is None and call.requester == "RWKVUNetSegment"
    names = {line.partition("==")[0] for line in said[0].splitlines()}
    assert {"SimpleITK", "numpy"} <= names <= set(installation.KEPT)
    assert not Path(call.constraints).exists()


def test_nothing_without_consent_and_no_word_about_it(logic, computer):
    packaging.missing.update({"torch", "pydantic"})
    assert logic.install(confirm=lambda text: False, torch=True) == (False, "")
    assert not packaging.installed
    assert not computer.torchCalls


def test_pytorch_is_an_optional_second_row(logic, computer):
    packaging.missing.add("torch")
    logic.refresh()
    assert logic.isValid() == (True, "") and logic.torchOffered
    torch = stateOf(logic, "torch")
    assert torch.optional and "training" in torch.why
    computer.nvidia = True
    logic.refresh()
    assert "NVIDIA card was found" in stateOf(logic, "torch").why
    assert install(logic, torch=True) == (True, "")
    assert computer.torchCalls == [(False, ">=2.2")]
    assert not logic.torchOffered


def test_after_the_restart_for_the_extension_it_goes_on_by_itself(logic, made, computer, monkeypatch):
    packaging.missing.add("torch")
    monkeypatch.delattr(slicer.modules, "pytorchutils")
    manager = slicer.app.extensionsManagerModel()
    manager._installable.add("PyTorch")
    logic.refresh()
    asked = []
    done, reason = logic.install(confirm=lambda text: asked.append(text) or True, torch=True)
    assert not done and "Restart Slicer" in reason
    assert len(asked) == 1 and not bench.dialogs.shown  # the extensions manager did not ask a second time
    assert manager.interactive
    assert logic.restartPending
    assert logic.resume() == (True, "") and not computer.torchCalls  # nothing before the restart

    pid = os.getpid()
    monkeypatch.setattr(installation.os, "getpid", lambda: pid + 1)  # Slicer was restarted
    monkeypatch.setattr(slicer.modules, "pytorchutils", object(), raising=False)
    restarted = made()
    checked(restarted)
    assert not restarted.restartPending
    assert restarted.resume() == (True, "")
    assert computer.torchCalls and not packaging.installed
    computer.torchCalls.clear()
    packaging.missing.add("torch")
    assert made().resume() == (True, "") and not computer.torchCalls  # once


def test_the_extensions_manager_of_the_bench_asks_as_slicers_does():
    manager = slicer.app.extensionsManagerModel()
    manager._installable.add("PyTorch")
    bench.dialogs.answer("No")
    assert not manager.installExtensionFromServer("PyTorch", False)
    manager.interactive = False
    assert manager.installExtensionFromServer("PyTorch", False)
    manager.interactive = True


def test_an_extension_that_cannot_be_had_is_told(logic, monkeypatch):
    packaging.missing.add("torch")
    monkeypatch.delattr(slicer.modules, "pytorchutils")
    logic.refresh()
    done, reason = logic.install(confirm=agree, torch=True)
    assert not done
    assert "PyTorch extension was not installed" in reason


def test_an_older_pytorch_extension_is_asked_in_its_own_words(logic, computer):
    packaging.missing.add("torch")
    called = []

    class Older:
        def installTorch(self, askConfirmation):
            called.append(askConfirmation)
            packaging.missing.discard("torch")
            return object()

    computer.PyTorchUtils.PyTorchUtilsLogic = Older
    assert install(logic, torch=True) == (True, "")
    assert called == [False]


def test_a_failure_of_pip_is_told_and_the_rest_waits_for_the_next_click(logic, computer):
    packaging.missing.update({"pydantic", "torch"})
    packaging.failures.append(RuntimeError("exit status 1."))
    done, reason = logic.install(confirm=agree, torch=True)
    assert not done
    assert "exit status 1. The Python console" in reason
    assert stateOf(logic, "packages").state == RequirementState.MISSING and not computer.torchCalls
    assert install(logic, torch=True) == (True, "")
    assert pipCalls()[1:] == [["pydantic"]] and computer.torchCalls


def test_what_is_broken_says_why_and_is_installed_again(logic, computer, monkeypatch):
    computer.broken["pydantic"] = "pydantic: its record of installation is damaged."
    logic.refresh()
    packages = stateOf(logic, "packages")
    assert packages.state == RequirementState.BROKEN and "damaged. Press Install." in packages.why
    monkeypatch.setattr(packaging, "onInstall", lambda call: computer.broken.clear())
    assert install(logic) == (True, "")
    (call,) = packaging.installed
    assert "--ignore-installed" in call.requirements and pipCalls() == [["pydantic"]]
    computer.broken["torch"] = "torch: its record of installation is damaged."
    logic.refresh()
    assert "Uninstall" in stateOf(logic, "torch").why and logic.isValid() == (True, "")


def test_another_installation_goes_first(logic, monkeypatch):
    packaging.missing.add("pydantic")
    monkeypatch.setattr(slicer.packaging, "isPipInstallInProgress", lambda: True)
    done, reason = logic.install(confirm=pytest.fail)
    assert not done
    assert "Another installation" in reason


def test_slicer_5_10_has_no_packaging(logic, monkeypatch):
    packaging.missing.add("pydantic")
    calls = []
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    monkeypatch.setattr(slicer.util, "pip_install", lambda names: calls.append(names) or packaging.missing.clear())
    assert install(logic) == (True, "")
    assert parse(calls[0][0]).name == "pydantic" and calls[0][1] == "-c"


def test_requirements_pin_nothing_and_leave_slicers_packages_alone():
    found = loadRequirements(REQUIREMENTS)
    assert "openvino" in {requirement.name for requirement in found}
    for requirement in found:
        assert {part.operator for part in requirement.specifier} == {">="}
        assert requirement.name not in installation.KEPT


@pytest.mark.parametrize(
    ("metadata", "files", "said"),
    [
        (None, False, "missing"),
        ("Name: demo-package\nVersion: 2.5\n", True, "ready"),
        ("Name: demo-package\nVersion: 2.5\n", False, "files are gone"),
        ("Name: demo-package\nVersion: 1.0\n", True, "does not fit"),
        ("Name: demo-package\n", True, "damaged"),
    ],
    ids=["missing", "ready", "files gone", "too old", "damaged"],
)
def test_packages_are_looked_at_without_being_imported(tmp_path, monkeypatch, metadata, files, said):
    name = "demo_package_of_a_test"
    monkeypatch.syspath_prepend(str(tmp_path))
    if metadata is not None:
        folder = tmp_path / f"{name}-2.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(metadata.replace("demo-package", name))
    if files:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    found = look(parse(f"{name}>=2"))
    if said == "missing":
        assert found.missing
    elif said == "ready":
        assert (found.usable, found.version) == (True, "2.5")
    else:
        assert said in found.broken
    assert found.usable == (said == "ready")
