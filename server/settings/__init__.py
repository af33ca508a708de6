"""Settings of the server. Flags take precedence over GLIMPSE_* variables, which take precedence over the file."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from glimpse.models.files import texts
from glimpse.models.prestem.recipe import Geometry
from glimpse.models.suggestions import nearest
from glimpse.server.settings import division, help  # noqa: A004 - nobody asks Python for help here
from glimpse.server.settings.access import AccessSettings
from glimpse.server.settings.kinds import (
    PositiveSeconds,
    PrecisionChoice,
    RuntimeChoice,
    Seconds,
    json_object,
    pairs,
    split,
)
from glimpse.server.settings.labelling import LabellingSettings
from glimpse.server.settings.ports import PortSettings
from glimpse.server.settings.processes import ProcessSettings
from glimpse.server.settings.work import WorkSettings

_PREFIX = "GLIMPSE_"
# Read by the client, which often runs in the same shell, and by the fetch of published weights.
_NOT_OURS = frozenset(
    {
        "GLIMPSE_CACHE",
        "GLIMPSE_CLIENT_CERTIFICATE",
        "GLIMPSE_CLIENT_CONFIG",
        "GLIMPSE_CLIENT_KEY",
        "GLIMPSE_INSECURE_TOKEN",
        "GLIMPSE_TARGET",
        "GLIMPSE_THUMBNAILS",
        "GLIMPSE_TLS",
        "GLIMPSE_TLS_CA",
        "GLIMPSE_TLS_SERVER_NAME",
        "GLIMPSE_TOKEN",
        "GLIMPSE_TOKEN_FILE",
    }
)


class _ConfigFile(TomlConfigSettingsSource):
    """The config file, in any encoding that an editor writes."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        return tomllib.loads(texts.decode(file_path.read_bytes()))


