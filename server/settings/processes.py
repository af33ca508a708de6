"""Settings of the processes of a server: how many there are, when one counts as stuck, and how they end."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings

from glimpse.server.settings.kinds import PositiveSeconds, Seconds


class ProcessSettings(BaseSettings):
    """Part of `server.settings.Settings`."""

    workers: int = Field(
        0,
        ge=0,
        le=64,
        description="Number of worker processes, which take calls and decode images and share the port. 1 means one "
        "process with everything in it. With 2 or more, the model is in an engine process that all workers feed (Linux "
        "only). 0 means one process, unless there is a GPU (5 workers for 8 CPU cores, 2 to 16) or at least 16 CPU "
        "cores (1 worker for 8).",
    )
    engines: int = Field(
        0,
        ge=0,
        le=16,
        description="Number of engine processes with several workers; each loads the model on a device of its own. 0 "
        "means one for each visible GPU, or one if there is none.",
    )
    load_step_seconds: PositiveSeconds = Field(
        600.0,
        description="Time that an engine process may take for one step of loading the model, in seconds, such as the "
        "first batch of one size. If it is exceeded, the engine is killed and started again; while the server "
        "starts, the server ends. A model of --models counts as failed instead. Downloads and conversions have "
        "limits of their own.",
    )
    drain_announce_seconds: Seconds = Field(
        0.0,
        description="Time after SIGTERM during which the server goes on accepting calls while its health "
        "check says NOT_SERVING, in seconds, so that load balancers stop sending calls.",
    )
    drain_seconds: Seconds = Field(
        30.0,
        description="Time after --drain-announce-seconds for the calls in flight to finish, in seconds; then they are "
        "aborted.",
    )
    stuck_seconds: PositiveSeconds = Field(
        60.0,
        description="Time after which a batch that is still computing counts as stuck, in seconds. The "
        "liveness check then fails, so that the server is restarted.",
    )
