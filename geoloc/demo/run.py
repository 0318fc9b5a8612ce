"""`geoloc demo`: a procedural city from imagery and photos to a running service that locates new photos.

<output>/city         imagery sheets and photos as they would be delivered
<output>/tables       ingested: train, validation, test (one tile a photo), gallery (with distractors), anywhere
<output>/model        the trained model
<output>/codes        encoded tiles
<output>/index-small  the tiles of the test photos alone; <output>/index: the gallery, calibrated, served
<output>/evaluation   small, gallery, anywhere, validation: each with its own report
<output>/imagery      with --imagery: the same for a user's own sheets and drone photos made from them
<output>/report.html  everything in one page
"""

from __future__ import annotations

import time

from pydantic import BaseModel, ConfigDict, Field

from geoloc.core import storage
from geoloc.core.progress import say
from geoloc.demo import own_imagery, stages
from geoloc.demo import report as demo_report
from geoloc.demo.memory import MemoryWatch
from geoloc.demo.own_imagery import ImageryResult
from geoloc.demo.result import DemoResult
from geoloc.demo.service_check import Post, post_photos
from geoloc.demo.stages import Sizes, Way
from geoloc.runtime.ray_session import ensure_ray
from geoloc.serving.server import ServeConfig, start


class DemoConfig(Sizes):
    """How large the demo is and what it does in the end; the defaults take minutes on two cores."""

    serve: bool = Field(True, description="Start the service at the end and post photos to it.")
    port: int = Field(0, ge=0, le=65535, description="Port of the service; 0 takes a free one.")
    posts: int = Field(24, ge=1, description="Held-out photos to post to the service.")
    imagery: list[str] = Field(
        [],
        description="URIs of your own GeoTIFF files. They are indexed too, and drone photos made from them "
        "are located.",
    )
    drone_photos: int = Field(400, ge=8, description="Drone photos to make from your own imagery.")


class _Clock(BaseModel):
    """Seconds of each stage, said as they pass."""

    model_config = ConfigDict(extra="forbid")

    count: int
    seconds: dict[str, float] = {}

    def done(self, name: str, began: float, what: str) -> None:
        """Note a stage that ended now."""
        self.seconds[name] = round(time.monotonic() - began, 1)
        say(f"[{len(self.seconds)}/{self.count}] {name}: {what} ({self.seconds[name]:.1f} s)")


def run(config: DemoConfig, output: str = "demo", *, overwrite: bool = False) -> DemoResult:
    """Run all stages into `output` and print what was measured; finished stages are reused."""
    output = storage.absolute(output)
    ensure_ray()
    way = Way(config, output, overwrite=overwrite)
    clock = _Clock(count=len(stages.STAGES) + 1 + config.serve + bool(config.imagery))
    with MemoryWatch() as memory:
        for name, stage in stages.STAGES.items():
            began = time.monotonic()
            clock.done(name, began, stage(way))
        posts = _serve(config, way, clock) if config.serve else []
        imagery = _imagery(config, way, clock) if config.imagery else None
        began = time.monotonic()
        result = DemoResult(
            output=output,
            seconds=clock.seconds,
            peak_memory_bytes=memory.peak_bytes,
            evaluations=way.evaluations,
            posts=posts,
            imagery=imagery,
            served_index=way.index,
        )
        report = storage.join(output, "report.html")
        storage.write_bytes(report, demo_report.render(result, way).encode())
        clock.done("report", began, report)
    return result.model_copy(update={"seconds": clock.seconds, "peak_memory_bytes": memory.peak_bytes})


def _serve(config: DemoConfig, way: Way, clock: _Clock) -> list[Post]:
    """Serve the index, post held-out photos over HTTP and end the service."""
    began = time.monotonic()
    handle = start(ServeConfig(index=way.index, port=config.port))
    try:
        posts = post_photos(handle.url, storage.join(way.tables("test"), "queries"), config.posts)
    finally:
        handle.stop()
    clock.done("serve", began, f"{len(posts)} held-out photos posted to {handle.url}/v1/localize")
    return posts


def _imagery(config: DemoConfig, way: Way, clock: _Clock) -> ImageryResult:
    """The user's own imagery, measured with drone photos made from it."""
    began = time.monotonic()
    result = own_imagery.run(way, config.imagery, config.drone_photos, config.posts)
    clock.done("imagery", began, f"{result.tiles:,} tiles of your own imagery, drone photos located in it")
    return result