class Settings(PortSettings, WorkSettings, ProcessSettings, AccessSettings, LabellingSettings):
    """All settings of the server. Flags have the same names, with dashes."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        cli_exit_on_error=False,
        cli_prog_name="python -m glimpse.server",
    )
    _config_file: ClassVar[Path | None] = None

    config: Path | None = Field(
        None, description="TOML file with settings, named like the flags but with underscores: max_batch_size = 8."
    )
    model: str = Field(
        "",
        description="Architecture to serve, such as resnet50; `python -m glimpse.models list` shows all. "
        "Empty means the one that the weights belong to.",
    )
    variant: str = Field(
        "",
        description="Variant of the architecture. Empty means the first one that `python -m glimpse.models "
        "list` shows.",
    )
    options: Annotated[dict[str, Any], NoDecode, BeforeValidator(json_object)] = Field(
        {}, description='Options of the architecture, as a JSON object: {"alpha": 0.25}.'
    )
    weights: str = Field(
        "imagenet",
        description="Weights to serve: a tag of published weights (imagenet) or shipped weights (cifar10), "
        "the folder of a bundle, a weights file, or a graph of another framework (ONNX, TFLite, SavedModel, OpenVINO "
        "IR), which is served as it is. Without an architecture, imagenet is that of "
        "efficientnet_lite0 and cifar10 that of se_resnet20. random serves any architecture untrained, for "
        "benchmarks and demonstrations; random:7 uses the seed 7 instead of 0.",
    )
    labels: Path | None = Field(
        None,
        description="File with the class names of a weights file, one per line. Without it, labels.txt "
        "beside the weights file.",
    )
    recipe: Path | None = Field(
        None,
        description="TOML or JSON file with the preprocessing recipe (pre-stem) of a weights file. Without "
        "it, recipe.toml beside the weights file.",
    )
    models: Path | None = Field(
        None,
        description="Folder of models, each in NAME/VERSION/ with a positive integer as its version, or TOML file of "
        "models. The models are served together, and looked at again while they serve: new versions are loaded, and "
        "replace older ones once they have computed their first batches and reproduced their recorded answers. Used "
        "instead of --weights. One process serves them unless --workers is set. Empty means the one model of "
        "--weights.",
    )
    models_poll: Seconds = Field(
        10.0,
        description="Interval at which the models of --models are looked at, in seconds. 0 means only on SIGHUP and "
        "when a caller who may manage models asks for it.",
    )
    models_memory_bytes: int = Field(
        0,
        ge=0,
        description="Memory limit of all models of --models together, in bytes. A model that does not fit takes the "
        "place of those that were used least recently, of the models with required = false in their model.toml: they "
        "are unloaded (put to sleep), and a request for one loads it again. 0 means all memory that the machine "
        "or container has left.",
    )
    model_aliases: Annotated[dict[str, str], NoDecode, BeforeValidator(pairs)] = Field(
        {},
        description="Additional names of models, with commas between: photos=resnet50,default. A name without an "
        "equals sign, such as default here, is a name of the default model.",
    )
    runtime: RuntimeChoice = Field(
        "auto",
        description="Inference engine. auto takes the fastest one that is installed for the device; simulated computes "
        "nothing, and is for benchmarks of the server.",
    )
    precision: PrecisionChoice = Field(
        "auto",
        description="Number format in which the network computes. auto takes bfloat16 if the device supports "
        "it and at least 99% of the model's first answers stay the same, else float32. For a model that brings "
        "pictures of its own it also considers int8, if that is installed (glimpse-serve[int8]): it has to keep as "
        "many answers and to be 1.15 times as fast. With int8, a model for which it does not is refused.",
    )
    calibration: Path | None = Field(
        None,
        description="Folder or zip file of at least 150 images like those that will be sent, with which a network is "
        "made int8 and compared with float32, for models that bring no pictures. Images in folders that are named like "
        "a class count as such. By default, crops of photographs that come with Glimpse are used.",
    )
    conversion_seconds: PositiveSeconds = Field(
        600.0,
        description="Time limit for converting a model for OpenVINO, in seconds. If it is exceeded, runtime "
        "auto takes another runtime, and runtime openvino ends the server with exit code 4.",
    )
    simulated_seconds: Annotated[
        dict[Annotated[int, Field(ge=1, le=1024)], Annotated[float, Field(gt=0, le=3600)]],
        NoDecode,
        BeforeValidator(json_object),
    ] = Field(
        {},
        description="With runtime simulated: seconds that the device takes for a batch, by the number of images, as a "
        'JSON object: {"1": 0.002, "64": 0.005}. Empty means those of an H100 with ResNet-50. The simulated device '
        "computes nothing and is for benchmarks of the server.",
    )
    max_batch_size: int = Field(
        0,
        ge=0,
        le=1024,
        description="Maximum number of images in a batch. 0 chooses what suits the runtime and the network.",
    )
    compute_streams: int = Field(
        0,
        ge=0,
        le=1024,
        description="Number of batches that OpenVINO computes side by side, at most one for each CPU core. 0 measures "
        "at the first start which number and which largest batch are the fastest. Other runtimes ignore it.",
    )
    allow_geometries: Annotated[frozenset[Geometry], NoDecode, BeforeValidator(split)] = Field(
        frozenset(),
        description="Geometries that a request may choose in place of the model's own, with commas between: "
        "letterbox,pad. Empty means that requests cannot choose.",
    )
    novelty: bool = Field(
        default=False,
        description="Tell of each image whether it shows any of the model's classes, unless a request says otherwise. "
        "Applies to models that have a threshold of novelty; python -m glimpse.models calibrate fits one.",
    )
    drift: bool = Field(
        default=False,
        description="Export metrics of the most probable classes and of the brightness, sharpness, colour and size of "
        "images, and of how far both are from the reference in the model's bundle, so that an alert can detect drift.",
    )
    drift_window_seconds: float = Field(
        3600.0,
        ge=60,
        le=7 * 86400,
        description="How far back images are compared with the model's reference for drift, in seconds.",
    )
    allow_classes: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = Field(
        (),
        description="Classes that may answer requests which do not choose themselves, with commas between: labels, "
        "class ids, indices or names of groups, such as cat,dog. Their probabilities add up to 1. Empty means all.",
    )
    deny_classes: Annotated[tuple[str, ...], NoDecode, BeforeValidator(split)] = Field(
        (),
        description="Classes that may not answer requests which do not choose themselves, named as for "
        "--allow-classes. Empty means none.",
    )
    golden: Literal["require", "auto", "off"] = Field(
        "auto",
        description="Whether a model must reproduce its recorded (golden) answers before it serves. auto: if "
        "it has any; require: a model without them is refused; off: it need not.",
    )
    log_level: Literal["all", "debug", "info", "warning", "error"] = Field(
        "info",
        description="Least severe level that is logged. debug is for messages of Glimpse, and those of libraries begin "
        "with info. all logs debug messages of libraries, too: hundreds of kilobytes at each start, which say what a "
        "runtime such as JAX compiles.",
    )
    log_calls: bool = Field(
        default=False,
        description="Log successful calls at level info instead of debug. A log line costs more time than a "
        "small call.",
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="Format of the log. auto means text on a terminal, else JSON."
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.models is not None:
            one = ("weights", "model", "variant", "options", "labels", "recipe")
            if set_too := [name for name in one if name in self.model_fields_set]:
                raise ValueError(
                    f"models names all models, so that {', '.join(set_too)} cannot be set as well. Leave one of the "
                    "two out; model.toml in the folder of a model says what a weights file needs."
                )
            if self.engines > 1:
                raise ValueError(
                    "models needs one engine, which has all of them: each of several engines serves the one model of "
                    f"weights. Set engines to 1, or leave it out. Received: {self.engines}"
                )
        if self.max_images_per_request > self.max_images_in_flight * 3 // 4:
            raise ValueError(
                "max_images_per_request must be at most three quarters of max_images_in_flight, or a request of a "
                "stream could never be admitted. "
                f"Received: {self.max_images_per_request} and {self.max_images_in_flight}"
            )
        if self.max_message_bytes > self.max_bytes_in_flight * 3 // 4:
            raise ValueError(
                "max_message_bytes must be at most three quarters of max_bytes_in_flight, or a request of a "
                f"stream could never be admitted. Received: {self.max_message_bytes} and {self.max_bytes_in_flight}"
            )
        if self.max_image_bytes > self.max_message_bytes:
            raise ValueError(
                "max_image_bytes must not exceed max_message_bytes. "
                f"Received: {self.max_image_bytes} and {self.max_message_bytes}"
            )
        return self

    def for_worker(self, workers: int) -> Settings:
        """What one of so many workers has of these settings: limits of the whole server are divided among them."""
        return Settings.model_construct(None, **{**dict(self), **division.parts(self, workers)})

    def for_engine(self, workers: int) -> Settings:
        """What an engine has that computes for so many workers: the whole, and room for every image that they let in.

        Each worker keeps room for new callers, and their parts may be more than the whole. With less room in the
        engine, a caller of many workers could fill its queue, and others would be refused once their images are
        decoded.
        """
        images = division.parts(self, workers).get("max_images_in_flight", self.max_images_in_flight)
        return Settings.model_construct(None, **{**dict(self), "max_images_in_flight": workers * images})

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings passes it by name
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the same
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The order of precedence; flags come before all of these."""
        file = _ConfigFile(settings_cls, toml_file=cls._config_file)
        return init_settings, env_settings, file


