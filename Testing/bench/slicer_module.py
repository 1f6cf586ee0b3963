"""Puts the pieces together: the modules `qt`, `ctk`, `SampleData` and the missing parts of `slicer`."""

import sys
import types

import slicer
import slicer.util
from bench import qt_module


def _module(name, source, names):
    module = types.ModuleType(f"slicer.{name}", source.__doc__)
    for key in names:
        setattr(module, key, getattr(source, key))
    module.__all__ = list(names)
    sys.modules[f"slicer.{name}"] = module
    setattr(slicer, name, module)


def start():
    """Installs everything and starts the application; returns slicer.app."""
    qt = qt_module.install()
    from bench import application, packaging, parameter_node, parameter_node_gui, sample_data, scripted_module
    from bench import modules, ui_loading, widgets_ctk, widgets_ctk_values, widgets_mrml
    from bench.standins import standins

    qt.QUiLoader = ui_loading.QUiLoader
    ctk = types.ModuleType("ctk", "Stand-ins for CTK's widgets.")
    for name, cls in standins.items():
        setattr(ctk if name.startswith("ctk") else slicer, name, cls)
    sys.modules["ctk"] = ctk
    _module("i18n", scripted_module, ("tr", "translate", "getContext"))
    names = [name for name in vars(scripted_module) if name.startswith("ScriptedLoadableModule")]
    _module("ScriptedLoadableModule", scripted_module, names)
    _module("parameterNodeWrapper", parameter_node, parameter_node.PUBLIC)
    for name in ("Decimals", "SingleStep"):
        setattr(slicer.parameterNodeWrapper, name, getattr(parameter_node_gui, name))
    packaging.install()
    app = application.start()
    sample_data.install()
    assert modules and widgets_ctk and widgets_ctk_values and widgets_mrml  # imported for their stand-ins
    return app
