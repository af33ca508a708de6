from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EmbeddingType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMBEDDING_TYPE_UNSPECIFIED: _ClassVar[EmbeddingType]
    EMBEDDING_TYPE_FLOAT32: _ClassVar[EmbeddingType]
    EMBEDDING_TYPE_FLOAT16: _ClassVar[EmbeddingType]

class ModelState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODEL_STATE_UNSPECIFIED: _ClassVar[ModelState]
    MODEL_STATE_WAITING: _ClassVar[ModelState]
    MODEL_STATE_LOADING: _ClassVar[ModelState]
    MODEL_STATE_WARMING: _ClassVar[ModelState]
    MODEL_STATE_READY: _ClassVar[ModelState]
    MODEL_STATE_RETIRING: _ClassVar[ModelState]
    MODEL_STATE_UNLOADED: _ClassVar[ModelState]
    MODEL_STATE_FAILED: _ClassVar[ModelState]
    MODEL_STATE_SLEEPING: _ClassVar[ModelState]

class RolloutKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ROLLOUT_KIND_UNSPECIFIED: _ClassVar[RolloutKind]
    ROLLOUT_KIND_CANARY: _ClassVar[RolloutKind]
    ROLLOUT_KIND_SHADOW: _ClassVar[RolloutKind]

class FeedbackOutcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FEEDBACK_OUTCOME_UNSPECIFIED: _ClassVar[FeedbackOutcome]
    FEEDBACK_OUTCOME_FIRST: _ClassVar[FeedbackOutcome]
    FEEDBACK_OUTCOME_AMONG_FIVE: _ClassVar[FeedbackOutcome]
    FEEDBACK_OUTCOME_OTHER: _ClassVar[FeedbackOutcome]
    FEEDBACK_OUTCOME_UNKNOWN_REQUEST: _ClassVar[FeedbackOutcome]
    FEEDBACK_OUTCOME_UNKNOWN_CLASS: _ClassVar[FeedbackOutcome]
    FEEDBACK_OUTCOME_REPEATED: _ClassVar[FeedbackOutcome]
EMBEDDING_TYPE_UNSPECIFIED: EmbeddingType
EMBEDDING_TYPE_FLOAT32: EmbeddingType
EMBEDDING_TYPE_FLOAT16: EmbeddingType
MODEL_STATE_UNSPECIFIED: ModelState
MODEL_STATE_WAITING: ModelState
MODEL_STATE_LOADING: ModelState
MODEL_STATE_WARMING: ModelState
MODEL_STATE_READY: ModelState
MODEL_STATE_RETIRING: ModelState
MODEL_STATE_UNLOADED: ModelState
MODEL_STATE_FAILED: ModelState
MODEL_STATE_SLEEPING: ModelState
ROLLOUT_KIND_UNSPECIFIED: RolloutKind
ROLLOUT_KIND_CANARY: RolloutKind
ROLLOUT_KIND_SHADOW: RolloutKind
FEEDBACK_OUTCOME_UNSPECIFIED: FeedbackOutcome
FEEDBACK_OUTCOME_FIRST: FeedbackOutcome
FEEDBACK_OUTCOME_AMONG_FIVE: FeedbackOutcome
FEEDBACK_OUTCOME_OTHER: FeedbackOutcome
FEEDBACK_OUTCOME_UNKNOWN_REQUEST: FeedbackOutcome
FEEDBACK_OUTCOME_UNKNOWN_CLASS: FeedbackOutcome
FEEDBACK_OUTCOME_REPEATED: FeedbackOutcome

class ModelSelector(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("encoded", "raw")
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    encoded: bytes
    raw: RawPixels
    def __init__(self, encoded: _Optional[bytes] = ..., raw: _Optional[_Union[RawPixels, _Mapping]] = ...) -> None: ...

class RawPixels(_message.Message):
    __slots__ = ("height", "width", "data", "channels")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    data: bytes
    channels: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., data: _Optional[bytes] = ..., channels: _Optional[int] = ...) -> None: ...

