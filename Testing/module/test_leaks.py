"""Nothing is left behind: not after segmentations, previews and closed scenes, and not after Reload."""

import gc
import unittest
from collections import Counter
from pathlib import Path

import pytest
import slicer

from RWKVUNetSegmentLib.EventLoop import _Pending

import bench
from bench import pythonqt
from module.conftest import _children as children

OURS = ("RWKVUNetSegment", "rwkv_core")


def alive():
    """How many objects of the module's classes there are."""
    gc.collect()
    bench.process_events()
    gc.collect()
    kinds = (type(thing) for thing in gc.get_objects())
    return Counter(kind.__name__ for kind in kinds if str(kind.__module__).partition(".")[0].startswith(OURS))


def counted(user):
    """What must not grow."""
    bench.process_events()
    maps = Path("/proc/self/maps")
    folders = list(user.folder.parent.rglob("*.npy"))
    private = user.logic.segmentation.client.session.folder.path
    return {
        "timers": len(slicer.app.moduleManager().children()),
        "calls": len(_Pending.alive),
        "connections": sum(len(found) for links in pythonqt._links.values() for found in links.values()),
        "processes": len(children()),
        "mappings": maps.read_text().count("rwkv-unet-") if maps.exists() else 0,
        "files": len(folders) + len(list(private.iterdir())),
        "listeners": len(user.interactive.result.changed) + len(user.interactive.preview.changed),
        "tickets": len(user.logic.segmentation.client._tickets),
        "runs": alive()["SegmentationRun"],
    }


@pytest.mark.parametrize("times", [1, pytest.param(50, marks=pytest.mark.long)])
def test_segmentations_previews_and_closings_leave_nothing(user, times):
    def once(index):
        user.segment()
        user.turn_on()
        user.scroll(index % 10)
        user.rest()
        user.ui.discardButton.click()
        bench.clear_scene()
        user.load()

    once(0)
    once(1)
    before = counted(user)
    for index in range(times):
        once(index)
    assert counted(user) == before


def test_after_reload_nothing_of_the_old_module_lives(user):
    user.segment()
    opened = user.opened
    opened.reload()
    bench.wait_until(lambda: opened.logic.models.models)
    before = alive()
    for _reload in range(2):
        opened.reload()
        bench.wait_until(lambda: opened.logic.models.models)  # the list is there without entering anew
    after = alive()
    names = ("RWKVUNetSegmentWidget", "RWKVUNetSegmentLogic", "WorkerClient", "SegmentationLogic", "TrainingPanel")
    assert {name: after[name] for name in names} == {name: before[name] for name in names}
    assert after["RWKVUNetSegmentWidget"] == after["RWKVUNetSegmentLogic"] == 1


def test_the_self_test_cleans_up_also_when_it_fails(user):
    """Slicer's "Reload and Test" calls `runTest` alone, and nothing of unittest around it."""
    test, done = user.opened.python.RWKVUNetSegmentTest(), []

    def fail():
        test.addCleanup(done.append, "cleaned up")
        raise AssertionError("the test failed")

    test.test_SampleIsSegmented = fail
    with pytest.raises(AssertionError, match="the test failed"):
        test.runTest()
    assert done == ["cleaned up"]


def test_the_self_test_waits_for_the_check_of_what_is_installed(user, monkeypatch):
    """In a Slicer with new settings, as CTest starts it, a child process looks first; that is no reason to skip."""
    waited = []
    installation = user.opened.logic.installation.__class__
    monkeypatch.setattr(installation, "wait", lambda self: waited.append(True), raising=False)
    monkeypatch.setattr(installation, "isValid", lambda self: (False, "openvino is missing." if waited else "checking"))
    with pytest.raises(unittest.SkipTest, match="openvino is missing"):
        user.opened.python.RWKVUNetSegmentTest().test_SampleIsSegmented()
