"""What a person reads when a Hub refuses, or cannot be reached."""

import os
import subprocess
import sys

import huggingface_hub
import pytest

from rwkv_core.bundle.bundle import CONFIG_FILE, WEIGHTS_FILE
from rwkv_core.bundle.hub import download
from rwkv_core.bundle.sources import find_source

from core.bundle_files import bundle_files
from core.downloads import REPO, installed, refused, source_of


def test_unpublished_model(hub):
    error = refused(find_source("small", None))
    assert error.message == "small is not published yet." and "Import it from a file" in error.hint
    assert hub.requests == []


def test_no_such_repository(hub, commit):
    error = refused(source_of(commit, repo="me/none"))
    assert f"no repository me/none at {hub.endpoint}" in error.message
    assert "HF_TOKEN" in error.hint


def test_no_such_revision(hub, commit):
    assert f"no revision '{'e' * 40}'" in refused(source_of("e" * 40)).message


@pytest.mark.parametrize("name", [CONFIG_FILE, WEIGHTS_FILE])
def test_no_such_file(name, hub):
    files = bundle_files()
    del files[name]
    assert f"holds no {name}" in refused(source_of(hub.add(REPO, files))).message


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (403, "GatedRepo", "is gated"),
        (401, "RepoNotFound", "or it is private"),
        (401, "", "may not be read"),
        (403, "", "may not be read"),
        (429, "", "refuses further requests"),
        (502, "", "has a problem"),
        (418, "", "was refused: HTTP 418"),
    ],
)
def test_refusals_in_words(status, code, said, hub, commit, home):
    hub.faults.error_code = {"/resolve/": (status, code)}
    assert said in refused(source_of(commit)).message
    assert installed(home) == []


def test_malformed_repository_name(hub, commit):
    assert "cannot be a repository" in refused(source_of(commit, repo="me/a..b")).message


def test_server_that_is_no_hub(hub, commit):
    hub.faults.no_commit_header = True
    assert "does not answer like a Hugging Face Hub" in refused(source_of(commit)).message


def test_no_server_at_all(hub, commit, home):
    hub.stop()
    error = refused(source_of(commit))
    assert f"no connection to {hub.endpoint}" in error.message
    assert "HTTPS_PROXY" in error.hint
    assert installed(home) == []


def test_unknown_address(home):
    huggingface_hub.close_session()
    error = refused(source_of("e" * 40, endpoint="http://hub.invalid"))
    assert "http://hub.invalid" in error.message
    huggingface_hub.close_session()


class _TransportError(Exception):
    """Stands for the base of the HTTP client's errors, which are known by their names."""


_TransportError.__name__ = "TransportError"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("ConnectError", "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate", "certificate of http"),
        ("ConnectError", "[Errno 11001] getaddrinfo failed", "could not be found"),
        ("ConnectError", "[Errno -3] Temporary failure in name resolution", "could not be found"),
        ("ProxyError", "407 Proxy Authentication Required", "The proxy on the way"),
        ("ReadTimeout", "timed out", "did not answer in time"),
    ],
)
def test_network_troubles_in_words(name, text, said, hub, commit, monkeypatch):
    bases = (type("TimeoutException", (_TransportError,), {}),) if "Timeout" in name else (_TransportError,)

    def fail(*_, **__):
        raise type(name, bases, {})(text)

    monkeypatch.setattr("rwkv_core.bundle.hub.get_hf_file_metadata", fail)
    assert said in refused(source_of(commit)).message


def test_proxy_is_used(hub, commit, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", hub.endpoint)  # it answers for any host
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    huggingface_hub.close_session()
    assert download("small", source_of(commit, endpoint="http://hub.invalid")).config.id == "small"
    assert {r.headers["host"] for r in hub.requests if r.server == "hub"} == {"hub.invalid"}


def test_offline_mode(hub, commit, monkeypatch, home):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    error = refused(source_of(commit))
    assert "offline mode is on (HF_HUB_OFFLINE is set)" in error.message
    assert "import the model from a file" in error.hint
    assert hub.requests == []


def test_installed_model_works_offline(hub, commit, monkeypatch):
    download("small", source_of(commit))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert download("small", source_of(commit)).config.id == "small"


def test_offline_variable_of_the_environment(hub, commit):
    program = (
        "from rwkv_core.bundle.hub import download; from rwkv_core.bundle.sources import *\n"
        f"download('small', find_source('small', None, Settings({REPO!r}, {commit!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "offline mode is on" in done.stderr
    assert hub.requests == []
