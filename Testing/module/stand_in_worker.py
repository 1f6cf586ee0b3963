"""A stand-in for the worker: the real protocol, no network. It answers in milliseconds, from the voxels' values.

Class 1 ("Body") is where a voxel is above 100, class 2 ("Bone") where it is above 200: value / 333 is its probability.
Spreading copies the nearest slice; with a file "hold" in the folder that RWKV_STAND_IN names, it waits for "go" there.
Pointing finds disks around the clicks, less what lies around the negative ones, what is in the box, and what was there
before; with a file "hold" it waits as spreading does. Following copies the mask as far as the bright blocks reach.
With a file "hold models", the list of models waits likewise. Refining knows thresholds and classes that are off; of a
clicked class, the rows (J) of the click stay. Model "slow" waits for a file named "go" in the folder that RWKV_STAND_IN
names; "broken" answers with an error; "axial" allows slices along K only; "lesions" finds "Lesion" above 150; at
"ending" it ends with exit code 7.
"""

import json
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from rwkv_core.engines.availability import ENGINE_TITLES
from rwkv_core.errors import InputError, RWKVUNetError
from rwkv_core.vocabulary import ModelEntry, Offer, Region, SegmentClass, SliceIndex, SpreadStructure, StructureVolume
from rwkv_core.worker.arrays import PrivateFolder, geometry_of
from rwkv_core.worker.framing import LineSplitter, decode_request, encode
from rwkv_core.worker.protocol import (
    PROTOCOL,
    CancelRequest,
    CancelResult,
    DevicesRequest,
    DevicesResult,
    Failure,
    FollowRequest,
    FollowResult,
    HelloRequest,
    HelloResult,
    ImportRequest,
    ImportResult,
    ModelsRequest,
    ModelsResult,
    PrepareSpreadRequest,
    PrepareSpreadResult,
    Progress,
    PromptRequest,
    PromptResult,
    RefineRequest,
    RefineResult,
    RemoveRequest,
    RemoveResult,
    SegmentRequest,
    SegmentResult,
    ShutdownRequest,
    ShutdownResult,
    SpreadRequest,
    SpreadResult,
    UncertaintyRequest,
    UncertaintyResult,
)

CLASSES = (
    SegmentClass(value=1, name="Body", color=(200, 150, 90)),
    SegmentClass(value=2, name="Bone", color=(240, 240, 200)),
)
LESIONS = (SegmentClass(value=1, name="Lesion", color=(250, 60, 60)),)
LIMITS = {1: 100 / 333, 2: 200 / 333}


def model(id_, title, state="shipped", folder="/nowhere", origin="shipped", orientations=("SPL", "AIL", "LIP")):
    return ModelEntry(
        id=id_, title=title, description="", state=state, reason="", kind="segmentation", modality="any", variant="T",
        classes=CLASSES, licence="", citation="", size=1, folder=folder, origin=origin, repo="", revision="",
        in_channels=1, orientations=orientations,
    )  # fmt: skip


