"""Reads the list of Slicer's names (names_from_sources.py); tells whether a class or a Python module has a member."""

from pathlib import Path

from bench.pyside import QtCore, QtGui, QtWidgets

LIST = Path(__file__).parents[1] / "module" / "slicer_names.txt"


def qtClass(name):
    """Qt's class of this name, or None."""
    for module in (QtWidgets, QtGui, QtCore):
        found = getattr(module, name, None)
        if isinstance(found, type):
            return found
    return None


class Names:
    """What PythonQt shows of every class of CTK and Slicer, and what Slicer's Python modules hold."""

    def __init__(self, path=LIST):
        self.bases, self.found, self.python = {}, {}, {}
        kinds = None
        for line in path.read_text(encoding="utf-8").splitlines():
            head, *rest = line.split(" ")
            if head == "class":
                self.bases[rest[0]] = rest[1]
                kinds = self.found[rest[0]] = {}
            elif head == "python":
                kinds = self.python[rest[0]] = {}
            elif not head:
                kinds[rest[0]] = set(_signatures(" ".join(rest[1:])) if rest[0] == "s" else rest[1:])

    def isClass(self, name):
        return name in self.found or qtClass(name) is not None

    def lineage(self, name):
        """The class and its bases, as far as the list goes, and Qt's class that they end at."""
        classes = []
        while name in self.found:
            classes.append(name)
            name = self.bases[name]
        return classes, qtClass(name)

    def _of(self, name, kind):
        return {member for cls in self.lineage(name)[0] for member in self.found[cls].get(kind, ())}

    def properties(self, name):
        qt = self.lineage(name)[1]
        meta = qt.staticMetaObject if hasattr(qt, "staticMetaObject") else None
        own = {meta.property(i).name() for i in range(meta.propertyCount())} if meta else set()
        return self._of(name, "p") | own

    def signals(self, name):
        return self._of(name, "s")

    def hasMember(self, name, member):
        """Whether an object, or the class, has this attribute in Slicer's Python."""
        signals = {s.partition("(")[0] for s in self.signals(name)}
        if member in self._of(name, "p") | self._of(name, "m") | self._of(name, "e") | signals:
            return True
        qt = self.lineage(name)[1]
        return qt is not None and hasattr(qt, member)

    def hasSignal(self, name, signature):
        """Whether the class has the signal with exactly these arguments."""
        normalized = bytes(QtCore.QMetaObject.normalizedSignature(signature).data()).decode()
        if normalized in self.signals(name):
            return True
        qt = self.lineage(name)[1]
        return qt is not None and qt.staticMetaObject.indexOfSignal(normalized) >= 0

    def hasPython(self, module, name):
        return any(name in names for names in self.python[module].values())


def _signatures(text):
    """'a(int,b c) d()' as ['a(int,b c)', 'd()']: types may hold blanks."""
    return [part.strip() + ")" for part in text.split(")") if part.strip()]
