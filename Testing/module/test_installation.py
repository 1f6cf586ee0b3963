"""What is installed, and how the rest gets there: on a click, in order, resumable. Nothing is really installed here:
slicer.packaging, the extensions manager (of the bench) and PyTorchUtils (below) stand in."""

import os
import sys
from types import ModuleType, SimpleNamespace

import pytest
import qt
import slicer

from RWKVUNetSegmentLib.Segmentation import InstallationLogic as installation
from RWKVUNetSegmentLib.Segmentation.InstallationLogic import REQUIREMENTS, RequirementState
from RWKVUNetSegmentLib.Segmentation.InstalledPackages import PackageState, loadRequirements, look, parse

from bench import packaging


@pytest.fixture
def computer(monkeypatch):
    """A computer with everything but what a test takes away: names in `packaging.missing`, `computer.broken`."""
    state = SimpleNamespace(broken={}, torchCalls=[], nvidia=False)

    def looked(requirement):
        if requirement.name in state.broken:
            return PackageState(broken=state.broken[requirement.name])
        missing = requirement.name in packaging.missing
        return PackageState(missing=True) if missing else PackageState(version="99.0")

    monkeypatch.setattr(installation, "look", looked)
    monkeypatch.setattr(installation, "_hasNvidiaGPU", lambda: state.nvidia)
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
    qt.QSettings().remove("RWKVUNetSegment/InstallationBegunBy")


@pytest.fixture
def logic(computer):
    return installation.InstallationLogic()


def stateOf(logic, name):
    return next(one for one in logic.states() if one.name == name)


def agree(text):
    return True


def pipCalls():
    return [sorted(parse(one).name for one in call.requirements) for call in packaging.installed]


def test_with_everything_there_nothing_is_asked_or_done(logic):
    assert logic.isValid() == (True, "")
    assert {one.state for one in logic.states()} == {RequirementState.READY}
    assert logic.install(confirm=pytest.fail) == (True, "")
    assert not packaging.installed


def test_what_is_missing_is_named_and_installed_in_order(logic, computer):
    packaging.missing.update({"torch", "pydantic", "safetensors"})
    valid, reason = logic.isValid()
    assert not valid
    assert reason.startswith("PyTorch: not installed")
    assert "pydantic, safetensors" in stateOf(logic, "packages").why
    asked, seen = [], []
    logic.changed.connect(lambda: seen.append([(one.name, one.state) for one in logic.states()]))
    assert logic.install(confirm=lambda text: asked.append(text) or True) == (True, "")
    assert "PyTorch" in asked[0] and "pydantic" in asked[0]
    assert computer.torchCalls == [(False, ">=2.2")]
    assert pipCalls() == [["pydantic", "safetensors"]]
    installing = [name for states in seen for name, state in states if state == RequirementState.INSTALLING]
    assert list(dict.fromkeys(installing)) == ["torch", "packages"]


def test_pip_leaves_alone_what_slicer_and_the_extension_brought(logic):
    packaging.missing.add("pydantic")
    logic.install(confirm=agree)
    (call,) = packaging.installed
    assert {"SimpleITK", "vtk", "numpy", "torch", "torchvision"} <= set(call.skip_packages)
    assert call.requester == "RWKVUNetSegment"


def test_nothing_without_consent(logic, computer):
    packaging.missing.update({"torch", "pydantic"})
    done, reason = logic.install(confirm=lambda text: False)
    assert not done
    assert "Nothing was installed" in reason
    assert not packaging.installed
    assert not computer.torchCalls
    assert not logic.continuesAfterRestart


def test_the_restart_for_the_extension_is_remembered(logic, computer, monkeypatch):
    packaging.missing.update({"torch", "pydantic"})
    monkeypatch.delattr(slicer.modules, "pytorchutils")
    slicer.app.extensionsManagerModel()._installable.add("PyTorch")
    logic.refresh()
    assert stateOf(logic, "pytorch-extension").state == RequirementState.MISSING
    done, reason = logic.install(confirm=agree)
    assert not done
    assert "Restart Slicer" in reason
    assert logic.restartPending
    assert not logic.continuesAfterRestart
    assert not packaging.installed

    pid = os.getpid()
    monkeypatch.setattr(installation.os, "getpid", lambda: pid + 1)  # Slicer was restarted
    monkeypatch.setattr(slicer.modules, "pytorchutils", object(), raising=False)
    restarted = installation.InstallationLogic()
    assert not restarted.restartPending
    assert restarted.continuesAfterRestart
    assert restarted.install(confirm=agree) == (True, "")
    assert not restarted.continuesAfterRestart
    assert computer.torchCalls
    assert pipCalls() == [["pydantic"]]


def test_an_extension_that_cannot_be_had_is_told(logic, monkeypatch):
    packaging.missing.add("torch")
    monkeypatch.delattr(slicer.modules, "pytorchutils")
    logic.refresh()
    done, reason = logic.install(confirm=agree)
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
    assert logic.install(confirm=agree) == (True, "")
    assert called == [False]


def test_a_failure_of_pip_is_told_and_the_rest_waits_for_the_next_click(logic):
    packaging.missing.update({"pydantic", "openvino"})
    packaging.failures.append(RuntimeError("no route to host"))
    done, reason = logic.install(confirm=agree, openvino=True)
    assert not done
    assert "no route to host" in reason
    assert stateOf(logic, "packages").state == RequirementState.MISSING
    assert logic.install(confirm=agree, openvino=True) == (True, "")
    assert pipCalls()[1:] == [["pydantic"], ["openvino"]]


def test_openvino_is_offered_where_there_is_no_nvidia_gpu_and_never_needed(logic, computer):
    packaging.missing.add("openvino")
    logic.refresh()
    assert logic.isValid() == (True, "")
    assert stateOf(logic, "openvino").optional
    assert logic.openvinoOffered == (sys.platform != "darwin")
    computer.nvidia = True
    assert not logic.openvinoOffered
    logic.install(confirm=pytest.fail)
    assert not packaging.installed
    logic.install(confirm=agree, openvino=True)
    assert pipCalls() == [["openvino"]]


def test_what_is_broken_says_why(logic, computer):
    computer.broken["torch"] = "torch: its record of installation is damaged."
    logic.refresh()
    torch = stateOf(logic, "torch")
    assert torch.state == RequirementState.BROKEN
    assert "damaged" in torch.why and "Uninstall" in torch.why
    assert not logic.isValid()[0]


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
    assert logic.install(confirm=agree) == (True, "")
    assert [parse(one).name for one in calls[0]] == ["pydantic"]


def test_requirements_pin_nothing_and_leave_slicers_packages_alone():
    found = loadRequirements(REQUIREMENTS)
    assert found
    for one in found:
        assert {part.operator for part in one.specifier} == {">="}
        assert one.name not in installation.SKIPPED


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
