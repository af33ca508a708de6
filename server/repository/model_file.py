"""`model.toml`: how one model of a repository is served."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from glimpse.models.files import bounded_files
from glimpse.models.prestem.recipe import Geometry
from glimpse.models.sources import ModelSource
from glimpse.models.suggestions import did_you_mean
from glimpse.server.batching.device import SharedDevice
from glimpse.server.domain import ClassChoice
from glimpse.server.loading.options import LoadOptions
from glimpse.server.settings import Settings
from glimpse.server.settings.kinds import PrecisionChoice, RuntimeChoice

FILE = "model.toml"
# Settings of the server that a model may have otherwise, by the same names.
_LIKE_THE_SERVER = ("runtime", "precision", "golden", "max_batch_size", "compute_streams")


class ModelFile(BaseModel):
    """The settings of one model. What is left out is as the server's settings say."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    runtime: RuntimeChoice | None = None
    precision: PrecisionChoice | None = None
    golden: Literal["require", "auto", "off"] | None = None
    max_batch_size: Annotated[int, Field(ge=0, le=1024)] | None = None
    compute_streams: Annotated[int, Field(ge=0, le=1024)] | None = None
    allow_geometries: frozenset[Geometry] | None = None
    # Of requests that do not choose, both together: a model that names either has nothing of the server's choice.
    allow_classes: tuple[str, ...] | None = None
    deny_classes: tuple[str, ...] | None = None
    weight: Annotated[float, Field(gt=0, le=1000)] = 1.0  # its time on the device is in proportion to, under load
    keep: Annotated[int, Field(ge=1, le=100)] = 1  # of the newest versions, how many answer
    required: bool = True  # the server is ready only once this model is, and it never sleeps
    resident: bool = False  # it never sleeps
    sleep_after: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # seconds without a request
    default: bool = False  # answers requests that name no model
    # Of weights files, which do not say it themselves.
    architecture: str = ""
    variant: str = ""
    options: dict[str, Any] = {}

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.sleep_after is not None and not self.may_sleep:
            raise ValueError(
                "sleep_after needs required = false and not resident = true: other models are always in memory"
            )
        return self

    @property
    def may_sleep(self) -> bool:
        """Whether the model may be put to sleep where its memory is needed for another one."""
        return not (self.required or self.resident)

    def load_options(self, settings: Settings, device: SharedDevice) -> LoadOptions:
        """How this model is loaded by a server with these settings, whose models share a device.

        Raises:
            ValueError: the runtime is not installed.
        """
        update = {name: value for name in _LIKE_THE_SERVER if (value := getattr(self, name)) is not None}
        options = LoadOptions.of(settings.model_copy(update=update))
        options = replace(options, geometries=self.allow_geometries, weight=self.weight, device=device)
        if self.allow_classes is None and self.deny_classes is None:
            return options
        own = ClassChoice(self.allow_classes or (), self.deny_classes or ())
        return replace(options, classes=own, own_classes=own)

    def source(self, weights: str, labels: Path | None = None, recipe: Path | None = None) -> ModelSource:
        """The model of a bundle, a weights file or a tag."""
        return ModelSource(
            weights=weights,
            architecture=self.architecture,
            variant=self.variant or None,
            options=self.options,
            labels=labels,
            recipe=recipe,
        )


class ListedModel(ModelFile):
    """A model in a TOML file of models: where it is, and what `model.toml` could say."""

    path: Path | None = None  # of its folder, with a folder for each version
    weights: str | None = None  # or its weights, as GLIMPSE_WEIGHTS names them
    version: Annotated[int, Field(ge=1)] = 1  # of those weights
    labels: Path | None = None
    recipe: Path | None = None


def read(folder: Path) -> ModelFile:
    """The `model.toml` in the folder of a model; the usual settings where there is none.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    path = folder / FILE
    if not path.exists():
        return ModelFile()
    try:
        return ModelFile.model_validate(bounded_files.parse_toml(bounded_files.read_text(path)))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be used: {explain(error, ModelFile)}.") from error


def read_list(file: Path) -> dict[str, ListedModel | str]:
    """The models of a TOML file, by name: each as its table says, or what is wrong with that.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not TOML, or is too large.
    """
    found: dict[str, ListedModel | str] = {}
    for name, table in bounded_files.parse_toml(bounded_files.read_text(file)).items():
        try:
            if not isinstance(table, Mapping):
                raise TypeError(f"it must be a table, [{name}]. Received: {table!r}")  # noqa: TRY301 - one place says so
            listed = ListedModel.model_validate(table)
            if (listed.path is None) == (listed.weights is None):
                raise ValueError("it needs either path, a folder of versions, or weights")  # noqa: TRY301 - the same
        except (ValueError, TypeError) as error:
            found[name] = f"[{name}] in {file} cannot be used: {explain(error, ListedModel)}."
        else:
            near = {each: _beside(file, getattr(listed, each)) for each in ("path", "labels", "recipe")}
            found[name] = listed.model_copy(update=near)
    return found


def explain(error: Exception, kind: type[BaseModel]) -> str:
    """What is wrong with a file of that kind, for people."""
    if not isinstance(error, ValidationError):
        return str(error).rstrip(".")
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        place = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            hint = did_you_mean(place, kind.model_fields).rstrip(".")
            lines.append(f"{place} is not a key of this file.{hint}")
        else:
            lines.append(f"{place}: {problem['msg']}")
    return "; ".join(lines)


def _beside(file: Path, path: Path | None) -> Path | None:
    """A path of a file's own is looked for beside it."""
    return None if path is None else file.parent / path.expanduser()