class ClassifyOptions(_message.Message):
    __slots__ = ("top_k", "min_probability", "geometry", "outputs", "embedding_type", "classes", "roll_up", "novelty", "require_known", "explain", "explain_class")
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    GEOMETRY_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_TYPE_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    ROLL_UP_FIELD_NUMBER: _ClassVar[int]
    NOVELTY_FIELD_NUMBER: _ClassVar[int]
    REQUIRE_KNOWN_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_CLASS_FIELD_NUMBER: _ClassVar[int]
    top_k: int
    min_probability: float
    geometry: str
    outputs: _containers.RepeatedScalarFieldContainer[str]
    embedding_type: EmbeddingType
    classes: ClassChoice
    roll_up: float
    novelty: bool
    require_known: bool
    explain: str
    explain_class: str
    def __init__(self, top_k: _Optional[int] = ..., min_probability: _Optional[float] = ..., geometry: _Optional[str] = ..., outputs: _Optional[_Iterable[str]] = ..., embedding_type: _Optional[_Union[EmbeddingType, str]] = ..., classes: _Optional[_Union[ClassChoice, _Mapping]] = ..., roll_up: _Optional[float] = ..., novelty: bool = ..., require_known: bool = ..., explain: _Optional[str] = ..., explain_class: _Optional[str] = ...) -> None: ...

class ClassChoice(_message.Message):
    __slots__ = ("allow", "deny")
    ALLOW_FIELD_NUMBER: _ClassVar[int]
    DENY_FIELD_NUMBER: _ClassVar[int]
    allow: _containers.RepeatedScalarFieldContainer[str]
    deny: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, allow: _Optional[_Iterable[str]] = ..., deny: _Optional[_Iterable[str]] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("model", "images", "options")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    model: ModelSelector
    images: _containers.RepeatedCompositeFieldContainer[Image]
    options: ClassifyOptions
    def __init__(self, model: _Optional[_Union[ModelSelector, _Mapping]] = ..., images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ..., options: _Optional[_Union[ClassifyOptions, _Mapping]] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("model", "results", "request_id")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    model: ModelIdentity
    results: _containers.RepeatedCompositeFieldContainer[ImageResult]
    request_id: str
    def __init__(self, model: _Optional[_Union[ModelIdentity, _Mapping]] = ..., results: _Optional[_Iterable[_Union[ImageResult, _Mapping]]] = ..., request_id: _Optional[str] = ...) -> None: ...

class ModelIdentity(_message.Message):
    __slots__ = ("name", "version", "weights_digest")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    weights_digest: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., weights_digest: _Optional[str] = ...) -> None: ...

class ImageResult(_message.Message):
    __slots__ = ("predictions", "error", "timing", "logits", "embedding", "embedding_float16", "probability_outside", "novelty", "explanation")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FIELD_NUMBER: _ClassVar[int]
    EMBEDDING_FLOAT16_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_OUTSIDE_FIELD_NUMBER: _ClassVar[int]
    NOVELTY_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    error: ImageError
    timing: Timing
    logits: _containers.RepeatedScalarFieldContainer[float]
    embedding: _containers.RepeatedScalarFieldContainer[float]
    embedding_float16: bytes
    probability_outside: float
    novelty: Novelty
    explanation: Explanation
    def __init__(self, predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., error: _Optional[_Union[ImageError, _Mapping]] = ..., timing: _Optional[_Union[Timing, _Mapping]] = ..., logits: _Optional[_Iterable[float]] = ..., embedding: _Optional[_Iterable[float]] = ..., embedding_float16: _Optional[bytes] = ..., probability_outside: _Optional[float] = ..., novelty: _Optional[_Union[Novelty, _Mapping]] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("index", "label", "class_id", "method", "rows", "columns", "values", "lowest", "highest", "area")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    LOWEST_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_FIELD_NUMBER: _ClassVar[int]
    AREA_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    class_id: str
    method: str
    rows: int
    columns: int
    values: bytes
    lowest: float
    highest: float
    area: PhotoArea
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., class_id: _Optional[str] = ..., method: _Optional[str] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ..., values: _Optional[bytes] = ..., lowest: _Optional[float] = ..., highest: _Optional[float] = ..., area: _Optional[_Union[PhotoArea, _Mapping]] = ...) -> None: ...

