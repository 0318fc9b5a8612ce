"""What `evaluate` is asked: settings and inputs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from geoloc.evaluation.ranking.metrics import TopPercent
from geoloc.localization.query_photos import HEADINGS


class EvaluateConfig(BaseModel):
    """What is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    protocol: str | None = Field(
        default=None,
        description="Name of the protocol; default: that of the data set (dataset.json), else `tiles`.",
    )
    ks: tuple[int, ...] | None = Field(
        default=None, description="Recall@K for these K; default: the protocol's."
    )
    top_percent: TopPercent | None = Field(
        default=None,
        description="How many answers 'top 1 %' allows; default: the protocol's. All rules are in metrics.json.",
    )
    rerank: int = Field(default=100, ge=0, description="Nearest codes to order by float embeddings.")
    code_bits: tuple[int, ...] = Field(
        default=(),
        description="Code lengths to compare, as prefixes of the index's codes; empty: the whole code.",
    )
    truth_radius_m: float = Field(
        default=25.0, gt=0, description="Without pairs, and for Recall@K<r: tiles this near are right."
    )
    leak_radius_m: float = Field(
        default=25.0, gt=0, description="Photos this near to one of the training are said."
    )
    headings: int = Field(default=HEADINGS, ge=1, description="Candidates for an unknown heading.")
    calibrate: bool = Field(
        default=False,
        description="Fit radius and confidence on half of the queries and store them with the index.",
    )
    radius_limit_m: float = Field(
        default=100.0, gt=0, description="Largest calibrated radius; beyond it only confidence speaks."
    )
    report: bool = Field(default=True, description="Write report.html.")
    report_queries: int = Field(default=12, ge=0, le=100, description="Queries shown with pictures.")


class EvaluateInputs(BaseModel):
    """What is measured on what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: str = Field(description="URI of the index.")
    queries: str = Field(
        description="URI of an ingest output with queries/ and, where there are any, pairs/."
    )
    tiles: str | None = Field(
        default=None, description="URI of an ingest output whose tiles/ has places and pictures."
    )
    encoded: str | None = Field(
        default=None,
        description="URI of encoded queries that evaluations share; made when missing. Default: in the output.",
    )
    trained_on: str | None = Field(
        default=None, description="URI of the ingest output of the training; overlap with it is refused."
    )
    snapshot_id: str | None = Field(
        default=None, description="Snapshot to evaluate; default: the current one."
    )
