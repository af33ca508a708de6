"""Build and run the image without a container engine: buildah makes it, Linux namespaces run it.

What Kubernetes promises to a pod is done by hand and really holds: a root that is mounted read-only, nothing but
/tmp to write to, no network but loopback, the image's own user, no capability, no way to gain any.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / ".cache" / "image"  # gigabytes do not belong into /tmp
BASE = "localhost/glimpse-test-base"
IMAGE = "localhost/glimpse-test"
NEEDED = ("buildah", "mmdebstrap", "unshare", "nsenter", "setpriv")
# As Debian's own slim image leaves them out.
_LEFT_OUT = ("doc", "info", "locale", "man")
_CERTIFICATES = Path("/etc/ssl/certs")


def unable() -> str:
    """Why an image cannot be made and run here; empty: it can."""
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        return f"not installed: {', '.join(missing)} (Debian packages buildah, mmdebstrap, util-linux)"
    if os.geteuid() != 0:
        return "namespaces and mounts need root"
    return ""


def run(*command: str | Path, seconds: float = 60, **more: Any) -> str:
    """The output of a program.

    Raises:
        AssertionError: it failed; with what it said.
    """
    ended = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, check=False, timeout=seconds, **more
    )
    assert ended.returncode == 0, f"{command} ended with {ended.returncode}: {(ended.stdout + ended.stderr)[-8000:]}"
    said: str = ended.stdout
    return said


def buildah(*arguments: str | Path, seconds: float = 60) -> str:
    """The output of buildah, with a storage of its own: a real Docker's or Podman's is left alone."""
    storage: list[str | Path] = ["--root", CACHE / "storage", "--runroot", CACHE / "run", "--storage-driver", _driver()]
    temporary = CACHE / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    return run("buildah", *storage, *arguments, seconds=seconds, env={**os.environ, "TMPDIR": str(temporary)})


def _driver() -> str:
    """Overlay, where the system lets mount one; else vfs, which copies everything for every layer."""
    there = CACHE / "storage"
    for driver in ("overlay", "vfs"):
        if (there / driver).is_dir():
            return driver
    folders = [CACHE / "trial" / name for name in ("lower", "upper", "work", "merged")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    options = "lowerdir={},upperdir={},workdir={}".format(*folders)
    mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(folders[3])]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        return "vfs"
    run("umount", folders[3])
    return "overlay"


def make_base() -> None:
    """An image of Debian and its Python, in place of the one in the Dockerfile's FROM; kept for the next time."""
    if f"{BASE}:latest" in buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        return
    folder = CACHE / "base"
    folder.mkdir(parents=True, exist_ok=True)
    left_out = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT]
    packages = "ca-certificates,netbase,tzdata,python3,python3-venv"
    making: list[str | Path] = [
        "mmdebstrap",
        "--variant=minbase",
        *left_out,
        f"--include={packages}",
        "bookworm",
        folder / "base.tar",
    ]
    run(*making, "http://deb.debian.org/debian", seconds=1200)
    (folder / "Containerfile").write_text(
        "FROM scratch\nADD base.tar /\n"
        'ENV PATH="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" LANG=C.UTF-8\nCMD ["python3"]\n'
    )
    buildah("build", "--isolation", "chroot", "--format", "docker", "--tag", BASE, folder, seconds=600)
    (folder / "base.tar").unlink()


