"""Settings of asking an index that several stages and the service have in common, stated once for all of them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from geoloc.localization.localizer import MIN_CONFIDENCE
from geoloc.localization.query_photos import HEADINGS


class SearchSettings(BaseModel):
    """How photos are compared with an index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rerank: int = Field(default=100, ge=0, description="Nearest codes to order by float embeddings.")
    asymmetric: bool = Field(
        default=True, description="Compare a photo's real numbers with the tiles' bits; off: bits with bits."
    )
    headings: int = Field(
        default=HEADINGS, ge=1, description="Headings to try for a photo of unknown heading."
    )


class LocatingSettings(SearchSettings):
    """How photos are compared with an index, and which of them count as located."""

    min_confidence: float = Field(
        default=MIN_CONFIDENCE,
        ge=0,
        le=1,
        description="Photos with a lower calibrated confidence count as not located.",
    )
    uncalibrated: bool = Field(
        default=False,
        description="Give positions also to kinds of photo without a calibration, with no promise.",
    )
