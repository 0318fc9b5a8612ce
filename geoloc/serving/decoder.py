"""Decoding of uploaded images, apart from the server: in a few processes with limits of memory and time.

What comes back is small (`kept_pixels` of its limits), however large the photo was. As many images are decoded at once
as there are processes; others wait as bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter

import geoloc
from geoloc.core.errors import InputError, ServiceUnavailable
from geoloc.core.images import ImageLimits, Picture
from geoloc.core.photo_facts import PhotoFacts
from geoloc.serving.metrics import DECODE, record_step

Result = TypeVar("Result")
_START_LIMIT_S = 60.0
_MOST_LINE_BYTES = 65_536  # an answer without its pixels
_FACTS = TypeAdapter(PhotoFacts)


@dataclass(frozen=True)
class DecoderLimits:
    """Bounds of one image: seconds of a processor, seconds of the clock."""

    cpu_s: int = 5
    wall_s: float = 10.0


class DecoderPool:
    """Processes that decode images, each used by one thread at a time and replaced when it ends."""

    def __init__(self, processes: int, limits: DecoderLimits | None = None) -> None:
        self._limits = limits or DecoderLimits()
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="decoder")
        self._idle: queue.SimpleQueue[_Process | None] = queue.SimpleQueue()
        for _ in range(processes):
            self._idle.put(None)  # started by the first image that needs it

    async def decode(self, data: bytes, limits: ImageLimits, then: Callable[[Picture], Result]) -> Result:
        """`then` of the decoded picture uint8[H, W, 3], both done in a thread of the pool: pixels never pile up.

        Raises `InputError` as `decode_picture` does, and with reason `too_slow` or `undecodable` when the image took
        the process more time than it gets, or ended it.
        """
        loop = asyncio.get_running_loop()
        came_s = time.perf_counter()
        return await loop.run_in_executor(self._threads, self._decode, data, limits, then, came_s)

    def _decode(
        self, data: bytes, limits: ImageLimits, then: Callable[[Picture], Result], came_s: float
    ) -> Result:
        began_s = time.perf_counter()
        process = self._idle.get()
        try:
            if process is not None and not process.alive:
                process.end()
                process = None
            process = process or _Process()
            picture = process.decode(data, limits, self._limits)
        finally:
            self._idle.put(process)
        result = then(picture)
        record_step(DECODE, time.perf_counter() - began_s, began_s - came_s)
        return result

    def close(self) -> None:
        """End the processes."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while not self._idle.empty():
            if process := self._idle.get():
                process.end()


class _Process:
    """One running `geoloc.serving.decoder_process`."""

    def __init__(self) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "geoloc.serving.decoder_process"],
            env=_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        try:
            with _Timer(_START_LIMIT_S, self._child):
                self._line()
        except (OSError, EOFError, ValueError) as error:
            self.end()
            raise ServiceUnavailable(
                "No process can be started to decode images; try again later."
            ) from error

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._child.poll() is None

    def end(self) -> None:
        """Kill it."""
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):  # what was not flushed is lost with it
                if pipe is not None:
                    pipe.close()

    def decode(self, data: bytes, limits: ImageLimits, bounds: DecoderLimits) -> Picture:
        question = {"bytes": len(data), "limits": asdict(limits), "cpu_s": bounds.cpu_s}
        timer = _Timer(bounds.wall_s, self._child)
        try:
            with timer:
                answer, pixels = self._answer(json.dumps(question).encode() + b"\n", data, limits)
        except (OSError, EOFError, ValueError) as error:
            self.end()
            slow = timer.expired or self._child.returncode == -signal.SIGXCPU
            raise _failure(slow, bounds) from error
        if timer.expired:  # just after the answer: the process is being killed, the next image gets another
            self.end()
        if "reason" in answer:
            raise InputError(answer["detail"], reason=answer["reason"])
        shape = (answer["height"], answer["width"], 3)
        return Picture(
            np.frombuffer(pixels, np.uint8).reshape(shape), _FACTS.validate_python(answer["facts"])
        )

    def _answer(self, question: bytes, data: bytes, limits: ImageLimits) -> tuple[dict[str, Any], bytes]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(question)
        self._child.stdin.write(data)
        self._child.stdin.flush()
        answer = self._line()
        size = 3 * answer.get("height", 0) * answer.get("width", 0)
        if not 0 <= size <= 3 * limits.kept_pixels:  # a process that an image took over is not believed
            raise ValueError(f"{size} bytes of pixels")
        pixels = self._child.stdout.read(size)
        if len(pixels) < size:
            raise EOFError
        return answer, pixels

    def _line(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline(_MOST_LINE_BYTES)
        if not line.endswith(b"\n"):
            raise EOFError
        answer: dict[str, Any] = json.loads(line)
        return answer


def _environment() -> dict[str, str]:
    """Of the environment only what Python needs to start: no keys of stores, no tokens."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "LANG") if name in os.environ}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARROW_NUM_THREADS"), "1")
    return kept | threads | {"PYTHONPATH": str(Path(geoloc.__file__).parents[1])}


class _Timer:
    """Kills a process unless the block ends in time."""

    def __init__(self, seconds: float, child: subprocess.Popen[bytes]) -> None:
        self.expired = False
        self._child = child
        self._timer = threading.Timer(seconds, self._expire)

    def _expire(self) -> None:
        self.expired = True
        self._child.kill()

    def __enter__(self) -> _Timer:
        self._timer.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._timer.cancel()
        self._timer.join()  # `expired` holds from here on


def _failure(slow: bool, bounds: DecoderLimits) -> InputError:
    if slow:
        return InputError(
            f"The image took longer to decode than {bounds.wall_s:g} s, or {bounds.cpu_s} s of a processor; scale it "
            "down.",
            reason="too_slow",
        )
    return InputError(
        "The image ended the process that decoded it, by its memory or a fault; scale it down, or save it anew.",
        reason="undecodable",
    )
