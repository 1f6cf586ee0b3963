"""`rwkv-unet doctor`: a report that can be pasted, with a self test of each engine."""

import getpass
from pathlib import Path

from rwkv_core.cli import doctor, main
from rwkv_core.errors import DeviceError


def test_the_report_tells_what_works_and_nothing_personal(capsys, monkeypatch, tmp_path):
    home = tmp_path / "home of Jane Doe"
    monkeypatch.setenv("RWKV_UNET_HOME", str(home))
    monkeypatch.setenv("HTTPS_PROXY", "http://jane:secret@proxy.example:3128")
    assert main(["doctor"]) == 0
    told = capsys.readouterr().out
    for words in (
        "rwkv_core 0.",
        "openvino: ok",
        "numpy: ok",
        "default: shipped",
        "proxy: HTTPS_PROXY",
        "GB free, can be written",
    ):
        assert words in told
    for secret in ("Jane", "jane", "secret", str(Path.home()), f"/{getpass.getuser()}/"):
        assert secret not in told


def test_an_engine_that_fails_is_told_in_its_place(capsys, monkeypatch):
    def fail(*_):
        raise DeviceError("The processor has no AVX2.")

    monkeypatch.setattr("rwkv_core.engines.make_engine", fail)
    assert main(["doctor"]) == 1
    assert "numpy: FAILED: The processor has no AVX2." in capsys.readouterr().out


def test_an_engine_that_answers_otherwise_is_told(monkeypatch):
    from rwkv_core import engines

    make = engines.make_engine
    monkeypatch.setattr(
        engines, "make_engine", lambda *given: (lambda x: -make(*given)(x)) if given[3] == "openvino" else make(*given)
    )
    assert dict(doctor.self_tests())["openvino"].startswith("DIFFERS")


def test_a_part_that_fails_hides_no_other_and_no_folder_is_told(capsys, monkeypatch, tmp_path):
    (tmp_path / "Jane Doe").mkdir()
    own = tmp_path / "Jane Doe" / "catalogue.json"
    own.write_text("{")
    monkeypatch.setenv("RWKV_UNET_CATALOGUE", str(own))

    def broken(*_):
        raise OSError(f"{tmp_path}/libtorch.so: cannot open shared object file")

    monkeypatch.setattr("rwkv_core.engines.list_devices", broken)
    assert main(["doctor", "--no-test"]) == 0
    told = capsys.readouterr().out
    assert "Devices\n  FAILED: OSError: .../libtorch.so: cannot open" in told
    assert "Models\n  FAILED: BundleError" in told
    assert "proxy:" in told and "NVIDIA driver:" in told
    assert str(tmp_path) not in told and "Jane" not in told
