"""What is to be done to kept probabilities: the settings of preview and post-processing."""

from dataclasses import dataclass
from typing import Any

from rwkv_core.worker.protocol_interactive import RefineRequest, Threshold, Voxel


@dataclass(frozen=True)
class PostProcessing:
    """Changes to a result that need no new run. Classes are named by their label values.

    Attributes:
        thresholds: (value, probability) pairs; a class without one takes the voxels in which it is the most probable.
        off: classes that are not wanted.
        smoothing: standard deviation across slices, in mm.
        keepAt: (I, J, K) of voxels; of the class at each, only the part that holds it stays.
        keepLargest: classes of which only the largest part stays.
        fillHoles: classes that get the background they enclose.
        smallest: mm3; smaller parts go.
    """

    thresholds: tuple[tuple[int, float], ...] = ()
    off: tuple[int, ...] = ()
    smoothing: float = 0.0
    keepAt: tuple[tuple[int, int, int], ...] = ()
    keepLargest: tuple[int, ...] = ()
    fillHoles: tuple[int, ...] = ()
    smallest: float = 0.0

    def request(self, result: int) -> RefineRequest:
        """For the kept result of this request's id."""
        return RefineRequest(
            result=result,
            smoothing=self.smoothing,
            thresholds=self._thresholds,
            off=self.off,
            keep_at=tuple(Voxel(i=i, j=j, k=k) for i, j, k in self.keepAt),
            keep_largest=self.keepLargest,
            smallest=self.smallest,
            fill_holes=self.fillHoles,
        )

    def sliceRequest(self, result: int) -> RefineRequest | None:
        """What of it makes sense in a single slice; None when nothing is to be done."""
        if not (self.thresholds or self.off):
            return None
        return RefineRequest(result=result, thresholds=self._thresholds, off=self.off)

    def withThreshold(self, value: int, probability: float | None) -> "PostProcessing":
        """With another threshold for a class; None takes it away."""
        others = {key: one for key, one in self.thresholds if key != value}
        if probability is not None:
            others[value] = probability
        return self._with(thresholds=tuple(sorted(others.items())))

    def withClass(self, field: str, value: int, wanted: bool) -> "PostProcessing":
        """With a class in, or not in, one of the fields `off`, `keepLargest`, `fillHoles`."""
        others = {one for one in getattr(self, field) if one != value}
        return self._with(**{field: tuple(sorted(others | {value} if wanted else others))})

    def _with(self, **changed: Any) -> "PostProcessing":
        return PostProcessing(**{**self.__dict__, **changed})

    @property
    def _thresholds(self) -> tuple[Threshold, ...]:
        return tuple(Threshold(value=value, probability=probability) for value, probability in self.thresholds)