class PhotoArea(_message.Message):
    __slots__ = ("left", "top", "right", "bottom")
    LEFT_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    RIGHT_FIELD_NUMBER: _ClassVar[int]
    BOTTOM_FIELD_NUMBER: _ClassVar[int]
    left: float
    top: float
    right: float
    bottom: float
    def __init__(self, left: _Optional[float] = ..., top: _Optional[float] = ..., right: _Optional[float] = ..., bottom: _Optional[float] = ...) -> None: ...

class Novelty(_message.Message):
    __slots__ = ("score", "threshold", "known")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    score: float
    threshold: float
    known: bool
    def __init__(self, score: _Optional[float] = ..., threshold: _Optional[float] = ..., known: bool = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("index", "label", "class_id", "probability", "is_group", "over_threshold")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    IS_GROUP_FIELD_NUMBER: _ClassVar[int]
    OVER_THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    class_id: str
    probability: float
    is_group: bool
    over_threshold: bool
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., class_id: _Optional[str] = ..., probability: _Optional[float] = ..., is_group: bool = ..., over_threshold: bool = ...) -> None: ...

class ImageError(_message.Message):
    __slots__ = ("code", "reason", "message")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Timing(_message.Message):
    __slots__ = ("decode_seconds", "pre_stem_seconds", "queue_seconds", "compute_seconds", "batch_size", "decode_wait_seconds", "receive_seconds", "admission_seconds", "reply_seconds")
    DECODE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    PRE_STEM_SECONDS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    DECODE_WAIT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    RECEIVE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    ADMISSION_SECONDS_FIELD_NUMBER: _ClassVar[int]
    REPLY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    decode_seconds: float
    pre_stem_seconds: float
    queue_seconds: float
    compute_seconds: float
    batch_size: int
    decode_wait_seconds: float
    receive_seconds: float
    admission_seconds: float
    reply_seconds: float
    def __init__(self, decode_seconds: _Optional[float] = ..., pre_stem_seconds: _Optional[float] = ..., queue_seconds: _Optional[float] = ..., compute_seconds: _Optional[float] = ..., batch_size: _Optional[int] = ..., decode_wait_seconds: _Optional[float] = ..., receive_seconds: _Optional[float] = ..., admission_seconds: _Optional[float] = ..., reply_seconds: _Optional[float] = ...) -> None: ...

class ClassifyStreamRequest(_message.Message):
    __slots__ = ("id", "request")
    ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    id: str
    request: ClassifyRequest
    def __init__(self, id: _Optional[str] = ..., request: _Optional[_Union[ClassifyRequest, _Mapping]] = ...) -> None: ...

class ClassifyStreamResponse(_message.Message):
    __slots__ = ("id", "response", "error")
    ID_FIELD_NUMBER: _ClassVar[int]
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    id: str
    response: ClassifyResponse
    error: RequestError
    def __init__(self, id: _Optional[str] = ..., response: _Optional[_Union[ClassifyResponse, _Mapping]] = ..., error: _Optional[_Union[RequestError, _Mapping]] = ...) -> None: ...

class RequestError(_message.Message):
    __slots__ = ("code", "reason", "message", "retry_after_seconds")
    CODE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RETRY_AFTER_SECONDS_FIELD_NUMBER: _ClassVar[int]
    code: int
    reason: str
    message: str
    retry_after_seconds: float
    def __init__(self, code: _Optional[int] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ..., retry_after_seconds: _Optional[float] = ...) -> None: ...

