"""Settings: flags > GLIMPSE_* environment > config file > defaults, validated once."""

from __future__ import annotations

import difflib
import os
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

from glimpse.models import texts
from glimpse.models.prestem.recipe import Geometry
from glimpse.server import cores
from glimpse.server.settings.access import AccessSettings
from glimpse.server.settings.kinds import (
    MIB,
    Port,
    Positive,
    PositiveSeconds,
    Precision,
    RuntimeName,
    Seconds,
    json_object,
    split,
)

_PREFIX = "GLIMPSE_"
# A photo as cameras write it has 2 to 4 pixels a byte, so that the bytes bound how many of them are in flight.
_PIXELS_A_BYTE = 4
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
    """The config file, in whatever an editor made of it."""

    def _read_file(self, file_path: Path | Traversable) -> dict[str, Any]:
        return tomllib.loads(texts.decode(file_path.read_bytes()))


class Settings(AccessSettings):
    """What the server can be told. Names in flags are the same with dashes."""

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

    config: Path | None = Field(None, description="TOML file with any of these settings.")
    host: str = Field("0.0.0.0", description="Address to listen on, for gRPC and for metrics.")  # noqa: S104 - a server in a container is reached from outside
    port: Port = Field(50051, description="gRPC port; 0 takes a free one.")
    metrics_port: Port = Field(9464, description="Port of /metrics; 0 takes a free one.")
    model: str = Field("", description="Architecture to serve; empty: the weights' own, or the shipped default.")
    variant: str = Field("", description="Form of the architecture; empty: its first. See glimpse.models list.")
    options: Annotated[dict[str, Any], NoDecode, BeforeValidator(json_object)] = Field(
        {}, description='Of the architecture, as JSON: {"alpha": 0.25}.'
    )
    weights: str = Field(
        "cifar10", description="Tag of shipped or published weights (imagenet), a bundle folder, or a weights file."
    )
    labels: Path | None = Field(None, description="Class names of a weights file; else labels.txt beside it.")
    recipe: Path | None = Field(
        None, description="Pre-stem of a weights file, TOML or JSON; else recipe.toml beside it."
    )
    runtime: RuntimeName = Field("auto", description="What computes; auto: the fastest installed for the device.")
    precision: Precision = Field("auto", description="Of the network; auto: bfloat16 where it keeps the answers.")
    conversion_seconds: PositiveSeconds = Field(
        600.0, description="That converting a network for openvino may take; then another runtime, or exit code 4."
    )
    max_batch_size: int = Field(
        0, ge=0, le=1024, description="Images in the largest batch; 0: what suits runtime and network."
    )
    max_images_in_flight: Positive = Field(256, description="Images between arrival and answer; above: QUEUE_FULL.")
    max_bytes_in_flight: Positive = Field(256 * MIB, description="Bytes of images in flight; above: QUEUE_FULL.")
    max_pixels_in_flight: int = Field(
        0,
        ge=0,
        description="Predicted work of decoding in flight, in pixels of an ordinary JPEG photo; above: QUEUE_FULL. 0: "
        "four pixels for each byte of max_bytes_in_flight.",
    )
    max_images_per_request: Positive = Field(64, description="Images in one request.")
    max_image_bytes: Positive = Field(12 * MIB, description="Bytes of one encoded image.")
    max_image_pixels: Positive = Field(25_000_000, description="Width x height of an image that is decoded whole.")
    max_jpeg_pixels: Positive = Field(
        100_000_000, description="Width x height of a sequential JPEG that is decoded at a reduced scale."
    )
    jpeg_reducing_gap: float = Field(
        2.0, ge=0, allow_inf_nan=False, description="Decode JPEG no smaller than so many times its target; 0: whole."
    )
    allow_geometries: Annotated[frozenset[Geometry], NoDecode, BeforeValidator(split)] = Field(
        frozenset(), description="Geometries that a request may ask for: letterbox,pad."
    )
    max_streams: Positive = Field(64, description="Streams open at once; above: QUEUE_FULL.")
    stream_window: Positive = Field(64, description="Requests of one stream that are worked on at once.")
    decode_threads: int = Field(0, ge=0, description="Threads that decode; 0: one a CPU core.")
    decode_in: Literal["threads", "processes"] = Field(
        "threads",
        description="Where ordinary images are decoded; processes: a crash in a codec costs its image alone. Costly "
        "images are decoded in processes either way, except on Windows.",
    )
    decode_memory_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of memory that one image may take in a decoder process; 0: what the largest legal one does.",
    )
    decode_seconds: float = Field(
        10.0, gt=0, le=3600, description="Seconds that one image may take in a decoder process."
    )
    drain_announce_seconds: Seconds = Field(
        0.0, description="After SIGTERM: answer NOT_SERVING to health checks but go on serving for so long."
    )
    drain_seconds: Seconds = Field(30.0, description="After that: time for what is in flight to finish.")
    stuck_seconds: PositiveSeconds = Field(
        60.0, description="A batch that computes for longer: the runtime hangs, and liveness says so."
    )
    golden: Literal["require", "auto", "off"] = Field(
        "auto", description="Recorded answers must come out before SERVING; require: refuse a model that has none."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe that is logged.")
    log_calls: bool = Field(
        default=False,
        description="Log calls that went well at level info, too. A line costs more than a small call.",
    )
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, else json.")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.max_images_per_request > self.max_images_in_flight * 3 // 4:
            raise ValueError(
                "max_images_per_request must be at most three quarters of max_images_in_flight, so that a request of a "
                f"stream can ever be admitted. Received: {self.max_images_per_request} and {self.max_images_in_flight}"
            )
        if self.max_message_bytes > self.max_bytes_in_flight * 3 // 4:
            raise ValueError(
                "max_message_bytes must be at most three quarters of max_bytes_in_flight, so that a request of a "
                f"stream can ever be admitted. Received: {self.max_message_bytes} and {self.max_bytes_in_flight}"
            )
        if self.max_image_bytes > self.max_message_bytes:
            raise ValueError(
                "max_image_bytes must not exceed max_message_bytes. "
                f"Received: {self.max_image_bytes} and {self.max_message_bytes}"
            )
        return self

    @property
    def work_in_flight(self) -> int:
        """Predicted work of decoding that may be in flight, in pixels of an ordinary JPEG photo."""
        return self.max_pixels_in_flight or _PIXELS_A_BYTE * self.max_bytes_in_flight

    @property
    def decoders(self) -> int:
        """Number of decoder threads."""
        return self.decode_threads or cores.available()

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
    """Read the settings of a process.

    Args:
        arguments: command line without the program's name.
        environment: for the config file's name; pydantic-settings reads the process's own for the rest.

    Raises:
        pydantic.ValidationError: a value that cannot be.
        OSError, ValueError: the config file cannot be read or is no TOML, or flags cannot be parsed.
        SystemExit: --help.
    """
    file = _config_file(arguments, environment)
    if file is not None and not file.is_file():
        what = "is no file" if file.exists() else "does not exist"
        raise FileNotFoundError(f"The config file {file} {what}.")

    class FromFile(Settings):
        _config_file = file

    FromFile.__doc__ = (
        "Serve an image-classification model over gRPC. Flags > GLIMPSE_* environment > config file. "
        "`python -m glimpse.server prepare`, with the same settings, fetches and converts the model and ends."
    )
    values: dict[str, Any] = {"_cli_parse_args": list(arguments)}
    try:
        return FromFile(**values)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The config file {file} is no TOML: {error}.") from error
    except RecursionError:
        raise ValueError(f"The config file {file} is nested too deeply.") from None


def _config_file(arguments: Sequence[str], environment: Mapping[str, str]) -> Path | None:
    """The file has to be known before the settings are read that could name it."""
    name = environment.get(_PREFIX + "CONFIG")
    for flag, value in zip(arguments, [*arguments[1:], ""], strict=False):
        if flag == "--config":
            name = value
        elif flag.startswith("--config="):
            name = flag.partition("=")[2]
    return Path(name) if name else None


def unknown_variables(environment: Mapping[str, str] = os.environ) -> list[str]:
    """A line for each GLIMPSE_* variable that means nothing here: most likely a misspelt one."""
    known = {_PREFIX + name.upper() for name in Settings.model_fields} | _NOT_OURS
    lines = []
    for name in sorted(environment.keys() - known):
        if name.startswith(_PREFIX):
            near = difflib.get_close_matches(name, known, n=1)
            lines.append(f"{name} is not a setting." + (f" Did you mean {near[0]}?" if near else ""))
    return lines
