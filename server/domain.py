"""A request and its answer as plain values, between the wire (servicer) and the work (pipeline).

What is made for each request or image is not frozen, though nobody changes it: a frozen value takes three times as long
to make.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from glimpse.models.drift import Bins
from glimpse.models.labels import ClassLabel
from glimpse.models.novelty.novelty import NoveltyThreshold
from glimpse.models.outputs import DEFAULT_OUTPUTS, Outputs
from glimpse.models.prestem.area import Area
from glimpse.server.errors import InvalidImageError
from glimpse.server.fair_queue import USUAL_PRIORITY, Lane

# Predictions of a request that are made, and written, without giving the event loop away: some 10 ms. A request of many
# images with all classes each would otherwise hold it for tenths of a second.
AT_ONCE: Final = 4096


@dataclass(slots=True)
class EncodedImage:
    """An image file as it is."""

    data: bytes


@dataclass(slots=True)
class RawImage:
    """Decoded pixels, RGB or grey, uint8, row by row from the top left."""

    height: int
    width: int
    data: bytes | memoryview  # the latter of a whole message, which it keeps in memory
    channels: int = 3  # 3 for RGB, 1 for grey


Image = EncodedImage | RawImage


def apart(image: Image) -> Image:
    """The same image for whoever keeps it beyond its request: it keeps no more in memory than its own bytes."""
    if isinstance(image, RawImage) and isinstance(image.data, memoryview):
        return RawImage(image.height, image.width, bytes(image.data), image.channels)
    return image


@dataclass(frozen=True, slots=True)
class ModelSelector:
    """Names a loaded model; empty strings mean the default model and its newest version."""

    name: str = ""
    version: str = ""


@dataclass(frozen=True, slots=True)
class ClassChoice:
    """Names of the classes that may answer, and of those that may not; see `models.class_names`."""

    allow: tuple[str, ...] = ()  # empty: all
    deny: tuple[str, ...] = ()


@dataclass(slots=True)
class Explain:
    """Why an answer is what it is: a map of where in the image the score of a class comes from."""

    method: str = "auto"  # or one of `server.answers.explanations.METHODS`
    class_name: str = ""  # the class, see `models.class_names`; "": the first that is answered


@dataclass(slots=True)
class ClassifyRequest:
    """Images to classify and what to return of each."""

    images: tuple[Image, ...]
    model: ModelSelector = field(default_factory=ModelSelector)
    top_k: int | None = None  # None: DEFAULT_TOP_K, or all classes where there are fewer
    min_probability: float = 0.0
    geometry: str = ""  # instead of the model's own; "": that
    outputs: frozenset[str] = DEFAULT_OUTPUTS  # of the model, by name; probabilities become predictions
    ranked: bool = True  # else probabilities stay as they are, of all classes
    priority: int = USUAL_PRIORITY  # among the caller's own requests
    timeout: float | None = None  # seconds from its beginning, besides the deadline of its call
    novelty: bool | None = None  # tell of each image whether it shows any of the classes; None: as the server's default
    require_known: bool = False  # no predictions of images that show none of them
    classes: ClassChoice | None = None  # which may answer; None: all
    roll_up: float = (
        0.0  # the probability from which on an answer is certain enough not to become a group; 0: none does
    )
    explain: Explain | None = None  # None: not asked for


@dataclass(slots=True)
class Caller:
    """Who asks, and until when the answer is of use."""

    lane: Lane  # requests of one lane wait for one another, not for other lanes
    deadline: float | None = None  # on the clock of `time.monotonic`; None: no deadline


@dataclass(slots=True)
class Prediction:
    """One class and its calibrated probability, or a group of classes and theirs together."""

    index: int  # of a group, that of its most probable class
    label: str
    class_id: str
    probability: float
    is_group: bool = False
    over_threshold: bool | None = None  # of a multi-label model: whether it is at least the label's own threshold


@dataclass(slots=True)
class Arrival:
    """When a request came, on the clock of `time.monotonic`."""

    begun: float  # the call; a request of a stream begins when its message is there
    complete: float  # when the message was there


@dataclass(slots=True)
class Timing:
    """Where an image's time went, filled in on the way; seconds.

    The stages follow one another without a gap: their sum is the time from the beginning of the call until its reply
    was put together.
    """

    receive: float = 0.0  # until the message was there
    admission: float = 0.0  # until the image was let in: reading the message, the rate, the permits
    decode_wait: float = 0.0  # for a decoder
    decode: float = 0.0
    pre_stem: float = 0.0
    queue: float = 0.0  # for the device
    compute: float = 0.0
    reply: float = 0.0  # from the image's answer on: for the other images of the request, and for the labels
    batch_size: int = 0
    begun: float = 0.0  # when the call began, on the clock of `time.monotonic`; 0: not known
    batch: int = 0  # number of the batch, of all that the process computes; 0: none

    def end(self, now: float) -> None:
        """The reply has been put together: what has passed since the image's answer is the last stage."""
        before = self.receive + self.admission + self.decode_wait + self.decode + self.pre_stem + self.queue
        self.reply = max(0.0, now - self.begun - before - self.compute)


class BatchReport(NamedTuple):
    """One batch that was computed, or failed."""

    size: int  # images
    padded_size: int  # rows that the device was given
    compute_seconds: float
    queue_seconds: tuple[float, ...]  # one an image
    ok: bool


@dataclass(frozen=True, slots=True)
class Novelty:
    """Whether an image shows any of the model's classes: its score is at most the threshold."""

    score: float
    threshold: float

    @property
    def known(self) -> bool:
        """Whether it does."""
        return self.score <= self.threshold


@dataclass(slots=True)
class Explanation:
    """Where in an image the score of a class comes from."""

    index: int  # of the class
    label: ClassLabel  # of it
    method: str  # one of `server.answers.explanations.METHODS`
    values: NDArray[np.uint8]  # [rows, columns], from the top left: 0 stands for the lowest value, 255 for the highest
    lowest: float
    highest: float
    area: Area  # what the grid covers of the photo as a viewer shows it


@dataclass(slots=True)
class ImageResult:
    """What became of one image: predictions by falling probability and what else was asked for, or the error."""

    timing: Timing
    predictions: tuple[Prediction, ...] = ()
    outputs: Outputs = field(default_factory=dict)  # that have not become predictions, each for this image: float32
    error: InvalidImageError | None = None
    novelty: Novelty | None = None  # None: not asked for
    outside: float | None = None  # probability of the classes that may not answer; None: all may
    explanation: Explanation | None = None  # None: not asked for, or there is none


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Exactly which model answered."""

    name: str
    version: str
    weights_digest: str


@dataclass(slots=True)
class Computed:
    """What the network gave for the images of a request, where the server itself looks at it."""

    outputs: tuple[Outputs | None, ...]  # probabilities of the classes that may answer; None: there is no answer
    novelty: NoveltyThreshold | None  # of the model; None: it has none
    thresholds: NDArray[np.float32] | None = None  # of the labels of a multi-label model; None: it is another one
    known: Bins | None = None  # scores of novelty of images of the classes; None: the model has no reference of drift


@dataclass(slots=True)
class Classification:
    """The answer: one result an image, in the order of the request."""

    model: ModelIdentity
    results: tuple[ImageResult, ...]
    labels: tuple[ClassLabel, ...] = ()  # of the model's classes, in the order of their index
    computed: Computed | None = None  # None: nobody looks at it
    request_id: str = ""  # by which feedback may name the answer; "": none is taken