class DescribeModelRequest(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: ModelSelector
    def __init__(self, model: _Optional[_Union[ModelSelector, _Mapping]] = ...) -> None: ...

class DescribeModelResponse(_message.Message):
    __slots__ = ("model", "architecture", "variant", "paper", "input", "classes", "parameters", "trainable_parameters", "stages", "pre_stem", "temperature", "runtime", "limits", "output", "options", "outputs", "groups", "novelty", "head", "explanations")
    class OptionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    PAPER_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TRAINABLE_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    STAGES_FIELD_NUMBER: _ClassVar[int]
    PRE_STEM_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    NOVELTY_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    model: ModelIdentity
    architecture: str
    variant: str
    paper: str
    input: InputShape
    classes: _containers.RepeatedCompositeFieldContainer[ClassLabel]
    parameters: int
    trainable_parameters: int
    stages: _containers.RepeatedCompositeFieldContainer[Stage]
    pre_stem: PreStem
    temperature: float
    runtime: Runtime
    limits: Limits
    output: str
    options: _containers.ScalarMap[str, str]
    outputs: _containers.RepeatedCompositeFieldContainer[OutputDescription]
    groups: _containers.RepeatedCompositeFieldContainer[ClassGroup]
    novelty: NoveltyThreshold
    head: Head
    explanations: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, model: _Optional[_Union[ModelIdentity, _Mapping]] = ..., architecture: _Optional[str] = ..., variant: _Optional[str] = ..., paper: _Optional[str] = ..., input: _Optional[_Union[InputShape, _Mapping]] = ..., classes: _Optional[_Iterable[_Union[ClassLabel, _Mapping]]] = ..., parameters: _Optional[int] = ..., trainable_parameters: _Optional[int] = ..., stages: _Optional[_Iterable[_Union[Stage, _Mapping]]] = ..., pre_stem: _Optional[_Union[PreStem, _Mapping]] = ..., temperature: _Optional[float] = ..., runtime: _Optional[_Union[Runtime, _Mapping]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., output: _Optional[str] = ..., options: _Optional[_Mapping[str, str]] = ..., outputs: _Optional[_Iterable[_Union[OutputDescription, _Mapping]]] = ..., groups: _Optional[_Iterable[_Union[ClassGroup, _Mapping]]] = ..., novelty: _Optional[_Union[NoveltyThreshold, _Mapping]] = ..., head: _Optional[_Union[Head, _Mapping]] = ..., explanations: _Optional[_Iterable[str]] = ...) -> None: ...

class Head(_message.Message):
    __slots__ = ("kind", "thresholds", "temperatures", "offsets")
    KIND_FIELD_NUMBER: _ClassVar[int]
    THRESHOLDS_FIELD_NUMBER: _ClassVar[int]
    TEMPERATURES_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    kind: str
    thresholds: _containers.RepeatedScalarFieldContainer[float]
    temperatures: _containers.RepeatedScalarFieldContainer[float]
    offsets: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, kind: _Optional[str] = ..., thresholds: _Optional[_Iterable[float]] = ..., temperatures: _Optional[_Iterable[float]] = ..., offsets: _Optional[_Iterable[float]] = ...) -> None: ...

class OutputDescription(_message.Message):
    __slots__ = ("name", "size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class ClassGroup(_message.Message):
    __slots__ = ("name", "classes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    name: str
    classes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., classes: _Optional[_Iterable[int]] = ...) -> None: ...

class NoveltyThreshold(_message.Message):
    __slots__ = ("score", "threshold", "known_share", "images")
    SCORE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    KNOWN_SHARE_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    score: str
    threshold: float
    known_share: float
    images: int
    def __init__(self, score: _Optional[str] = ..., threshold: _Optional[float] = ..., known_share: _Optional[float] = ..., images: _Optional[int] = ...) -> None: ...

class InputShape(_message.Message):
    __slots__ = ("height", "width", "channels")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    channels: int
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., channels: _Optional[int] = ...) -> None: ...

