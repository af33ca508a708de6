"""What the server and its models say of themselves to clients of the Open Inference Protocol, as its messages."""

from __future__ import annotations

from glimpse.server import build
from glimpse.server.fair_queue import PRIORITIES, USUAL_PRIORITY
from glimpse.server.metrics.model_statistics import ModelCounts, Total
from glimpse.server.open_inference import faces
from glimpse.server.open_inference import open_inference_pb2 as pb
from glimpse.server.open_inference.faces import BYTES, FP32, UINT8, Face
from glimpse.server.open_inference.messages import TensorMetadata
from glimpse.server.registry import ModelState, ModelStatus
from glimpse.server.service import Service

# By the names that Triton gives them. perf_analyzer asks for statistics where they are among these.
EXTENSIONS = (
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
_TYPES = {BYTES: pb.TYPE_STRING, UINT8: pb.TYPE_UINT8, FP32: pb.TYPE_FP32}
_NANOSECONDS = 1e9
# What is loaded, is being loaded, is being unloaded, or none of these.
_STATES = {
    ModelState.READY: "READY",
    ModelState.SLEEPING: "READY",  # whoever asks it gets an answer
    ModelState.RETIRING: "UNLOADING",
    ModelState.WAITING: "LOADING",
    ModelState.LOADING: "LOADING",
    ModelState.WARMING: "LOADING",
}


def server() -> pb.ServerMetadataResponse:
    """The server."""
    return pb.ServerMetadataResponse(name="glimpse", version=build.VERSION, extensions=EXTENSIONS)


def metadata(face: Face, service: Service) -> pb.ModelMetadataResponse:
    """The tensors of a model, and its versions that answer."""
    return pb.ModelMetadataResponse(
        name=face.name,
        versions=face.versions(service),
        platform=face.platform,
        inputs=[_tensor(face.input)],
        outputs=[_tensor(face.output)],
    )


def configuration(face: Face, max_images: int) -> pb.ModelConfigResponse:
    """The configuration of a model as Triton would have it; a request may have `max_images`."""
    taken, returned = face.input, face.output
    config = pb.ModelConfig(
        name=face.name,
        platform=face.platform,
        backend="glimpse",
        version_policy=pb.ModelVersionPolicy(latest=pb.ModelVersionPolicy.Latest(num_versions=1)),
        max_batch_size=max_images,
        dynamic_batching=pb.ModelDynamicBatching(
            preferred_batch_size=face.model.batch_sizes,
            preserve_ordering=True,
            priority_levels=PRIORITIES,
            default_priority_level=USUAL_PRIORITY,
        ),
    )
    config.input.add(
        name=taken.name,
        data_type=_TYPES[taken.datatype],
        format="FORMAT_NHWC" if face.pixels else "FORMAT_NONE",
        dims=taken.shape[1:],
    )
    config.output.add(name=returned.name, data_type=_TYPES[returned.datatype], dims=returned.shape[1:])
    return pb.ModelConfigResponse(config=config)


def index(models: tuple[ModelStatus, ...], *, ready: bool, managed: bool) -> pb.RepositoryIndexResponse:
    """The models under both names.

    Args:
        models: every version of every model.
        ready: only those that answer.
        managed: for a caller who may manage models. Others are told of those that answer alone, and no reasons: what
            else is in the repository, and the paths in its errors, are the operator's.
    """
    answer = pb.RepositoryIndexResponse()
    for each in models:
        state = _STATES.get(each.state, "UNAVAILABLE")
        if (ready or not managed) and state != "READY":
            continue
        reason = each.reason if managed else ""
        for suffix in ("", faces.SUFFIX):
            answer.models.add(name=each.name + suffix, version=each.version, state=state, reason=reason)
    return answer


def statistics(face: Face, counts: ModelCounts) -> pb.ModelStatistics:
    """What a model has done since the server began, under all of its names and for all protocols."""
    per_image = {name: _duration(total) for name, total in _of_images(counts).items()}
    sizes = sorted(counts.batches.items())
    return pb.ModelStatistics(
        name=face.name,
        version=face.model.identity.version,
        last_inference=round(counts.last * 1e3),
        inference_count=round(counts.compute.count),
        execution_count=round(sum(total.count for _, total in sizes)),
        inference_stats=pb.InferStatistics(
            success=_duration(counts.answered), fail=_duration(counts.failed), **per_image
        ),
        batch_stats=[pb.InferBatchStatistics(batch_size=size, compute_infer=_duration(total)) for size, total in sizes],
    )


def _of_images(counts: ModelCounts) -> dict[str, Total]:
    return {
        "queue": counts.queue,
        "compute_input": counts.prepare,
        "compute_infer": counts.compute,
        "compute_output": counts.reply,
    }


def _duration(total: Total) -> pb.StatisticDuration:
    return pb.StatisticDuration(count=round(total.count), ns=round(total.seconds * _NANOSECONDS))


def _tensor(tensor: TensorMetadata) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
