"""The process that decodes uploaded images: little memory, little time, no secrets; it lives and dies alone.

It is started as `python -m geoloc.serving.decoder_process` and speaks over its standard input and output. A question is
a line of JSON (`bytes`, `limits`, `cpu_s`) and the image's bytes. An answer is a line of JSON: `height`, `width` and
the facts of the file, followed by the pixels, or `reason` and `detail` of a refusal.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict
from typing import Any, BinaryIO

from geoloc.core.errors import InputError
from geoloc.core.images import ImageLimits, Picture, decode_picture

MEMORY_LIMIT_BYTES = 3 * 2**29  # address space, 1.5 GiB


def main() -> None:
    """Answer questions until the other side closes the pipe."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may write between answers
    for name, limit in (("AS", MEMORY_LIMIT_BYTES), ("CORE", 0), ("FSIZE", 0)):
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (limit, limit))
    _say(sink, {"ready": True})
    while line := source.readline():
        question = json.loads(line)
        data = source.read(question["bytes"])
        _limit_cpu(question["cpu_s"])
        answer, pixels = _decoded(data, question["limits"])
        _say(sink, answer, pixels)


def _limit_cpu(seconds: int) -> None:
    """End this process (SIGXCPU) when it has spent so many more seconds of a processor."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    used = int(spent.ru_utime + spent.ru_stime) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (used + seconds, resource.RLIM_INFINITY))


def _decoded(data: bytes, limits: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    try:
        picture: Picture = decode_picture(
            data, limits=ImageLimits(**{**limits, "formats": tuple(limits["formats"])})
        )
    except InputError as error:
        return {"reason": error.reason, "detail": str(error)}, b""
    except MemoryError:
        detail = "The image needs more memory to be decoded than an upload gets; scale it down."
        return {"reason": "too_large", "detail": detail}, b""
    height, width = picture.pixels.shape[:2]
    return {"height": height, "width": width, "facts": asdict(picture.facts)}, picture.pixels.tobytes()


def _say(sink: BinaryIO, answer: dict[str, Any], pixels: bytes = b"") -> None:
    sink.write(json.dumps(answer).encode() + b"\n")
    sink.write(pixels)
    sink.flush()


if __name__ == "__main__":
    main()
