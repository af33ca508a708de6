"""`Classifier`: images in, ranked labels out, in the caller's own process."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, NoReturn, Self, TypeVar, Unpack, get_args, overload

from glimpse.client.options import ImageOptions
from glimpse.client.results import ImageResult, ModelDescription
from glimpse.models.prestem.recipe import Geometry
from glimpse.server import logs
from glimpse.server.domain import ClassifyRequest, Image
from glimpse.server.in_process.bulk import Bulk
from glimpse.server.in_process.given import ARGUMENTS, MoreSettings, limits_of, settings_of
from glimpse.server.in_process.pipeline_thread import PipelineThread
from glimpse.server.in_process.values import InputLimits, to_image, to_request, to_result
from glimpse.server.machine import cores
from glimpse.server.processes.startup import StartupError
from glimpse.server.settings import Settings
from glimpse.server.settings.kinds import PrecisionChoice, RuntimeChoice

if TYPE_CHECKING:
    from types import TracebackType

    from glimpse.client.image_values import ImageInput

K = TypeVar("K")

_GEOMETRIES: frozenset[str] = frozenset(get_args(Geometry))
_VARIABLE = re.compile(rf"GLIMPSE_({'|'.join(name.upper() for name in ARGUMENTS)})\b")
_AHEAD = 2  # times as many images as all cores compute at once are read ahead, so that no batch waits for its images


class Classifier:
    """A model in this process. Safe to share between threads; close it, or use it as a context manager.

        with Classifier.load("imagenet") as classifier:
            print(classifier.classify("cat.jpg").predictions[0].label)

    It decodes, resizes, computes and ranks with the same code as the server, in threads of its own, and so gives the
    same answers; an event loop of the caller is left alone. Results and errors are those of `glimpse.Client`. Load one
    in each process: it cannot be pickled, nor used in a fork of the process that loaded it.
    """

    def __init__(self, settings: Settings) -> None:
        """Load the model of the settings of a server; `load` takes the few that matter here."""
        logs.leave_to_program()
        self._settings = settings
        limits = limits_of(settings)
        self._limits = InputLimits(limits)
        self._pipeline = PipelineThread(settings, limits)
        # Without a wait: garbage is collected in any thread, also in one that would wait for itself.
        self._dropped = weakref.finalize(self, _close_beside, self._pipeline)
        self._dropped.atexit = False

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str] = "imagenet",
        *,
        model: str = "",
        variant: str = "",
        labels: str | os.PathLike[str] | None = None,
        recipe: str | os.PathLike[str] | None = None,
        runtime: RuntimeChoice = "auto",
        precision: PrecisionChoice = "auto",
        **settings: Unpack[MoreSettings],
    ) -> Self:
        """Load a model until it answers, which takes a second, and longer where it is converted and measured first.

        Variables of the environment that configure a server do not apply, except for ``GLIMPSE_CACHE``.

        Args:
            source: the same as the server's setting ``weights``: a tag of published or shipped weights (``imagenet``,
                ``cifar10``), the folder of a bundle, a weights file, or a graph of another framework (ONNX, TFLite,
                SavedModel, OpenVINO IR).
            model: the architecture; if empty, the one that the weights belong to.
            variant: of the architecture; if empty, its first one.
            labels: file with the class names of a weights file; without it, labels.txt beside the weights.
            recipe: file with the preprocessing of a weights file; without it, recipe.toml beside the weights.
            runtime: what computes, one of the server's runtimes; ``auto`` takes the fastest one that is installed.
            precision: the number format in which the network computes; ``auto`` takes bfloat16 where that keeps the
                answers, or int8 where it is installed, the model brings pictures and it is also faster, else float32.
            settings: more settings of the server, by their names: ``options``, ``golden``, ``calibration``,
                ``conversion_seconds``, ``max_batch_size``, ``compute_streams``, ``max_image_bytes``,
                ``max_image_pixels``, ``max_jpeg_pixels``, ``jpeg_reducing_gap``, ``decode_threads``, ``decode_in``
                (``processes`` isolates decoding in processes with limits of memory and time; without it no image is
                decoded outside of this process),
                ``decode_memory_bytes``, ``decode_seconds``, ``stuck_seconds``.

        Raises:
            glimpse.server.processes.startup.StartupError: the model cannot be loaded; the message says why and what to
                do.
            ValueError, TypeError: an argument is invalid.
        """
        given = {
            **settings,
            "weights": os.fspath(source),
            "model": model,
            "variant": variant,
            "labels": labels,
            "recipe": recipe,
            "runtime": runtime,
            "precision": precision,
        }
        try:
            return cls(settings_of(given, _GEOMETRIES))
        except StartupError as error:
            if named := _VARIABLE.search(str(error)):
                error.add_note(f"Here, {named[0]} is an argument: Classifier.load({named[1].lower()}=...).")
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being classified, and let go of the model. May be called more than once."""
        self._dropped.detach()
        self._pipeline.close()

    @overload
    def classify(self, image: list[ImageInput], **options: Unpack[ImageOptions]) -> list[ImageResult]: ...

    @overload
    def classify(self, image: ImageInput, **options: Unpack[ImageOptions]) -> ImageResult: ...

    def classify(
        self, image: ImageInput | list[ImageInput], **options: Unpack[ImageOptions]
    ) -> ImageResult | list[ImageResult]:
        """Classify one image, or a list of images in batches.

        Args:
            image: the path of an image file, or its bytes; or pixels as a NumPy array of uint8 ``[height, width, 3]``
                in the order red, green, blue, or grey ``[height, width]``; or a Pillow image, of which the pixels are
                taken that a viewer would show (upright, transparency on white). Or a list of these.
            options: what to return of each image, all optional, such as ``top_k=3``:
                `glimpse.client.options.ImageOptions` describes each. They are those of `Client.classify`.

        Returns:
            The result of the image, which never has an `error`; or one result for each image of a list, in the same
            order, with an `error` where a file cannot be read or an image cannot be classified.

        Raises:
            ImageRefusedError: the image, if it is a single one, cannot be classified.
            OSError: the file of a single image cannot be read.
            InvalidRequestError: an option is out of range.
            GlimpseError: anything else; `glimpse.client.errors` shows the tree of errors.
            TypeError, ValueError: it is no image of any kind, or there is no such option.
        """
        request = to_request(options)
        if isinstance(image, list):
            return list(_results(self._run(((None, each) for each in image), request, None)))
        future = self._pipeline.submit(request(to_image(image, self._limits)))
        return to_result(self._pipeline.wait(future)).raise_for_error()

    def classify_all(
        self, images: Iterable[ImageInput], *, in_flight: int | None = None, **options: Unpack[ImageOptions]
    ) -> Iterator[ImageResult]:
        """Classify any number of images in batches, as you iterate over the results.

        Images are taken from the iterable in your thread, and only as far ahead as `in_flight` allows, so that memory
        stays bounded however many there are. Files are read in threads.

            for result in classifier.classify_all(Path("photos").rglob("*.jpg")): ...

        Args:
            images: images as `classify` takes them.
            in_flight: how many images may be taken and not yet be yielded, at least 1; without it, as many as keep all
                cores busy.
            options: as for `classify`, for all images.

        Yields:
            One result for each image, in the same order, with an `error` where a file cannot be read or an image cannot
            be classified.

        Raises:
            InvalidRequestError: an option is out of range.
            GlimpseError, TypeError, ValueError: as for `classify`.
            Whatever `images` itself raises.
        """
        return _results(self._run(((None, image) for image in images), to_request(options), in_flight))

    def classify_many(
        self, images: Iterable[tuple[K, ImageInput]], *, in_flight: int | None = None, **options: Unpack[ImageOptions]
    ) -> Iterator[tuple[K, ImageResult]]:
        """The same as `classify_all` for pairs of a key of your own and an image, as `Client.classify_many` takes them.

            for path, result in classifier.classify_many((path, path) for path in Path("photos").rglob("*.jpg")): ...

        Yields:
            Your key and its result, in the order of `images`.

        Raises:
            GlimpseError, TypeError, ValueError: as for `classify_all`.
        """
        return self._run(images, to_request(options), in_flight)

    def describe(self) -> ModelDescription:
        """Describe the model: its classes, network, preprocessing, runtime and limits, as `Client.describe` does."""
        from glimpse.client import messages
        from glimpse.server.messages.describe import describe, limits

        return messages.from_description(describe(self._pipeline.model, limits(self._settings)))

    def _run(
        self,
        images: Iterable[tuple[K, ImageInput]],
        request: Callable[[Image], ClassifyRequest],
        in_flight: int | None,
    ) -> Generator[tuple[K, ImageResult], None, None]:
        if in_flight is None:
            in_flight = _AHEAD * self._pipeline.model.batch_sizes[-1] * (cores.available() + 1)
        return Bulk(self._pipeline, self._limits, request, in_flight).run(images)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A Classifier cannot be pickled: its model belongs to this process. Call Classifier.load() in each process "
            "that classifies, with the same arguments."
        )


def _results(pairs: Generator[tuple[K, ImageResult], None, None]) -> Iterator[ImageResult]:
    with contextlib.closing(pairs):
        for _, result in pairs:
            yield result


def _close_beside(pipeline: PipelineThread) -> None:
    threading.Thread(target=pipeline.close, name="glimpse-classifier-close", daemon=True).start()
