"""`geoloc demo`: a procedural city from imagery and photos to a running service that locates new photos.

<output>/city         imagery sheets and photos as they would be delivered
<output>/tables       ingested: train, validation, test (one tile a photo), gallery (with distractors); photos anywhere:
                      anywhere, validation-anywhere
<output>/model        the trained model
<output>/codes        encoded tiles
<output>/index-small  the tiles of the test photos alone; <output>/index: the gallery, calibrated, served
<output>/calibration  what photos the index locates, with what radius and confidence
<output>/evaluation   anywhere, gallery, small: each with its own report
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
from geoloc.demo.stages import DemoRun, Sizes
from geoloc.runtime.ray_session import ensure_ray
from geoloc.serving.server import ServeConfig, start


class DemoConfig(Sizes):
    """How large the demo is and how it ends; the defaults take minutes on two cores."""

    serve: bool = Field(True, description="Start the service at the end and post photos to it.")
    port: int = Field(0, ge=0, le=65535, description="Port of the service; 0 takes a free one.")
    posts: int = Field(24, ge=1, description="Held-out photos to post to the service.")
    imagery: list[str] = Field(
        [],
        description="URIs of your own GeoTIFF files. They are indexed too, and drone photos made from them "
        "are located.",
    )
    drone_photos: int = Field(400, ge=8, description="Drone photos to make from your own imagery.")


class _StageTimes(BaseModel):
    """Seconds of each stage, printed as the stages end."""

    model_config = ConfigDict(extra="forbid")

    count: int
    seconds: dict[str, float] = {}

    def finish(self, name: str, began: float, what: str) -> None:
        """Record a stage that ended now."""
        self.seconds[name] = round(time.monotonic() - began, 1)
        say(f"[{len(self.seconds)}/{self.count}] {name}: {what} ({self.seconds[name]:.1f} s)")


def run(config: DemoConfig, output: str = "demo", *, overwrite: bool = False) -> DemoResult:
    """Run all stages into `output` and print what was measured; finished stages are reused."""
    output = storage.absolute(output)
    ensure_ray()
    demo = DemoRun(config, output, overwrite=overwrite)
    times = _StageTimes(count=len(stages.STAGES) + 1 + config.serve + bool(config.imagery))
    with MemoryWatch() as memory:
        for name, stage in stages.STAGES.items():
            began = time.monotonic()
            times.finish(name, began, stage(demo))
        posts = _serve(config, demo, times) if config.serve else []
        imagery = _imagery(config, demo, times) if config.imagery else None
        began = time.monotonic()
        result = DemoResult(
            output=output,
            seconds=times.seconds,
            peak_memory_bytes=memory.peak_bytes,
            evaluations=demo.evaluations,
            posts=posts,
            imagery=imagery,
            served_index=demo.index,
        )
        report = storage.join(output, "report.html")
        storage.write_bytes(report, demo_report.render(result, demo).encode())
        times.finish("report", began, report)
    return result.model_copy(update={"seconds": times.seconds, "peak_memory_bytes": memory.peak_bytes})


def _serve(config: DemoConfig, demo: DemoRun, times: _StageTimes) -> list[Post]:
    """Serve the index, post held-out photos over HTTP and end the service."""
    began = time.monotonic()
    handle = start(ServeConfig(index=demo.index, port=config.port))
    try:
        posts = post_photos(handle.url, storage.join(demo.tables("test"), "queries"), config.posts)
    finally:
        handle.stop()
    times.finish("serve", began, f"{len(posts)} held-out photos posted to {handle.url}/v1/localize")
    return posts


def _imagery(config: DemoConfig, demo: DemoRun, times: _StageTimes) -> ImageryResult:
    """The user's own imagery, measured with drone photos made from it."""
    began = time.monotonic()
    result = own_imagery.run(demo, config.imagery, config.drone_photos, config.posts)
    times.finish("imagery", began, f"{result.tiles:,} tiles of your own imagery, drone photos located in it")
    return result
