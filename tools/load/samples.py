"""What a server holds of its machine: memory, open files, threads."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools.bench import machine

_POOL = "event_engine"
_COMPARED = 3  # samples at either end


@dataclass(frozen=True, slots=True)
class Sample:
    """One look."""

    requests: int  # that had been sent by then
    rss: int  # bytes, resident
    fds: int
    threads: int  # but for those of gRPC's pool; 0: not known
    pool: int = 0  # threads of gRPC's pool, which takes more when all are busy and lets them go when it likes
    shared: int = 0  # bytes of `rss` that processes can share: files in memory and in /dev/shm
    processes: int = 1


def of_process(pid: int, requests: int = 0) -> Sample:
    """A look into /proc, at the process alone.

    Raises:
        OSError: expected; there is no such process, or it is not ours.
    """
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines() if line
    )
    names = list(_threads(pid))
    return Sample(
        requests,
        rss=int(fields["VmRSS"].split()[0]) * 1024,
        fds=sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        threads=len(names) - names.count(_POOL),
        pool=names.count(_POOL),
        shared=int(fields["RssShmem"].split()[0]) * 1024,
    )


def of_tree(pid: int, requests: int = 0) -> Sample:
    """The sums over a process and its descendants; memory that two of them share counts twice.

    Raises:
        OSError: expected; there is no such process, or it is not ours.
    """
    found = [of_process(pid)]
    for each in machine.tree(pid)[1:]:
        with contextlib.suppress(OSError, KeyError):  # it has just ended
            found.append(of_process(each))
    return Sample(
        requests,
        rss=sum(one.rss for one in found),
        fds=sum(one.fds for one in found),
        threads=sum(one.threads for one in found),
        pool=sum(one.pool for one in found),
        shared=sum(one.shared for one in found),
        processes=len(found),
    )


def _threads(pid: int) -> Iterator[str]:
    """Their names, as the kernel keeps them."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            yield (task / "comm").read_text(encoding="utf-8").strip()


def of_metrics(metrics: Mapping[str, float], requests: int = 0) -> Sample:
    """What a server that is not ours tells of itself; its threads are not among it."""
    return Sample(
        requests,
        rss=int(metrics["process_resident_memory_bytes"]),
        fds=int(metrics["process_open_fds"]),
        threads=0,
    )


def growth(samples: Sequence[Sample]) -> int:
    """Bytes by which resident memory grew from the first few of `samples` to the last few, the means of each.

    Raises:
        ValueError: fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"Growth needs two samples or more. Received: {len(samples)}")
    count = min(_COMPARED, len(samples) // 2)
    ends = [statistics.fmean(sample.rss for sample in part) for part in (samples[:count], samples[-count:])]
    return round(ends[1] - ends[0])


def after_warm_up(samples: Sequence[Sample], requests: int, share: float = 0.1) -> list[Sample]:
    """Those taken after `share` of all requests."""
    return [sample for sample in samples if sample.requests >= share * requests]


def as_data(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(sample) for sample in samples]
