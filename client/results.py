"""Results as plain, immutable values. Nothing here loads gRPC: `client.messages` makes them from protobuf messages."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glimpse.client.errors import Code, ImageRefusedError


@dataclass(frozen=True, slots=True)
class Prediction:
    """One class and its probability."""

    index: int  # position of the class in the network's output
    label: str  # for people, for example "cat"
    probability: float  # calibrated, 0..1; all classes of an image that may answer add up to 1, unless multi-label
    class_id: str = ""  # stable id where the data set has one, for example WordNet's "n02123045"
    is_group: bool = False  # a group of classes, by its name; the index is that of its most probable class
    # Of a multi-label model: whether the probability is at least the label's own threshold; else None.
    over_threshold: bool | None = None


@dataclass(frozen=True, slots=True)
class ImageError:
    """Why one image could not be classified."""

    code: Code
    reason: str  # for programs: one of the table in classifier.proto, or of the client's own, such as FILE_NOT_FOUND
    message: str  # for people


@dataclass(frozen=True, slots=True)
class Timing:
    """How long each stage of an image took on the server, in seconds; stages that it did not reach are 0.

    The order of the stages is receive, admission, decode wait, decode, pre-stem, queue, compute, reply. They follow one
    another without a gap, so `total_seconds` is what the server took for the call. An older server reports only four.
    """

    decode_seconds: float  # from bytes to pixels
    pre_stem_seconds: float  # from pixels to the network's input size
    queue_seconds: float  # waiting for the device
    compute_seconds: float  # in the network, together with its batch
    batch_size: int  # images in that batch, this one included
    decode_wait_seconds: float = 0.0  # waiting for a decoder
    receive_seconds: float = 0.0  # from the beginning of the call until its message was there; 0 on a stream
    admission_seconds: float = 0.0  # waiting for admission: access, rate and room
    reply_seconds: float = 0.0  # from the image's answer until the reply was put together

    @property
    def total_seconds(self) -> float:
        """All stages together."""
        before = self.receive_seconds + self.admission_seconds + self.decode_wait_seconds
        work = self.decode_seconds + self.pre_stem_seconds + self.queue_seconds + self.compute_seconds
        return before + work + self.reply_seconds


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The model that answered."""

    name: str
    version: str
    weights_digest: str  # "sha256:" and the hash of the weights file


@dataclass(frozen=True, slots=True)
class Novelty:
    """Whether an image shows any of the model's classes."""

    score: float  # how unlike the classes the image is; scores of different models cannot be compared
    threshold: float  # above which an image is unknown
    known: bool  # the score is at most the threshold


@dataclass(frozen=True, slots=True)
class PhotoArea:
    """A rectangle in a photo as a viewer shows it, in shares of its width and height; outside of 0..1 is padding."""

    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where in an image the score of a class comes from: a grid over the network's input."""

    index: int  # of the class
    label: str
    class_id: str
    method: str  # "cam" or "occlusion"
    rows: int
    columns: int
    values: bytes  # rows x columns, row by row from the top left: 0 stands for the lowest number, 255 for the highest
    lowest: float  # in units of the logit: see `Explanation` in classifier.proto
    highest: float
    area: PhotoArea  # what the grid covers of the photo


@dataclass(frozen=True, slots=True)
class ImageResult:
    """The result of one image: predictions, or an error."""

    predictions: tuple[Prediction, ...]  # the most probable first; empty with an error or a high min_probability
    error: ImageError | None = None
    timing: Timing | None = None  # None where the image never reached the server
    model: ModelIdentity | None = None  # None likewise
    novelty: Novelty | None = None  # None where it was not asked for
    # What was asked for besides predictions: 32-bit floats, which NumPy takes without a copy (`np.asarray`); else None.
    logits: array[float] | None = field(default=None, hash=False)  # of all classes, in the order of their index
    embedding: array[float] | None = field(default=None, hash=False)  # the features in front of the last layer
    # Where only some classes may answer: what all others have together of the probability without that choice.
    probability_outside: float | None = None
    request_id: str = ""  # names the answer in `feedback`; empty where the server takes none
    explanation: Explanation | None = None  # None where it was not asked for, or the class has none

    @classmethod
    def failed(cls, code: Code, reason: str, message: str) -> ImageResult:
        """A result with an error and no predictions."""
        return cls((), ImageError(code, reason, message))

    def raise_for_error(self) -> ImageResult:
        """The result itself.

        Raises:
            ImageRefusedError: the image could not be classified.
        """
        if self.error is not None:
            raise ImageRefusedError(self.error.code, self.error.reason, self.error.message)
        return self


@dataclass(frozen=True, slots=True)
class InputShape:
    """Shape of the network's input for one image."""

    height: int
    width: int
    channels: int


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """One class of a model."""

    index: int
    label: str
    class_id: str = ""  # stable id where the data set has one, for example WordNet's "n02123045"
    synonyms: tuple[str, ...] = ()  # other names of the class


@dataclass(frozen=True, slots=True)
class ClassGroup:
    """A named group of classes."""

    name: str  # for example "dog"
    classes: tuple[int, ...]  # indices of its classes, rising