class Worker:
    def __init__(self, folder):
        self.folder = PrivateFolder(Path(folder))
        self.kept = {}
        self.shift = {}
        self.classes = {"lesions": LESIONS}
        self.cancelled = set()
        self.models = [model("default", "Stand-in"), model("axial", "Axial only", orientations=("SPL",))]
        self.models.append(model("lesions", "Lesions"))
        self.signs = Path(os.environ.get("RWKV_STAND_IN", folder))
        self.lock = threading.Lock()

    def say(self, message):
        with self.lock:
            sys.stdout.buffer.write(encode(message))
            sys.stdout.buffer.flush()

    def note(self, request):
        """For tests that count what was asked."""
        with (self.signs / "asked.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"type": type(request).__name__, **asdict(request)}) + "\n")

    def answer(self, request):
        self.note(request)
        kinds = {
            DevicesRequest: lambda r: DevicesResult(
                id=r.id, auto="cpu", devices=(Offer(name="cpu"),),
                engines=tuple(Offer(name=name, title=title) for name, title in ENGINE_TITLES.items()),
            ),
            ModelsRequest: self.list_models,
            ImportRequest: self.take_in,
            RemoveRequest: self.remove,
            SegmentRequest: self.segment,
            RefineRequest: self.refine,
            UncertaintyRequest: self.uncertainty,
            SpreadRequest: self.spread,
            PrepareSpreadRequest: lambda r: PrepareSpreadResult(id=r.id, seconds=0.5),
            PromptRequest: self.prompt,
            FollowRequest: self.follow,
        }  # fmt: skip
        self.say(kinds[type(request)](request))

    def list_models(self, request):
        if (self.signs / "hold models").exists():
            self.await_sign(request)
        return ModelsResult(id=request.id, models=tuple(self.models), store=str(self.signs))

    def take_in(self, request):
        name = request.bundle or Path(request.path).name
        self.models.append(model(name, name, "installed", str(self.signs / name), "imported"))
        return ImportResult(id=request.id, bundle=name, folder=request.path)

    def remove(self, request):
        self.models = [model for model in self.models if model.id != request.bundle]
        return RemoveResult(id=request.id, bundle=request.bundle)

    def await_sign(self, request):
        while not (self.signs / "go").exists():
            if request.id in self.cancelled:
                return False
            time.sleep(0.005)
        return True

    def segment(self, request):
        if request.options.model == "broken":
            return Failure(id=request.id, kind="input", message="This stand-in always fails.", hint="Choose another.")
        if request.options.model == "ending":
            os._exit(7)
        if request.options.model == "slow" and not self.await_sign(request):
            return Failure(id=request.id, kind="cancelled", message="Cancelled.")
        array = self.folder.get(request.volume.file)
        if request.options.model == "axial" and request.slices and request.slices.axis != "K":
            return Failure(id=request.id, kind="input", message="This model reads axial slices only.", hint="")
        region = (request.region or Region()).within(array.shape)
        index = list(region.as_slices())
        if request.slices:
            index["KJI".index(request.slices.axis)] = list(request.slices.indices)
        chances = np.nan_to_num(np.clip(array[tuple(index)] / 333, 0, 1))
        if request.keep:
            kind = "slices" if request.slices else "volume"
            self.kept = {key: cached for key, cached in self.kept.items() if cached[3] != kind}
            self.kept[request.id] = (chances, region, request.options.model, kind)
        labels, classes = self.labels(chances, request.options.model), self.classes.get(request.options.model, CLASSES)
        voxel = abs(np.linalg.det(np.array(request.volume.ijk_to_ras)[:3, :3])) / 1000
        return SegmentResult(
            id=request.id, labelmap=self.folder.put(labels), probabilities=None,
            region=region, slices=request.slices,
            ijk_to_ras=geometry_of(region.ijk_to_ras(np.array(request.volume.ijk_to_ras))),
            classes=classes, volumes=tuple(
                StructureVolume(
                    name=entry.name, value=entry.value, volume_ml=float((labels == entry.value).sum() * voxel),
                    confidence=0.5 + 0.1 * entry.value,
                )
                for entry in classes
            ),
            device="cpu", engine="torch", timings={"total": 0.0}, count=1, orientation="SPL", warnings=(), warm=True,
            kept=request.keep,
        )  # fmt: skip

    def labels(self, chances, bundle, thresholds=None, off=()):
        found = np.zeros(chances.shape, np.uint8)
        if bundle == "lesions":
            found[chances > 150 / 333] = 1
            return found
        for value, limit in LIMITS.items():
            limit = (thresholds or {}).get(value, limit + self.shift.get(bundle, 0) / 333)
            if value not in off:
                found[chances > limit] = value
        return found

    def find(self, request):
        if request.result not in self.kept:
            raise KeyError(request.result)
        return self.kept[request.result]

    def refine(self, request):
        chances, region, bundle, _ = self.find(request)
        processing = request.processing.within(region)
        labels = self.labels(chances, bundle, dict(processing.thresholds), processing.off)
        if processing.keep_at:  # whatever is not in the clicked voxel's row goes
            for voxel in processing.keep_at:
                at = voxel[::-1]
                if not all(0 <= index < size for index, size in zip(at, labels.shape, strict=True)):
                    raise InputError(f"There is no voxel {voxel} in the result.")
                value = labels[at]
                rows = np.arange(labels.shape[1]) != at[1]
                part = labels[:, rows]
                part[part == value] = 0
                labels[:, rows] = part
        return RefineResult(
            id=request.id, labelmap=self.folder.put(labels), region=region, ijk_to_ras=geometry_of(np.eye(4)),
            classes=self.classes.get(bundle, CLASSES), seconds=0.0,
        )  # fmt: skip

    def uncertainty(self, request):
        chances, region, _, _ = self.find(request)
        if request.planes or request.flips:  # the network looks again
            chances = chances + 0 * self.folder.get(request.volume.file)[:1, :1, :1]
        unsure = (1 - np.abs(2 * chances - 1)).astype(np.float32)
        scores = {
            name: tuple(unsure.mean(axis=tuple(a for a in range(3) if a != axis)).astype(float).tolist())
            for axis, name in enumerate("KJI")
        }
        return UncertaintyResult(
            id=request.id, entropy=self.folder.put(unsure), region=region, ijk_to_ras=geometry_of(np.eye(4)),
            scores=scores,
        )  # fmt: skip

    def prompt(self, request):
        """Checks as `rwkv_core.worker.interactive` and `Prompter.predict`; answers by distance, in pixels."""
        if (self.signs / "hold").exists() and not self.await_sign(request):
            return Failure(id=request.id, kind="cancelled", message="Cancelled.")
        picture = request.slice.of(self.folder.get(request.volume.file))
        scribble = None if request.scribble is None else self.folder.get(request.scribble)
        mask = None if request.mask is None else self.folder.get(request.mask)
        dimension, shape = request.slice.dimension, picture.shape
        for place in [*request.points, *(request.box or ())]:
            if round(place[2 - dimension]) != request.slice.index:
                raise InputError(f"A point lies outside slice {request.slice.index} along {request.slice.axis}.")
        across = [2 - axis for axis in range(3) if axis != dimension]
        points = [(place[across[0]], place[across[1]]) for place in request.points]
        for point in points:
            if not all(-0.5 <= at < size - 0.5 for at, size in zip(point, shape, strict=True)):
                raise InputError("A point lies outside the slice.")
        pixels = [tuple(round(at) for at in point) for point in points]
        inside = {pixel for pixel, label in zip(pixels, request.labels, strict=True) if label}
        outside = {pixel for pixel, label in zip(pixels, request.labels, strict=True) if not label}
        if inside & outside:
            raise InputError("Points say both that it belongs and that it does not.")
        drawn = scribble is not None and bool((scribble > 0).any())
        if not (inside or drawn or request.box or mask is not None):
            raise InputError("No prompt says what belongs.", hint="Click into the structure, or draw a box around it.")
        rows, columns = np.indices(shape)
        found = np.zeros(shape, np.float32) if mask is None else np.array(mask, np.float32)
        if request.box:
            corners = np.rint([[place[n] for n in across] for place in request.box])
            (top, left), (bottom, right) = corners.min(0), corners.max(0)
            found[(rows >= top) & (rows <= bottom) & (columns >= left) & (columns <= right)] = 0.9
        if scribble is not None:
            found[scribble > 0] = 0.9
        for point, label in zip(pixels, request.labels, strict=True):
            near = (rows - point[0]) ** 2 + (columns - point[1]) ** 2
            found[near <= (9 if label else 4)] = 0.9 if label else 0.1
        if scribble is not None:
            found[scribble < 0] = 0.1
        return PromptResult(
            id=request.id, probabilities=self.folder.put(found.astype(np.float16)), seconds=0.0, warm=True
        )

    def follow(self, request):
        mask = self.folder.get(request.mask) > 0
        array = self.folder.get(request.volume.file)
        request.slice.of(array)
        if not mask.any():
            raise InputError("The mask is empty: there is nothing to follow.")
        axis, index = request.slice.dimension, request.slice.index
        first, last = request.range or (0, array.shape[axis] - 1)
        if (self.signs / "hold").exists():
            self.say(Progress(id=request.id, stage="segment", done=1, total=last - first))
            if not self.await_sign(request):
                return Failure(id=request.id, kind="cancelled", message="Cancelled.")
        labels = np.zeros(array.shape, np.uint8)
        layers, values = np.moveaxis(labels, axis, 0), np.moveaxis(array, axis, 0)
        layers[index] = mask
        ends, reasons = [index, index], ["That is the last slice asked for."] * 2
        for way, step, end in ((0, -1, first), (1, 1, last)):
            for k in range(index + step, end + step, step) if end != index else ():
                if values[k][mask].mean() < values[index][mask].mean() - 75:
                    reasons[way] = "The structure ends there."
                    break
                layers[k], ends[way] = mask, k
        slices = tuple(SliceIndex(request.slice.axis, k) for k in range(ends[0], ends[1] + 1) if k != index)
        return FollowResult(
            id=request.id, labelmap=self.folder.put(labels), slices=slices, agreement=(1.0,) * len(slices),
            first=ends[0], last=ends[1], reasons=tuple(reasons),
        )  # fmt: skip

    def spread(self, request):
        users = np.array(self.folder.get(request.labelmap))
        if (self.signs / "hold").exists():
            self.say(Progress(id=request.id, stage="learn", done=10, total=100))
            if not self.await_sign(request):
                return Failure(id=request.id, kind="cancelled", message="Cancelled.")
        axis = request.slices[0].axis
        given = sorted(place.index for place in request.slices if place.axis == axis)
        before = self.folder.get(request.before) if request.before else np.zeros_like(users)
        layers = np.moveaxis(users, "KJI".index(axis), 0)
        corrected = {int(v) for k in given for v in np.unique(layers[k])} - {0}
        if request.before:
            stood = np.moveaxis(before, "KJI".index(axis), 0)
            corrected = {int(v) for k in given for v in np.unique(layers[k][layers[k] != stood[k]])} - {0}
        values = sorted(set(request.values or corrected) - set(request.locked))
        if not values:
            return Failure(id=request.id, kind="input", message="There is nothing to carry on.", hint="Correct one.")
        shown = layers.copy()
        for k in range(len(layers)):
            nearest = shown[min(given, key=lambda other: abs(other - k))]
            if k not in given:
                take = np.isin(nearest, values) & ~np.isin(layers[k], request.locked)
                layers[k][take] = nearest[take]
        structures = tuple(
            SpreadStructure(value=value, method="mixture", score=0.75, interpolation=0.5, voxels=1) for value in values
        )
        free = [k for k in range(len(layers)) if k not in given]
        return SpreadResult(
            id=request.id, labelmap=self.folder.put(users), structures=structures,
            next_slice=SliceIndex(axis, free[-1]) if free else None, seconds={"total": 0.0},
        )  # fmt: skip


def main():
    worker = Worker(sys.argv[sys.argv.index("--folder") + 1])
    todo, splitter, ready = [], LineSplitter(), threading.Condition()

    def work():
        while True:
            with ready:
                while not todo:
                    ready.wait()
                request = todo.pop(0)
            if request.id in worker.cancelled:
                worker.say(Failure(id=request.id, kind="cancelled", message="Cancelled."))
                continue
            try:
                worker.answer(request)
            except KeyError:
                message = "The probabilities of this result are no longer kept."
                worker.say(Failure(id=request.id, kind="input", message=message, hint="Segment again."))
            except RWKVUNetError as error:
                worker.say(Failure(id=request.id, kind=error.kind, message=error.message, hint=error.hint))
            except Exception as error:  # as the true one: a fault of its own is answered too
                worker.say(Failure(id=request.id, kind="internal", message=repr(error), hint=""))

    threading.Thread(target=work, daemon=True).start()
    while data := os.read(0, 1 << 16):
        for line in splitter.feed(data):
            request = decode_request(line)
            if isinstance(request, HelloRequest):
                versions = {"rwkv_core": "stand-in"}
                worker.say(HelloResult(id=request.id, protocol=PROTOCOL, pid=os.getpid(), versions=versions))
            elif isinstance(request, CancelRequest):
                worker.cancelled.add(request.request)
                worker.say(CancelResult(id=request.id, found="running"))
            elif isinstance(request, ShutdownRequest):
                worker.say(ShutdownResult(id=request.id))
                return
            else:
                with ready:
                    todo.append(request)
                    ready.notify()


if __name__ == "__main__":
    main()
    os._exit(0)  # whatever its thread is at