def make_image(target: str = "cpu") -> None:
    """The image of the Dockerfile, as `make image` makes it, but on the base above."""
    settings = CACHE / "pip.conf"
    # pip trusts its own list of authorities; where the host's list knows more, the build needs it.
    settings.write_text(f"[global]\ncert = {_CERTIFICATES / 'ca-certificates.crt'}\n")
    buildah(
        "build",
        *("--isolation", "chroot", "--pull-never", "--layers", "--format", "docker", "--target", target),
        *("--build-arg", f"BASE={BASE}", "--build-arg", "VERSION=0.0.test", "--build-arg", "REVISION=none"),
        *("--secret", f"id=pip,src={settings}", "--volume", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"),
        *("--tag", f"{IMAGE}:{target}", ROOT),
        seconds=3000,
    )


@dataclass(frozen=True)
class Inspected:
    """What an image says of itself."""

    config: dict[str, Any]  # Docker's: User, Env, Entrypoint, Labels, Healthcheck
    layers: int
    bytes: int

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are started with."""
        return dict(line.split("=", 1) for line in self.config["Env"])


def inspect(target: str = "cpu") -> Inspected:
    """Look at an image."""
    found = json.loads(buildah("inspect", "--type", "image", f"{IMAGE}:{target}"))
    listed = json.loads(buildah("images", "--json", f"{IMAGE}:{target}"))
    return Inspected(found["Docker"]["config"], len(found["OCIv1"]["rootfs"]["diff_ids"]), _bytes(listed[0]["size"]))


def _bytes(size: str) -> int:
    number, unit = size.split()
    return int(float(number) * {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}[unit])


class Container:
    """A running server of the image, alone in its namespaces."""

    # Runs as root inside the new namespaces, and makes of them what a pod has before it becomes the image's user.
    _ENTER = """\
set -eu
root=$1; shift
ip link set lo up
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=755,size=1m tmpfs "$root/dev"
for device in null zero random urandom; do
  touch "$root/dev/$device" && mount --bind "/dev/$device" "$root/dev/$device"
done
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777,size=64m tmpfs "$root/dev/shm"
exec chroot "$root" "$@"
"""

    def __init__(self, target: str = "cpu", *arguments: str, environment: dict[str, str] | None = None) -> None:
        """Start the entry point with `arguments` and with `environment` on top of the image's own."""
        self._image = inspect(target)
        self._environment = {**self._image.environment, "GLIMPSE_LOG_FORMAT": "json", **(environment or {})}
        self._name = buildah("from", "--pull-never", f"{IMAGE}:{target}").strip()
        self.root = Path(buildah("mount", self._name).strip())
        self.log: list[dict[str, Any]] = []
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [
                *("unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--"),
                *("sh", "-c", self._ENTER, "enter", str(self.root)),
                *self._as_user(*self._image.config["Entrypoint"], *arguments),
            ],
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"]},
        )
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _as_user(self, *command: str) -> list[str]:
        user, group = self._image.config["User"].split(":")
        return [
            *("/usr/bin/setpriv", "--reuid", user, "--regid", group, "--clear-groups", "--no-new-privs"),
            *("--bounding-set=-all", "--inh-caps=-all"),
            *("/usr/bin/env", "-i", *(f"{name}={value}" for name, value in self._environment.items())),
            # env would look for the program on its own PATH.
            *("sh", "-c", 'cd "$0" && exec "$@"', self._image.config["WorkingDir"], *command),
        ]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.log.append(json.loads(line) if line.startswith("{") else {"event": "stray", "line": line})
                self._changed.notify_all()

    def wait_for(self, event: str, *, seconds: float = 300) -> float:
        """Seconds from the start to the first log line of that event."""
        end = self.began + seconds
        with self._changed:
            while not any(line["event"] == event for line in self.log):
                alive = self.process.poll() is None and time.monotonic() < end
                assert alive, f"no {event!r} from the container; log: {self.log}"
                self._changed.wait(0.1)
        return time.monotonic() - self.began

    @property
    def pid(self) -> int:
        """The server's process, as the host numbers it; in the container it is 1."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(children[0])

    def execute(self, *command: str, seconds: float = 60, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run one more program beside the server, as `kubectl exec` does: same namespaces, same root, same user."""
        inside = ("nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--ipc", "--uts", "--root", "--wd")
        return subprocess.run(
            [*inside, *self._as_user(*command)], input=stdin, capture_output=True, check=False, timeout=seconds
        )

    def memory(self) -> tuple[int, int]:
        """Bytes of memory of the server and its children, now and at their most; what they share is counted by each."""
        inside = [self.pid, *_descendants(self.pid)]
        read = [Path(f"/proc/{number}/status").read_text() for number in inside]
        now, most = (
            sum(int(found) * 1024 for text in read for found in re.findall(rf"{name}:\s+(\d+)", text))
            for name in ("VmRSS", "VmHWM")
        )
        return now, most

    def stop(self, *, seconds: float = 60) -> int:
        """Send what Kubernetes sends, and wait for the exit code."""
        os.kill(self.pid, signal.SIGTERM)
        return self.process.wait(seconds)

    def close(self) -> None:
        """End it whatever it does."""
        if self.process.poll() is None:
            # The namespaces' first process: with it ends whatever is in them, and then `unshare`, which waits for it.
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait()
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        buildah("umount", self._name)
        buildah("rm", self._name)


def _descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [*children, *(each for child in children for each in _descendants(child))]


def layer_of(paths: Sequence[str], target: str = "cpu") -> dict[str, int]:
    """For each path of the image the number of the last layer that has it."""
    folder = CACHE / "layers"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        buildah("push", "--disable-compression", f"{IMAGE}:{target}", f"dir:{folder}", seconds=600)
        manifest = json.loads((folder / "manifest.json").read_text())
        found = {}
        for number, layer in enumerate(manifest["layers"]):
            names = set(run("tar", "--list", "--file", folder / layer["digest"].partition(":")[2]).splitlines())
            found.update({path: number for path in paths if path in names})
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