@dataclass(frozen=True, slots=True)
class OutputDescription:
    """One output of a model."""

    name: str  # "probabilities", "logits" or "embedding"
    size: int  # numbers for one image


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the network: blocks of a kind that follow one another."""

    name: str  # "stem", "group1", ..., "classifier"
    block: str  # kind of block, for example "se_basic"
    repeats: int  # how many such blocks follow one another
    output_shape: tuple[int, ...]  # without the batch axis: (height, width, channels) or (classes,)
    parameters: int  # trainable and not
    multiply_adds: int  # of convolutions and dense layers, for one image


@dataclass(frozen=True, slots=True)
class PreStem:
    """The preprocessing that turns an image into the network's input."""

    height: int  # of the network's input, pixels
    width: int
    geometry: str  # "crop", "squash", "letterbox" or "pad"
    crop_share: float  # of the resized short side that the centre crop keeps
    filter: str  # "bilinear", ...
    fill: tuple[int, ...]  # RGB of padding; one number for a grey model
    mean: tuple[float, ...]  # subtracted from 0..255 values, in the order of `channels`
    std: tuple[float, ...]  # then divided by
    digest: str  # equal digests mean equal input for the network
    channels: str  # "RGB" or "BGR": the order in which the network sees them; or "GRAY": it sees one, the luma
    smaller: str  # what happens to an image smaller than the input: "pad" or "resize"
    antialias: bool  # whether reducing averages over all pixels
    padding: str = "fill"  # "fill": pixels of that value; "zero": 0 in the network's input, behind the scaling


@dataclass(frozen=True, slots=True)
class Agreement:
    """How a reduced precision compares with float32, on pictures that the server tried before it served."""

    precision: str  # the reduced one: "bfloat16"
    # Share of the pictures with the same most probable class, 0 to 1; of a multi-label model with the same labels over
    # their thresholds, without those that float32 puts within 0.1 of theirs.
    top1: float
    pictures: int  # that were compared
    unclear: int  # that were left out, because even in float32 two classes are nearly as probable


@dataclass(frozen=True, slots=True)
class Runtime:
    """How the model runs on the server."""

    name: str  # "tensorflow"
    device: str  # "cpu", "gpu:0"
    precision: str  # "float32"
    batch_sizes: tuple[int, ...]  # that are warm; a batch is padded up to the next one
    agreement: Agreement | None = None  # of the reduced precision that was considered; None: there was none


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server accepts."""

    max_images_per_request: int
    max_image_bytes: int  # of one encoded image
    max_image_pixels: int  # width x height of one image that has to be decoded whole
    max_message_bytes: int  # of one gRPC message
    max_images_in_flight: int  # in the whole server; above that requests are refused for the moment
    formats: tuple[str, ...]  # "JPEG", "PNG", ...
    max_jpeg_pixels: int  # width x height of a JPEG image that is decoded at a reduced scale
    jpeg_reducing_gap: float  # a JPEG is decoded no smaller than so many times its target; 0: always whole
    geometries: tuple[str, ...]  # that a request may ask for instead of the model's own
    max_bytes_in_flight: int  # of images in the whole server


@dataclass(frozen=True, slots=True)
class NoveltyThreshold:
    """When an image is unknown to a model."""

    # How it is computed: "energy", "max_logit", "max_probability", "entropy", "generalised_entropy",
    # "feature_distance" or "logistic".
    score: str
    threshold: float  # images with a higher score are unknown
    known_share: float  # of images of the model's classes, 0 to 1, that are below it
    images: int  # on which it was fitted


@dataclass(frozen=True, slots=True)
class Head:
    """What the scores of a network mean; the lists have a number a label where it is multi-label."""

    kind: str = "softmax"  # or "multi-label", or "binary": one score, of the second of two classes
    thresholds: tuple[float, ...] = ()  # probabilities from which on an image shows a label
    temperatures: tuple[float, ...] = ()  # by which a logit less its offset is divided before the sigmoid
    offsets: tuple[float, ...] = ()  # logits at which a label is as probable as not


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model as it is loaded."""

    model: ModelIdentity
    architecture: str  # of the block library, for example "se_resnet20"
    variant: str  # whose form of the architecture
    paper: str  # or specification behind it
    input: InputShape
    classes: tuple[ClassLabel, ...]  # in the order of their index
    parameters: int  # trainable and not; the stages add up to it
    trainable_parameters: int
    stages: tuple[Stage, ...]  # from the input to the logits
    pre_stem: PreStem
    temperature: float  # the logits are divided by it before the softmax; 1 is uncalibrated
    runtime: Runtime
    limits: Limits
    output: str = ""  # what is taken from the network: "logits", "probabilities" or "log-probabilities"; "": not told
    # Of the architecture, where they differ from the variant's: numbers, booleans, strings, lists or None.
    options: Mapping[str, Any] = field(default_factory=dict)
    novelty: NoveltyThreshold | None = None  # None: the model has no threshold, and novelty cannot be asked for
    outputs: tuple[OutputDescription, ...] = ()  # that `classify` may be asked for; an older server tells none
    groups: tuple[ClassGroup, ...] = ()  # by whose names classes may be allowed, denied or rolled up
    head: Head = field(default_factory=Head)  # what the scores mean; an older server tells none
    # How answers can be explained, what "auto" means first: "cam", "occlusion"; an older server tells none.
    explanations: tuple[str, ...] = ()

    @property
    def multiply_adds(self) -> int:
        """Of all stages, for one image."""
        return sum(stage.multiply_adds for stage in self.stages)
