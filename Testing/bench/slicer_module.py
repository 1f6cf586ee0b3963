"""Puts the pieces together: the modules `qt`, `ctk`, `SampleData` and the missing parts of `slicer`.

With BENCH_SLICER_SOURCE naming a checkout of Slicer, its own i18n, ScriptedLoadableModule and parameterNodeWrapper take
the places of their stand-ins, so that the tests can be held against them.
"""

import os
import re
import sys
import types
from pathlib import Path

import slicer
import slicer.util

from bench import qt_module


def _module(name, source, members):
    """Makes slicer.NAME of a stand-in's members."""
    module = types.ModuleType(f"slicer.{name}", source.__doc__)
    vars(module).update(members, __all__=list(members))
    sys.modules[f"slicer.{name}"] = module
    setattr(slicer, name, module)


def _members(source, names):
    return {name: getattr(source, name) for name in names}


def _pythonStandIns():
    from bench import parameter_node, scripted_module

    _module("i18n", scripted_module, _members(scripted_module, ("tr", "translate", "getContext")))
    classes = [name for name in vars(scripted_module) if name.startswith("ScriptedLoadableModule")]
    _module("ScriptedLoadableModule", scripted_module, _members(scripted_module, classes))
    _module("parameterNodeWrapper", parameter_node, parameter_node.PUBLIC)


def _nameUnused(ctk, connectors):
    """Empty classes for widgets that Slicer's connectors name in annotations, and the module does not use."""
    for prefix, module in (("ctk", ctk), ("slicer", slicer)):
        for name in set(re.findall(rf"\b{prefix}\.((?:ctk|qMRML|qSlicer)\w+)", connectors)):
            if not hasattr(module, name):
                setattr(module, name, type(name, (), {}))


def start():
    """Installs everything and starts the application; returns slicer.app."""
    qt = qt_module.install()
    from bench import (
        application,
        modules,
        packaging,
        sample_data,
        ui_loading,
        widgets_ctk,
        widgets_ctk_values,
        widgets_mrml,
    )
    from bench.standins import standins

    qt.QUiLoader = ui_loading.QUiLoader
    ctk = types.ModuleType("ctk", "Stand-ins for CTK's widgets.")
    for name, cls in standins.items():
        setattr(ctk if name.startswith("ctk") else slicer, name, cls)
    sys.modules["ctk"] = ctk
    source = os.environ.get("BENCH_SLICER_SOURCE")
    if source:
        python = Path(source, "Base", "Python", "slicer")
        slicer.__path__.append(str(python))
        _nameUnused(ctk, (python / "parameterNodeWrapper" / "guiConnectors.py").read_text(encoding="utf-8"))
    else:
        _pythonStandIns()
    _module("packaging", packaging, _members(packaging, packaging.PUBLIC))
    app = application.start()
    sample_data.install()
    assert modules and widgets_ctk and widgets_ctk_values and widgets_mrml  # imported for their stand-ins
    return app