def load(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Read and validate the settings.

    Args:
        arguments: command line without the program's name.
        environment: for the config file's name; pydantic-settings reads the process's own for the rest.

    Raises:
        pydantic.ValidationError: a value is invalid.
        OSError, ValueError: the config file cannot be read or is not TOML, or flags cannot be parsed.
        SystemExit: --help.
    """
    if help.wanted(arguments):
        sys.stdout.write(help.text(Settings))
        raise SystemExit(0)
    file = _config_file(arguments, environment)
    if file is not None and not file.is_file():
        what = "is not a file" if file.exists() else "does not exist"
        raise FileNotFoundError(f"The config file {file} {what}.")

    class FromFile(Settings):
        _config_file = file

    values: dict[str, Any] = {"_cli_parse_args": list(arguments)}
    try:
        return FromFile(**values)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The config file {file} is not valid TOML: {error}.") from error
    except RecursionError:
        raise ValueError(f"The config file {file} is nested too deeply.") from None


def _config_file(arguments: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    """The name of the config file, which has to be known before the settings are read."""
    name = environment.get(_PREFIX + "CONFIG")
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if flag == "--config":
            name = value
        elif flag.startswith("--config="):
            name = flag.partition("=")[2]
    return Path(name) if name else None


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """A line for each GLIMPSE_* variable that the server does not know: most likely it is misspelt."""
    known = {_PREFIX + name.upper() for name in Settings.model_fields} | _NOT_OURS
    unknown = sorted(name for name in environment.keys() - known if name.startswith(_PREFIX))
    return [f"{name} is not a setting.{nearest(name, known)}" for name in unknown]
