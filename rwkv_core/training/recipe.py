"""Recipe: every number of a training run. Presets are files in presets/, the paper's recipes to the letter.

`load_recipe("synapse", ["batch=12", "loss.dice=1"])` is the preset with two fields changed. A run folder's config.json
holds the recipe that it used, whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rwkv_core.bundle.bundle import Bundle
from rwkv_core.bundle.config import Patches, Preprocessing, problems_in_words
from rwkv_core.bundle.store import load_bundle
from rwkv_core.errors import BundleError, InputError
from rwkv_core.models.architectures import ARCHITECTURES, STRIDE, TITLES, VOLUMETRIC

PRESETS = Path(__file__).with_name("presets")

CHECKPOINTS = (".pth", ".pt", ".bin")

Probability = Annotated[float, Field(ge=0, le=1)]


class StrictModel(BaseModel):
    """Base of recipes and their parts: no field but the known ones, none changed after the checks."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Loss(StrictModel):
    """cross_entropy * CE + dice * (1 - soft Dice); the weights a and b of the paper."""

    cross_entropy: Annotated[float, Field(ge=0)] = 0.5
    dice: Annotated[float, Field(ge=0)] = 0.5

    @model_validator(mode="after")
    def _some(self) -> "Loss":
        if self.cross_entropy + self.dice == 0:
            raise ValueError("one of cross_entropy and dice must be above 0")
        return self


class Augmentation(StrictModel):
    """Random changes of training slices or blocks; all off by default. Probabilities are per slice or block.

    Attributes:
        turn_and_flip: a turn by 0, 90, 180 or 270 degrees (square slices only; else by 0 or 180), then a flip along
            rows or columns. Blocks likewise, in the plane of their slices.
        flip_rows, flip_columns: a flip alone. Mirrors anatomy: not for classes that are left or right.
        rotate: by up to `rotate_degrees`; blocks about all three axes, but for those about which a turn would mix axes
            of very different spacings.
        scale: enlarge or shrink by up to `scale_share`, every axis by itself.
        brightness_contrast: times 0.8 to 1.2, contrast about the mean by 0.8 to 1.2.
        crop: cut out a part of `crop_smallest` to 1 of all sides (half of the draws leave the slice whole, as in the
            published code) and enlarge it to the whole.
        gamma: exponent between `gamma_range`.
        noise: Gaussian, up to `noise_std`.
        blur: Gaussian, up to `blur_sigma` pixels.
    """

    turn_and_flip: Probability = 0
    flip_rows: Probability = 0
    flip_columns: Probability = 0
    rotate: Probability = 0
    rotate_degrees: Annotated[float, Field(gt=0, le=180)] = 30
    scale: Probability = 0
    scale_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    brightness_contrast: Probability = 0
    crop: Probability = 0
    crop_smallest: Annotated[float, Field(gt=0, le=1)] = 0.8
    gamma: Probability = 0
    gamma_range: tuple[float, float] = (0.7, 1.5)
    noise: Probability = 0
    noise_std: Annotated[float, Field(gt=0)] = 0.05
    blur: Probability = 0
    blur_sigma: Annotated[float, Field(gt=0)] = 1.0


class Division(StrictModel):
    """Shares of the patients, for data sets that are not divided."""

    validation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    test: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: int = 0


class Consistency(StrictModel):
    """Semi-supervised: mean squared error between predictions for two augmentations of an unlabelled slice, undone.

    Attributes:
        folder: of unlabelled images, or a data set whose labels are not looked at.
        weight: of this term of the loss.
        batch: unlabelled slices in every step; None takes as many as labelled ones.
    """

    folder: str | None = None
    weight: Annotated[float, Field(ge=0)] = 1.0
    batch: Annotated[int, Field(gt=0)] | None = None


