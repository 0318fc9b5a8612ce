"""`geoloc doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from pydantic import BaseModel, ConfigDict

from geoloc.core import s3
from geoloc.core.errors import GeolocError

_PACKAGES = (
    "ray",
    "torch",
    "torchvision",
    "pyarrow",
    "faiss-cpu",
    "rasterio",
    "pyproj",
    "s3fs",
    "fastapi",
)
_DISK_NEED_BYTES = 2 * 10**9
_MEMORY_NEED_BYTES = 8 * 10**9


class Check(BaseModel):
    """One thing that was looked at."""

    model_config = ConfigDict(frozen=True)

    name: str
    ok: bool
    found: str


class DoctorReport(BaseModel):
    """All checks."""

    model_config = ConfigDict(frozen=True)

    checks: list[Check]

    @property
    def sound(self) -> bool:
        """Whether nothing is missing."""
        return all(check.ok for check in self.checks)

    def text(self) -> str:
        """A line for every check."""
        width = max(len(check.name) for check in self.checks)
        return "\n".join(
            f"{'ok ' if check.ok else 'BAD'}  {check.name:<{width}}  {check.found}" for check in self.checks
        )


def run() -> DoctorReport:
    """Check Python, packages, image operators, FAISS, Ray, loopback, disk, memory and the S3 environment."""
    looks: dict[str, Callable[[], str]] = {
        "python": _python,
        "packages": _packages,
        "vision operators": _vision,
        "faiss": _faiss,
        "accelerator": _accelerator,
        "disk": _disk,
        "memory": _memory,
        "loopback": _loopback,
        "s3": _s3,
        "ray": _ray,
    }
    return DoctorReport(checks=[_check(name, look) for name, look in looks.items()])


def _check(name: str, look: Callable[[], str]) -> Check:
    """Whatever a broken installation raises is the finding."""
    try:
        return Check(name=name, ok=True, found=look())
    except Exception as error:  # noqa: BLE001
        return Check(name=name, ok=False, found=" ".join(f"{error}".split())[:300] or type(error).__name__)


def _python() -> str:
    if not (3, 11) <= sys.version_info[:2] < (3, 13):
        raise GeolocError(f"Python is {sys.version.split()[0]}; geoloc needs 3.11 or 3.12.")
    return f"{sys.version.split()[0]} at {sys.executable}"


def _packages() -> str:
    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise GeolocError(f"Not installed: {', '.join(missing)}; run make, or pip install geoloc again.")
    return ", ".join(found)


def _vision() -> str:
    import torch
    from torchvision.ops import nms

    # A torchvision that was built for another torch fails here and not before.
    kept = nms(torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0]]), torch.tensor([0.9, 0.8]), 0.5)
    if kept.tolist() != [0]:
        raise GeolocError(
            f"torchvision's nms kept {kept.tolist()} of two equal boxes; install the pinned versions."
        )
    return f"{torch.get_num_threads()} threads"


def _faiss() -> str:
    import faiss
    import numpy as np

    index = faiss.IndexBinaryFlat(64)
    index.add(np.arange(64, dtype=np.uint8).reshape(8, 8))
    distances, rows = index.search(np.arange(8, 16, dtype=np.uint8).reshape(1, 8), 1)
    if (int(distances[0, 0]), int(rows[0, 0])) != (0, 1):
        raise GeolocError("faiss does not find a code that is there; install the pinned version.")
    return str(faiss.get_compile_options()).strip()


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none (the CPU does everything)"


def _disk() -> str:
    free = shutil.disk_usage(os.getcwd()).free
    if free < _DISK_NEED_BYTES:
        raise GeolocError(
            f"{free / 1e9:.1f} GB free here, the demo needs {_DISK_NEED_BYTES / 1e9:.0f} GB; make room."
        )
    return f"{free / 1e9:.0f} GB free here"


def _memory() -> str:
    import psutil

    memory = psutil.virtual_memory()
    if memory.total < _MEMORY_NEED_BYTES:
        raise GeolocError(
            f"{memory.total / 1e9:.1f} GB in all, the demo needs {_MEMORY_NEED_BYTES / 1e9:.0f} GB."
        )
    return f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"


def _loopback() -> str:
    from geoloc.runtime.ray_session import LOOPBACK

    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
    return f"{LOOPBACK} can be bound"


def _s3() -> str:
    if not os.environ.get("AWS_ACCESS_KEY_ID"):
        return "no AWS_ACCESS_KEY_ID in the environment; s3:// will use the machine's own role, if it has one"
    endpoint = s3.endpoint() or "AWS"
    from pyarrow.fs import FileSelector

    buckets = s3.filesystem().get_file_info(FileSelector("", recursive=False))
    return f"{endpoint} answers, {len(buckets)} buckets"


def _ray() -> str:
    import ray

    from geoloc.runtime.ray_session import cpu_count, ensure_ray, gpu_count

    start = time.monotonic()
    ensure_ray()
    ray.get(ray.remote(_nothing).remote())
    where = os.environ.get("RAY_ADDRESS", "a local one")
    return (
        f"{where}: {cpu_count()} CPUs, {gpu_count()} GPUs, first task after {time.monotonic() - start:.1f} s"
    )


def _nothing() -> None:
    """The first task of a Ray that has just started."""
