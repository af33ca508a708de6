"""What is looked at before a model is loaded, or before it answers: whether it can be served as the settings say."""

from __future__ import annotations

from glimpse.models.bundle import Bundle
from glimpse.models.errors import BundleError
from glimpse.models.spec import NetworkSummary
from glimpse.server.answers.class_choice import Classes
from glimpse.server.batching.streams import Streams
from glimpse.server.errors import InvalidRequestError
from glimpse.server.loading.options import LoadOptions
from glimpse.server.machine import cores, gpus
from glimpse.server.runtime import batch_rates, converted_cache, memory_budget
from glimpse.server.runtime.gpus import is_for_cpus
from glimpse.server.runtimes import GPU_STREAMS, RUNTIMES

_LARGEST = 32  # images: what most runtimes take for a batch on a CPU when left to themselves
# What says which classes answer requests that do not choose.
_NAMES = "GLIMPSE_ALLOW_CLASSES and GLIMPSE_DENY_CLASSES"
_OWN_NAMES = "allow_classes and deny_classes of the model"


def check_classes(bundle: Bundle, options: LoadOptions) -> None:
    """Refuse a model that lacks the classes of the settings, before its first request does.

    Raises:
        ValueError: it lacks one; the message names it.
    """
    if options.classes is None:
        return
    try:
        Classes(bundle).chosen(options.classes)
    except InvalidRequestError as error:
        raise ValueError(f"{error.message} Check {_NAMES if options.own_classes is None else _OWN_NAMES}.") from None


def check_memory(bundle: Bundle, options: LoadOptions) -> None:
    """Refuse a model that cannot fit, before anything of it is loaded."""
    row = RUNTIMES[options.runtimes[0]]
    rows = Streams(cores.available()).workers * (options.max_batch_size or _LARGEST)
    # Whether it computes on a GPU is known once a framework is loaded, and how large its batches are, once measured.
    if row.gpu_probe is not None:
        measured = batch_rates.LARGEST if gpus.may_be_there() and not is_for_cpus(row) else _LARGEST
        rows = max(rows, Streams(GPU_STREAMS, gpu=True).workers * (options.max_batch_size or measured))
    takes = memory_budget.expected(
        bundle,
        row,
        converted=row.reads_converted and converted_cache.is_cached(bundle),
        rows=rows,
        images=options.max_images_in_flight,
    )
    if takes is not None:
        options.room(takes)
    memory_budget.check(bundle.name, row, takes, memory_budget.available())


def check_novelty(bundle: Bundle, summary: NetworkSummary) -> None:
    """Look whether the network gives what its score of novelty was fitted on.

    Raises:
        BundleError: its embedding has another size, or it has none.
    """
    fitted = None if bundle.novelty is None else bundle.novelty.logistic
    if fitted is not None and fitted.features != summary.embedding:
        raise BundleError(
            f"The score of novelty of {bundle.name} was fitted on an embedding of {fitted.features:,} numbers, and the "
            f"network's has {summary.embedding:,}. Calibrate it again with python -m glimpse.models calibrate."
        )