class Recipe(StrictModel):
    """The contents of a preset, and of the "recipe" in a run's config.json.

    Attributes:
        architecture: None takes that of `init`, "rwkv-unet" for fresh weights. "u-rwkv" learns from blocks, whose
            spacing and size are in `preprocessing` (method "patches").
        variant: None takes that of `init`.
        in_channels: 1 grey, 3 RGB; None takes what the data set has.
        channel: which channel of a multi-channel image to use, counted from 0.
        modality: of the finished model; None takes the data set's.
        preprocessing: as in a bundle; None takes that of the bundle in `init`.
        pipeline: how slices are resized: "paper" by scipy.ndimage.zoom as published, "best" as a `Segmenter` does.
        patch: height and width of training slices where they differ in size; larger ones are cropped at random,
            smaller ones padded. None: the largest slice, at most 320. Not for blocks, which have a size already.
        init: a bundle (id or folder), an encoder bundle, or a published checkpoint (.pth); None: fresh weights.
        batch: slices or blocks in a step, over all processes together.
        minimum_rate: learning rate at the end of the cosine, which moves once per epoch.
        early_stopping: epochs without a better validation Dice after which a run ends; None: never.
        keep: which weights become the bundle: those with the best validation Dice, or the last ones.
        precision: "auto" is mixed precision where the device has it (bfloat16, else float16), float32 elsewhere.
        workers: processes that load slices; None: by the number of cores.
        checkpoint_minutes: time after which a checkpoint is written within an epoch.
        patient_pattern: regular expression that finds the patient in a case's id.
        fold: of nnU-Net's splits_final.json, or of a datalist with "fold".
    """

    description: str = ""
    architecture: Literal["rwkv-unet", "u-rwkv"] | None = None
    variant: Literal["T", "S", "B"] | None = None
    in_channels: Literal[1, 3] | None = None
    channel: Annotated[int, Field(ge=0)] | None = None
    modality: Literal["CT", "MR", "any"] | None = None
    preprocessing: Preprocessing | None = None
    pipeline: Literal["best", "paper"] = "best"
    patch: tuple[int, int] | None = None
    init: str | None = None
    epochs: Annotated[int, Field(gt=0)]
    batch: Annotated[int, Field(gt=0)]
    learning_rate: Annotated[float, Field(gt=0)]
    minimum_rate: Annotated[float, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    gradient_clip: Annotated[float, Field(gt=0)] | None = None
    loss: Loss = Loss()
    augmentation: Augmentation = Augmentation()
    division: Division = Division()
    consistency: Consistency | None = None
    early_stopping: Annotated[int, Field(gt=0)] | None = None
    keep: Literal["best", "last"] = "best"
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = "auto"
    workers: Annotated[int, Field(ge=0)] | None = None
    seed: int = 1234
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10
    patient_pattern: str | None = None
    fold: Annotated[int, Field(ge=0)] | None = None
    licence: str = "not stated"
    citation: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        if self.preprocessing is None and self.init is None:
            raise ValueError("preprocessing must be given, or a bundle to start from (init) that has one")
        if self.patch is not None and any(side <= 0 or side % STRIDE for side in self.patch):
            raise ValueError(f"patch: height and width must be multiples of {STRIDE}")
        if self.minimum_rate > self.learning_rate:
            raise ValueError("minimum_rate must not exceed learning_rate")
        return self


def preset_names() -> list[str]:
    """Give the presets that exist."""
    return sorted(path.stem for path in PRESETS.glob("*.yaml"))


def load_recipe(preset: str, changes: Sequence[str] = (), **fields: Any) -> Recipe:
    """Give a preset with fields changed.

    Args:
        preset: its name, or the path of a .yaml file of one's own.
        changes: "key=value" each; keys of nested fields with dots; values as in YAML ("null", "[224, 224]", "1e-4"). A
            new "method" of preprocessing takes the place of the old one with all its fields. Of a recipe without
            preprocessing, that of the bundle in `init` is changed.
        fields: further changes, by top-level name; None is left out.

    Raises:
        InputError: when there is no such preset, a change is not understood, or a value is not allowed.
    """
    path = PRESETS / f"{preset}.yaml"
    if preset.endswith((".yaml", ".yml")):
        path = Path(preset)
    elif preset not in preset_names():
        raise InputError(f"There is no preset {preset!r}.", hint=f"Choose from {', '.join(preset_names())}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"The preset {path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise InputError(f"The preset {path} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise InputError(f"The preset {path} must hold fields and values.")
    for name, value in fields.items():
        if value is not None:
            content[name] = value
    if content.get("preprocessing") is None and any(change.startswith("preprocessing.") for change in changes):
        content["preprocessing"] = _preprocessing_of(content, changes)
    for change in _kinds_first(changes):
        _set(content, change)
    return checked_recipe(content, str(path.name))


def checked_recipe(content: dict[str, Any], source: str) -> Recipe:
    """Make the recipe of a dictionary; `source` names it in messages.

    Raises:
        InputError: naming every field that is wrong.
    """
    return _checked(Recipe, content, source)


_KIND = "method"
"""The field that says which of several kinds an object is: of intensity scaling, of resampling."""

RecipeT = TypeVar("RecipeT", bound=StrictModel)


def changed_recipe(recipe: RecipeT, changes: Sequence[str]) -> RecipeT:
    """Change some fields of a recipe of any kind, as in `load_recipe`.

    Raises:
        InputError: when a change is not understood, or a value is not allowed.
    """
    content = recipe.model_dump(mode="json")
    for change in _kinds_first(changes):
        _set(content, change)
    return _checked(type(recipe), content, "of the run")


def _checked(kind: type[RecipeT], content: dict[str, Any], source: str) -> RecipeT:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError(
            f"The recipe ({source}) is not valid: {problems_in_words(error)}.",
            hint=f"Fields are: {', '.join(kind.model_fields)}.",
        ) from None


def _preprocessing_of(content: dict[str, Any], changes: Sequence[str]) -> dict[str, Any] | None:
    """That of the bundle that the recipe starts from, so that one field of it can be changed."""
    chosen = [change.partition("=")[2] for change in changes if change.partition("=")[0].strip() == "init"]
    bundle = find_bundle(chosen[-1] if chosen else content.get("init"))
    own = bundle.config.preprocessing if bundle else None
    return own.model_dump(mode="json") if own else None


def _kinds_first(changes: Sequence[str]) -> list[str]:
    """Give the changes with those of a method before those of its fields."""
    return sorted(changes, key=lambda change: not change.partition("=")[0].strip().endswith(f".{_KIND}"))


def _set(content: dict[str, Any], change: str) -> None:
    key, sign, text = change.partition("=")
    keys = key.strip().split(".")
    if not sign or not all(keys):
        raise InputError(f"The change {change!r} is not understood.", hint="Write key=value, such as epochs=50.")
    inner = content
    for name in keys[:-1]:
        if not isinstance(inner.get(name), dict):
            inner[name] = {}
        inner = inner[name]
    value = _value(text)
    if keys[-1] == _KIND and inner.get(_KIND) != value:
        inner.clear()  # fields of one method are none of another's
    inner[keys[-1]] = value


def _value(text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):  # YAML 1.1 takes 1e-4, without a point, for a word
        try:
            return float(value)
        except ValueError:
            return value
    return value


def find_bundle(init: str | None) -> Bundle | None:
    """Give the bundle that a recipe starts from; None for fresh weights and for checkpoints.

    Raises:
        BundleError: when there is no such bundle.
    """
    if init is None or Path(init).suffix in CHECKPOINTS:
        return None
    return load_bundle(init)


def require_fitting(recipe: Recipe) -> None:
    """Check that the recipe's network, its start and the way its images are prepared belong together.

    Raises:
        BundleError: when the model in `init` is missing, or of another kind.
        InputError: when the recipe contradicts itself.
    """
    bundle = find_bundle(recipe.init)
    start = bundle.config.architecture if bundle else "rwkv-unet"
    asked = recipe.architecture or start
    if recipe.init is not None and start != asked:
        raise BundleError(
            f"{bundle.config.id if bundle else recipe.init} is a model of {TITLES[start]}, and the recipe trains "
            f"{TITLES[asked]}.",
            hint=f"Start from a model of {TITLES[asked]}, or choose another preset.",
        )
    if recipe.variant is not None and recipe.variant not in ARCHITECTURES[asked]:
        raise InputError(
            f"{TITLES[asked]} has no variant {recipe.variant}.", hint=f"Choose from {', '.join(ARCHITECTURES[asked])}."
        )
    preparation = recipe.preprocessing or (bundle.config.preprocessing if bundle else None)
    volumetric = asked in VOLUMETRIC
    if preparation is not None and isinstance(preparation.resampling, Patches) != volumetric:
        takes, method = ("blocks", "patches") if volumetric else ("slices", "stretch or spacing")
        raise InputError(
            f"{TITLES[asked]} takes {takes}, and the recipe prepares {'slices' if volumetric else 'blocks'}.",
            hint=f"Choose a preset for {TITLES[asked]}, or set preprocessing.resampling to the method {method}.",
        )
    if not volumetric:
        return
    if recipe.patch is not None:
        raise InputError("patch is for slices.", hint="Set preprocessing.resampling.size, such as [96, 96, 96].")
    if recipe.consistency is not None:
        raise InputError(f"{TITLES[asked]} does not learn from unlabelled images.", hint="Set consistency=null.")
    if recipe.pipeline == "paper":
        raise InputError("The published pipeline is one for slices.", hint="Set pipeline=best.")
    if recipe.in_channels == 3:
        raise InputError(f"{TITLES[asked]} takes gray volumes.", hint="Set in_channels=1.")


@dataclass(frozen=True)
class Job:
    """What a run is asked to do: a data set, a recipe, the name of the model that comes out. Kept in config.json.

    Attributes:
        dataset: its path.
        name: id of the model.
        unlabelled: path of the images for the consistency loss.
    """

    dataset: str
    name: str
    recipe: Recipe
    unlabelled: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "format": 1,
            "name": self.name,
            "dataset": self.dataset,
            "unlabelled": self.unlabelled,
            "recipe": self.recipe.model_dump(mode="json"),
        }

    @classmethod
    def from_json(cls, content: dict[str, Any], source: str) -> "Job":
        """Raises InputError when it is not such a description."""
        try:
            recipe = checked_recipe(content["recipe"], source)
            return cls(content["dataset"], content["name"], recipe, content.get("unlabelled"))
        except KeyError as error:
            raise InputError(f"{source} lacks {error}.") from None
