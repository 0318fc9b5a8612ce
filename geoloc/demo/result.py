"""The figures of a demo, as data and as the text that it ends with."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from geoloc.demo.own_imagery import ImageryResult
from geoloc.demo.service_check import Post
from geoloc.demo.text import post_lines, recall_lines
from geoloc.stages.evaluate import EvaluateResult

EVALUATIONS = {
    "anywhere": "photos anywhere on the street, with distractors",
    "gallery": "photos within 5 m of a tile's centre, with distractors",
    "small": "the same photos, their own tiles only",
}
"""Evaluations of the report and what each of them measures."""


class DemoResult(BaseModel):
    """All figures of one run."""

    model_config = ConfigDict(frozen=True)

    output: str
    seconds: dict[str, float]
    peak_memory_bytes: int
    evaluations: dict[str, EvaluateResult]
    posts: list[Post]
    imagery: ImageryResult | None = None
    served_index: str

    def text(self) -> str:
        """The tables that the demo ends with."""
        blocks = [post_lines(self.posts)] if self.posts else []
        for name, meaning in EVALUATIONS.items():
            blocks.append(recall_lines(self.evaluations[name], meaning))
        if self.imagery is not None:
            blocks.append(self.imagery.text())
        total = sum(self.seconds.values())
        blocks.append(
            f"{total / 60:.1f} minutes of stages, at most {self.peak_memory_bytes / 1e9:.1f} GB of memory in all "
            f"processes.\nReport: {self.output}/report.html\nKeep serving: geoloc serve --index {self.served_index}"
        )
        return "\n\n".join(blocks)
