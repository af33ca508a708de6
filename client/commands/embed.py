"""The commands that work with embeddings: one writes them, one finds similar images by them."""

# ruff: noqa: FBT002, PLR0917  (typer calls these functions, with every argument by its name)
from __future__ import annotations

import heapq
import json
import math
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glimpse.client.commands.classify import check_stdin, explained, say_failed, to_send
from glimpse.client.commands.find_images import find, why_not_found
from glimpse.client.commands.npy_file import NpyFile
from glimpse.client.commands.option_groups import explain, option_group, refuse_image_name
from glimpse.client.commands.output import File, Output, Stdout
from glimpse.client.commands.parquet_file import ParquetFile
from glimpse.client.commands.plain import plain
from glimpse.client.commands.progress import progress
from glimpse.client.commands.records import EmbeddingLines
from glimpse.client.commands.request_options import RequestOptions, request_options
from glimpse.client.commands.server_options import ServerOptions, server_options
from glimpse.client.errors import Code

if TYPE_CHECKING:
    from glimpse.client.results import ImageResult

_OUTPUTS = ("embedding",)
_NPY, _JSON_LINES, _PARQUET = ".npy", ".jsonl", ".parquet"


class _Target:
    """Where embeddings go."""

    def __init__(self, path: Path | None, *, resume: bool, retry_failed: bool) -> None:
        self.path, self._resume, self._retry_failed = path, resume, retry_failed

    @property
    def aside(self) -> bool:
        """Whether they go elsewhere than to the terminal."""
        return self.path is not None or not sys.stdout.isatty()

    @contextmanager
    def opened(self) -> Iterator[Output]:
        """Where to write them.

        Raises:
            typer.BadParameter: the file cannot be opened, or holds what cannot be gone on with.
        """
        if self.path is None:
            yield Stdout(EmbeddingLines())
            return
        try:
            file = self._file(self.path)
        except (OSError, ValueError) as error:
            raise typer.BadParameter(explain(error), param_hint="--output") from error
        with file:
            yield file

    def _file(self, path: Path) -> File | NpyFile | ParquetFile:
        if path.suffix == _NPY:
            return NpyFile(path, resume=self._resume, retry_failed=self._retry_failed)
        if path.suffix == _PARQUET:
            return ParquetFile(path, resume=self._resume, retry_failed=self._retry_failed)
        return File.opened(path, EmbeddingLines(), resume=self._resume, retry_failed=self._retry_failed)


def _target(
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="FILE",
            help="Write the embeddings to this file: FILE.npy for NumPy, with the names of the images in "
            "FILE.names.jsonl; FILE.jsonl with a JSON object for each image; or FILE.parquet, which needs pyarrow. "
            "Without it, JSON is printed.",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue an interrupted run: send only the images that FILE has no embedding for."
        ),
    ] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="With --resume: also send again what failed for a reason that may have passed, such as a timeout.",
        ),
    ] = False,
) -> _Target:
    refuse_image_name(output, "--output")
    if output is not None and output.suffix not in {_NPY, _JSON_LINES, _PARQUET}:
        raise typer.BadParameter(
            f"The name must end in .npy, .jsonl or .parquet. Received: {output}", param_hint="--output"
        )
    if resume and output is None:
        raise typer.BadParameter("It needs --output.", param_hint="--resume")
    if retry_failed and not resume:
        raise typer.BadParameter("It needs --resume.", param_hint="--retry-failed")
    return _Target(output, resume=resume, retry_failed=retry_failed)


@server_options
@request_options
@option_group(_target)
def embed(
    target: _Target,
    request: RequestOptions,
    server: ServerOptions,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE",
            help="Files, folders (with all folders in them), patterns such as 'scans/*.png', or - for the standard "
            "input.",
            show_default=False,
        ),
    ],
) -> None:
    """Write the embedding of each image.

    An embedding is the features in front of the network's last layer. Similar images have similar embeddings, for
    searching, grouping and training other classifiers on them. Embeddings of different models cannot be compared. The
    order is that of the images.
    """
    check_stdin(images)
    with (
        server.client() as client,
        target.opened() as answers,
        progress(lambda: find(images), aside=target.aside) as advance,
    ):
        results = client.classify_many(
            to_send(images, answers, advance, server.max_message_bytes),
            top_k=1,
            outputs=_OUTPUTS,
            **request.arguments(),
        )
        for path, result in results:
            answers.write(path, _with_embedding(explained(path, result)))
            advance(failed=result.error is not None)
    if said := answers.summary:
        typer.echo(plain(said), err=True)
    say_failed(answers.failed, quiet=target.path is None)


@server_options
@request_options
def similar(
    request: RequestOptions,
    server: ServerOptions,
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The image to compare with.", show_default=False)],
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="OTHER",
            help="Files, folders (with all folders in them) or patterns such as 'scans/*.png' to compare.",
            show_default=False,
        ),
    ],
    top: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="How many images to show. Without it, 10, or all that --threshold lets through."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="S",
            min=-1.0,
            max=1.0,
            help="Show only images that are at least this similar. With the default model, from about 0.8 on they are "
            "usually copies.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each image, a line each.")] = False,
) -> None:
    """Find the images that resemble an image most.

    The most similar comes first. The number is the cosine of the angle between the two embeddings: 1 for the same
    image, around 0 for images that have nothing in common.
    """
    failed = 0
    with server.client() as client, progress(lambda: find(images), aside=not sys.stdout.isatty()) as advance:
        arguments = request.arguments()
        try:
            given = client.classify(
                image,
                top_k=1,
                outputs=_OUTPUTS,
                geometry=request.geometry,
                model=request.model,
                version=request.version,
            )
        except OSError as error:
            why = why_not_found(image) if isinstance(error, FileNotFoundError) else explain(error)
            raise typer.BadParameter(why, param_hint="IMAGE") from error
        wanted = _unit(_with_embedding(given).raise_for_error().embedding)
        if given.model is not None and not request.version:
            # By the version that has answered: where another one is on trial, their embeddings cannot be compared.
            arguments |= {"model": given.model.name, "version": given.model.version}
        kept: list[tuple[float, str]] = []
        most = top or (10 if threshold is None else None)
        paths = ((path, path) for path in find(images))
        for path, result in client.classify_many(paths, top_k=1, outputs=_OUTPUTS, **arguments):
            found = _with_embedding(explained(path, result))
            advance(failed=found.error is not None)
            if found.error is not None:
                failed += 1
                typer.echo(plain(f"{path}: {found.error.message}"), err=True)
                continue
            alike = sum(map(mul, wanted, _unit(found.embedding)))
            if threshold is not None and alike < threshold:
                continue
            if most is None or len(kept) < most:
                heapq.heappush(kept, (alike, path))
            else:
                heapq.heappushpop(kept, (alike, path))
    for alike, path in sorted(kept, reverse=True):
        typer.echo(json.dumps({"path": path, "similarity": alike}) if as_json else plain(f"{alike:.3f}  {path}"))
    say_failed(failed, quiet=False)


def _with_embedding(result: ImageResult) -> ImageResult:
    """The result itself; where it has no embedding, what that means."""
    if result.error is not None or result.embedding is not None:
        return result
    message = "The server returned no embedding. It may be older than this client; update it."
    return type(result).failed(Code.UNIMPLEMENTED, "NO_EMBEDDING", message)


def _unit(vector: array[float] | None) -> list[float]:
    """The vector with the length 1; one of zeros stays as it is."""
    values = [] if vector is None else vector.tolist()
    length = math.hypot(*values)
    return [value / length for value in values] if length else values