class ClassLabel(_message.Message):
    __slots__ = ("index", "label", "class_id", "synonyms")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    SYNONYMS_FIELD_NUMBER: _ClassVar[int]
    index: int
    label: str
    class_id: str
    synonyms: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, index: _Optional[int] = ..., label: _Optional[str] = ..., class_id: _Optional[str] = ..., synonyms: _Optional[_Iterable[str]] = ...) -> None: ...

class Stage(_message.Message):
    __slots__ = ("name", "block", "repeats", "output_shape", "parameters", "multiply_adds")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    REPEATS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_SHAPE_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    MULTIPLY_ADDS_FIELD_NUMBER: _ClassVar[int]
    name: str
    block: str
    repeats: int
    output_shape: _containers.RepeatedScalarFieldContainer[int]
    parameters: int
    multiply_adds: int
    def __init__(self, name: _Optional[str] = ..., block: _Optional[str] = ..., repeats: _Optional[int] = ..., output_shape: _Optional[_Iterable[int]] = ..., parameters: _Optional[int] = ..., multiply_adds: _Optional[int] = ...) -> None: ...

class PreStem(_message.Message):
    __slots__ = ("height", "width", "geometry", "crop_share", "filter", "fill", "mean", "std", "digest", "channels", "smaller", "antialias", "padding")
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    GEOMETRY_FIELD_NUMBER: _ClassVar[int]
    CROP_SHARE_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    FILL_FIELD_NUMBER: _ClassVar[int]
    MEAN_FIELD_NUMBER: _ClassVar[int]
    STD_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    SMALLER_FIELD_NUMBER: _ClassVar[int]
    ANTIALIAS_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    height: int
    width: int
    geometry: str
    crop_share: float
    filter: str
    fill: _containers.RepeatedScalarFieldContainer[int]
    mean: _containers.RepeatedScalarFieldContainer[float]
    std: _containers.RepeatedScalarFieldContainer[float]
    digest: str
    channels: str
    smaller: str
    antialias: bool
    padding: str
    def __init__(self, height: _Optional[int] = ..., width: _Optional[int] = ..., geometry: _Optional[str] = ..., crop_share: _Optional[float] = ..., filter: _Optional[str] = ..., fill: _Optional[_Iterable[int]] = ..., mean: _Optional[_Iterable[float]] = ..., std: _Optional[_Iterable[float]] = ..., digest: _Optional[str] = ..., channels: _Optional[str] = ..., smaller: _Optional[str] = ..., antialias: bool = ..., padding: _Optional[str] = ...) -> None: ...

class Runtime(_message.Message):
    __slots__ = ("name", "device", "precision", "batch_sizes", "agreement")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZES_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    name: str
    device: str
    precision: str
    batch_sizes: _containers.RepeatedScalarFieldContainer[int]
    agreement: Agreement
    def __init__(self, name: _Optional[str] = ..., device: _Optional[str] = ..., precision: _Optional[str] = ..., batch_sizes: _Optional[_Iterable[int]] = ..., agreement: _Optional[_Union[Agreement, _Mapping]] = ...) -> None: ...

