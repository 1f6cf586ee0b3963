"""Help: the report is made in a process of its own, lands in the clipboard, and the page for problems opens."""

import sys
from pathlib import Path

import pytest
import qt

from RWKVUNetSegmentLib.Panels.HelpPanel import ISSUES
from RWKVUNetSegmentLib.Worker import DoctorReport

import bench


@pytest.fixture
def doctor(monkeypatch):
    """A stand-in for the doctor, which says and ends as told; the true one tries engines, and is the library's."""

    def says(code):
        monkeypatch.setattr(DoctorReport, "doctorProgram", lambda: [sys.executable, "-c", code])

    says("print('Versions: ü软')")
    return says


def report(ui):
    ui.reportButton.click()
    bench.wait_until(lambda: ui.reportButton.text == "Report a problem")
    return qt.QApplication.clipboard().text()


def test_a_report_is_copied_and_the_page_opened(ui, doctor):
    ui.reportButton.click()
    assert not ui.reportButton.enabled and ui.reportButton.text == "Making the report…"
    bench.wait_until(lambda: ui.reportButton.enabled)
    text = qt.QApplication.clipboard().text()
    assert text.startswith("Slicer\n") and "Versions: ü软" in text
    assert bench.records.openedUrls == [ISSUES]


def test_a_doctor_that_fails_is_a_report_too(ui, doctor):
    doctor("import sys; print('half'); sys.exit('no engine')")
    text = report(ui)
    assert "half" in text and "ended with code 1" in text and "no engine" in text


def test_no_name_of_a_person_is_in_a_report(ui, doctor):
    doctor("import pathlib, sys; sys.exit(f'{pathlib.Path.home()}/slicer/file.py is broken')")
    text = report(ui)
    assert "~/slicer/file.py is broken" in text and str(Path.home()) not in text


def test_without_an_interpreter_the_report_says_so(ui, monkeypatch):
    def missing():
        raise FileNotFoundError("PythonSlicer was not found")

    monkeypatch.setattr(DoctorReport, "doctorProgram", missing)
    assert "PythonSlicer was not found" in report(ui)


def test_a_report_in_the_making_ends_with_the_module(opened, ui, doctor):
    doctor("import time; time.sleep(600)")
    ui.reportButton.click()
    opened.close()  # the fixture `clean` looks for processes that are left


def test_there_are_links_to_read_and_to_ask(ui):
    for word in ("tutorial.md", "discourse.slicer.org", "CHANGELOG.md"):
        assert word in ui.helpLabel.text
