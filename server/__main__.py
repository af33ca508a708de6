"""`python -m glimpse.server`: read the settings and run the server, or say why it cannot run.

`python -m glimpse.server prepare`, with the same settings, loads the model as a start does and ends. It is for images
and init containers, so that the downloaded and converted model is there when a server starts.
"""

from __future__ import annotations

import gc

from glimpse.server.processes import stopping

if stopping.is_program(__name__):
    stopping.obey_at_once()  # before the imports below, which take most of a second
    # Nearly all that they make stays: looking through it for garbage takes a tenth of a start's CPU time. Once the
    # model is loaded, `memory.settle` has Python look more often.
    gc.set_threshold(100_000, *gc.get_threshold()[1:])

import asyncio
import logging
import os
import sys

from glimpse.models import standard
from glimpse.server import build, logs, settings
from glimpse.server.machine import cores
from glimpse.server.processes import event_loops, standard_error
from glimpse.server.processes.startup import EXIT_SETTINGS, StartupError
from glimpse.server.settings import problems


def main() -> int:
    """Run a server and end with one of the exit codes that `startup.exit_codes` lists."""
    only_prepare = sys.argv[1:2] == ["prepare"]
    standard.prepare()
    if "--version" in sys.argv[1:]:
        with standard.checked("python -m glimpse.server"):
            print(f"glimpse {build.VERSION}")
        return 0
    # Before any thread is begun, as the next lines do and NumPy does when it is imported.
    cores.share_in_long_turns()
    captured: standard_error.Captured | None = None
    if standard_error.form(sys.argv[1:]) == "json":
        captured = standard_error.Captured()
        logs.configure("info", "json")  # until the settings are known
    try:
        with standard.checked("python -m glimpse.server"):  # --help
            chosen = settings.load(sys.argv[2:] if only_prepare else sys.argv[1:])
    except (ValueError, OSError) as error:
        if captured is None:
            print(f"The settings are invalid:\n{_explain(error)}", file=sys.stderr)
        else:
            detail = f"The settings are invalid: {' '.join(problems.explain(error))}"
            # A traceback would hide the message.
            logging.getLogger("server").error("settings cannot be used", extra={"detail": detail})  # noqa: TRY400
        return EXIT_SETTINGS
    logs.configure(chosen.log_level, chosen.log_format)
    # TensorFlow's start-up chatter is not ours.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # gRPC would write a line that is no log line for every header that is none.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")

    import structlog

    log = structlog.get_logger("server")
    log.info("starting", **build.information())
    for line in settings.unknown_variables():
        log.warning("unknown setting", detail=line)
    log.info("settings", **chosen.model_dump(mode="json"))
    code = 0
    try:
        code = _run(chosen, None if captured is None else captured.descriptor, only_prepare=only_prepare)
    except StartupError as error:
        log.error("cannot start", detail=str(error))  # noqa: TRY400 - expected; a traceback would hide the message
        code = error.exit_code
    if captured is not None:
        captured.close()
    logging.shutdown()
    sys.stdout.flush()
    stopping.end_children()
    # Python would wait for every decoder thread, and one of them may be deep in a hostile file for minutes. Whatever
    # is worth waiting for has been waited for in the drain.
    os._exit(code)


def _run(chosen: settings.Settings, stderr: int | None, *, only_prepare: bool) -> int:
    """Run what is asked for, and return the exit code. `stderr`: descriptor for the logs of other processes.

    Raises:
        StartupError: expected; the message says what to do.
    """
    from glimpse.server.supervisor import plan, supervisor

    processes = None if only_prepare else plan.planned(chosen)
    with asyncio.Runner(loop_factory=event_loops.factory()) as runner:
        if processes is not None and processes.workers > 1:
            runner.run(supervisor.supervise(chosen, processes, stderr=stderr))
            return 0
        if only_prepare:
            from glimpse.server import preparing

            return runner.run(preparing.prepare_start(chosen))
        from glimpse.server import app  # and gRPC, which a supervisor does not need

        runner.run(app.serve(chosen))
        return 0


def _explain(error: Exception) -> str:
    return "\n".join(f"  {line}" for line in problems.explain(error))


if __name__ == "__main__":
    sys.exit(main())
