"""The module SampleData (a stand-in): records what is registered, and loads what lies in files."""

import hashlib
import sys
import types
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

import slicer


class SampleDataSource:
    """One registered data set, with the attributes of Slicer's class of this name."""

    def __init__(
        self,
        sampleName=None,
        sampleDescription=None,
        uris=None,
        fileNames=None,
        nodeNames=None,
        checksums=None,
        loadFiles=None,
        customDownloader=None,
        thumbnailFileName=None,
        loadFileTypes=None,
        loadFileProperties=None,
    ):
        self.sampleName, self.sampleDescription = sampleName, sampleDescription or sampleName
        self.uris, self.fileNames, self.nodeNames = map(self._list, (uris, fileNames, nodeNames))
        self.checksums, self.loadFiles = self._list(checksums), self._list(loadFiles)
        self.customDownloader, self.thumbnailFileName = customDownloader, thumbnailFileName
        self.loadFileTypes, self.loadFileProperties = self._list(loadFileTypes), loadFileProperties or {}
        count = len(self.uris)
        if not (len(self.fileNames) == len(self.nodeNames) == count and len(self.checksums) in (0, count)):
            raise ValueError(f"Sample data '{sampleName}': uris, fileNames, nodeNames and checksums differ in number")

    @staticmethod
    def _list(value):
        return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


class SampleDataLogic:
    """Stand-in for the registration and the download; only file:// is downloaded."""

    @staticmethod
    def registerCustomSampleDataCategory(category, title):
        slicer.modules.sampleDataSources.setdefault(category, [])

    @staticmethod
    def registerCustomSampleDataSource(category="Custom", **source):
        sources = slicer.modules.sampleDataSources.setdefault(category, [])
        sources.append(SampleDataSource(**source))

    def sourceForSampleName(self, name):
        everything = [s for sources in slicer.modules.sampleDataSources.values() for s in sources]
        return next((source for source in everything if source.sampleName == name), None)

    def downloadFromSource(self, source):
        nodes = []
        checksums = source.checksums or [None] * len(source.uris)
        for uri, name, checksum in zip(source.uris, source.nodeNames, checksums, strict=True):
            if urlparse(uri).scheme != "file":
                raise RuntimeError(f"The bench downloads nothing: {uri}")
            path = Path(url2pathname(unquote(urlparse(uri).path)))
            if checksum:
                algorithm, digest = checksum.split(":")
                if hashlib.new(algorithm.lower(), path.read_bytes()).hexdigest() != digest:
                    raise ValueError(f"Checksum of {path} is not {checksum}")
            nodes.append(slicer.util.loadVolume(str(path), {"name": name}))
        return nodes

    def downloadSample(self, name):
        return self.downloadFromSource(self.sourceForSampleName(name))[0]


def downloadSample(name):
    return SampleDataLogic().downloadSample(name)


def install():
    module = types.ModuleType("SampleData", __doc__)
    module.SampleDataLogic, module.SampleDataSource = SampleDataLogic, SampleDataSource
    module.downloadSample = downloadSample
    slicer.modules.sampleDataSources = {}
    sys.modules["SampleData"] = module