class Agreement(_message.Message):
    __slots__ = ("precision", "top1", "pictures", "unclear", "speed", "faster_than", "labelled", "lost")
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    TOP1_FIELD_NUMBER: _ClassVar[int]
    PICTURES_FIELD_NUMBER: _ClassVar[int]
    UNCLEAR_FIELD_NUMBER: _ClassVar[int]
    SPEED_FIELD_NUMBER: _ClassVar[int]
    FASTER_THAN_FIELD_NUMBER: _ClassVar[int]
    LABELLED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    precision: str
    top1: float
    pictures: int
    unclear: int
    speed: float
    faster_than: str
    labelled: int
    lost: int
    def __init__(self, precision: _Optional[str] = ..., top1: _Optional[float] = ..., pictures: _Optional[int] = ..., unclear: _Optional[int] = ..., speed: _Optional[float] = ..., faster_than: _Optional[str] = ..., labelled: _Optional[int] = ..., lost: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_images_per_request", "max_image_bytes", "max_image_pixels", "max_message_bytes", "max_images_in_flight", "formats", "max_jpeg_pixels", "jpeg_reducing_gap", "geometries", "max_bytes_in_flight")
    MAX_IMAGES_PER_REQUEST_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    FORMATS_FIELD_NUMBER: _ClassVar[int]
    MAX_JPEG_PIXELS_FIELD_NUMBER: _ClassVar[int]
    JPEG_REDUCING_GAP_FIELD_NUMBER: _ClassVar[int]
    GEOMETRIES_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    max_images_per_request: int
    max_image_bytes: int
    max_image_pixels: int
    max_message_bytes: int
    max_images_in_flight: int
    formats: _containers.RepeatedScalarFieldContainer[str]
    max_jpeg_pixels: int
    jpeg_reducing_gap: float
    geometries: _containers.RepeatedScalarFieldContainer[str]
    max_bytes_in_flight: int
    def __init__(self, max_images_per_request: _Optional[int] = ..., max_image_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., max_message_bytes: _Optional[int] = ..., max_images_in_flight: _Optional[int] = ..., formats: _Optional[_Iterable[str]] = ..., max_jpeg_pixels: _Optional[int] = ..., jpeg_reducing_gap: _Optional[float] = ..., geometries: _Optional[_Iterable[str]] = ..., max_bytes_in_flight: _Optional[int] = ...) -> None: ...

class ModelStatus(_message.Message):
    __slots__ = ("name", "version", "state", "reason", "aliases", "weights_digest", "runtime", "answers_by_default")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_BY_DEFAULT_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    state: ModelState
    reason: str
    aliases: _containers.RepeatedScalarFieldContainer[str]
    weights_digest: str
    runtime: Runtime
    answers_by_default: bool
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., state: _Optional[_Union[ModelState, str]] = ..., reason: _Optional[str] = ..., aliases: _Optional[_Iterable[str]] = ..., weights_digest: _Optional[str] = ..., runtime: _Optional[_Union[Runtime, _Mapping]] = ..., answers_by_default: bool = ...) -> None: ...

class ModelRepositoryListRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelRepositoryListResponse(_message.Message):
    __slots__ = ("models", "default_model", "rollouts")
    MODELS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_MODEL_FIELD_NUMBER: _ClassVar[int]
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[ModelStatus]
    default_model: str
    rollouts: _containers.RepeatedCompositeFieldContainer[ModelRollout]
    def __init__(self, models: _Optional[_Iterable[_Union[ModelStatus, _Mapping]]] = ..., default_model: _Optional[str] = ..., rollouts: _Optional[_Iterable[_Union[ModelRollout, _Mapping]]] = ...) -> None: ...

class ModelRepositoryLoadRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ModelRepositoryLoadResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: ModelStatus
    def __init__(self, model: _Optional[_Union[ModelStatus, _Mapping]] = ...) -> None: ...

class ModelRepositoryUnloadRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ModelRepositoryUnloadResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ModelRepositorySetAliasRequest(_message.Message):
    __slots__ = ("name", "alias", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    alias: str
    version: str
    def __init__(self, name: _Optional[str] = ..., alias: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class ModelRepositorySetAliasResponse(_message.Message):
    __slots__ = ("kept",)
    KEPT_FIELD_NUMBER: _ClassVar[int]
    kept: bool
    def __init__(self, kept: bool = ...) -> None: ...

class RolloutTerms(_message.Message):
    __slots__ = ("version", "share", "max_error_rate", "min_agreement", "min_requests", "window_seconds")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    MIN_AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    MIN_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    WINDOW_SECONDS_FIELD_NUMBER: _ClassVar[int]
    version: str
    share: float
    max_error_rate: float
    min_agreement: float
    min_requests: int
    window_seconds: float
    def __init__(self, version: _Optional[str] = ..., share: _Optional[float] = ..., max_error_rate: _Optional[float] = ..., min_agreement: _Optional[float] = ..., min_requests: _Optional[int] = ..., window_seconds: _Optional[float] = ...) -> None: ...

class RolloutCounts(_message.Message):
    __slots__ = ("version", "answered", "failed", "mean_seconds")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    MEAN_SECONDS_FIELD_NUMBER: _ClassVar[int]
    version: str
    answered: int
    failed: int
    mean_seconds: float
    def __init__(self, version: _Optional[str] = ..., answered: _Optional[int] = ..., failed: _Optional[int] = ..., mean_seconds: _Optional[float] = ...) -> None: ...

class ModelRollout(_message.Message):
    __slots__ = ("name", "kind", "terms", "rolled_back", "new", "usual", "compared_images", "agreement", "mean_probability_difference", "dropped_images")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    ROLLED_BACK_FIELD_NUMBER: _ClassVar[int]
    NEW_FIELD_NUMBER: _ClassVar[int]
    USUAL_FIELD_NUMBER: _ClassVar[int]
    COMPARED_IMAGES_FIELD_NUMBER: _ClassVar[int]
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    MEAN_PROBABILITY_DIFFERENCE_FIELD_NUMBER: _ClassVar[int]
    DROPPED_IMAGES_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: RolloutKind
    terms: RolloutTerms
    rolled_back: str
    new: RolloutCounts
    usual: RolloutCounts
    compared_images: int
    agreement: float
    mean_probability_difference: float
    dropped_images: int
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[RolloutKind, str]] = ..., terms: _Optional[_Union[RolloutTerms, _Mapping]] = ..., rolled_back: _Optional[str] = ..., new: _Optional[_Union[RolloutCounts, _Mapping]] = ..., usual: _Optional[_Union[RolloutCounts, _Mapping]] = ..., compared_images: _Optional[int] = ..., agreement: _Optional[float] = ..., mean_probability_difference: _Optional[float] = ..., dropped_images: _Optional[int] = ...) -> None: ...

class ModelRepositorySetRolloutRequest(_message.Message):
    __slots__ = ("name", "kind", "terms")
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    name: str
    kind: RolloutKind
    terms: RolloutTerms
    def __init__(self, name: _Optional[str] = ..., kind: _Optional[_Union[RolloutKind, str]] = ..., terms: _Optional[_Union[RolloutTerms, _Mapping]] = ...) -> None: ...

class ModelRepositorySetRolloutResponse(_message.Message):
    __slots__ = ("kept",)
    KEPT_FIELD_NUMBER: _ClassVar[int]
    kept: bool
    def __init__(self, kept: bool = ...) -> None: ...

class ModelRepositoryRollBackRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class ModelRepositoryRollBackResponse(_message.Message):
    __slots__ = ("version", "kept")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KEPT_FIELD_NUMBER: _ClassVar[int]
    version: str
    kept: bool
    def __init__(self, version: _Optional[str] = ..., kept: bool = ...) -> None: ...

class TrueClass(_message.Message):
    __slots__ = ("request_id", "image", "true_class", "new_class")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    TRUE_CLASS_FIELD_NUMBER: _ClassVar[int]
    NEW_CLASS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    image: int
    true_class: str
    new_class: bool
    def __init__(self, request_id: _Optional[str] = ..., image: _Optional[int] = ..., true_class: _Optional[str] = ..., new_class: bool = ...) -> None: ...

class FeedbackRequest(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[TrueClass]
    def __init__(self, images: _Optional[_Iterable[_Union[TrueClass, _Mapping]]] = ...) -> None: ...

class FeedbackResult(_message.Message):
    __slots__ = ("outcome", "sampled")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    SAMPLED_FIELD_NUMBER: _ClassVar[int]
    outcome: FeedbackOutcome
    sampled: bool
    def __init__(self, outcome: _Optional[_Union[FeedbackOutcome, str]] = ..., sampled: bool = ...) -> None: ...

class FeedbackResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[FeedbackResult]
    def __init__(self, results: _Optional[_Iterable[_Union[FeedbackResult, _Mapping]]] = ...) -> None: ...
