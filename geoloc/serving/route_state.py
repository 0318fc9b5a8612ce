"""What continues a route: a bounded text that the client carries from answer to answer.

It holds the heaviest states of the filter and where they belong: index, snapshot, area. It is not signed, because a
client could send such photos as well; it is checked like any other field.
"""

from __future__ import annotations

import base64
import binascii
import math
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from geoloc.client.schema import INDEX_NAME, MAX_ROUTE_STATE
from geoloc.core.errors import QueryError
from geoloc.index.search.region import Box, Circle, Polygon
from geoloc.localization.routes.filter import FilterState

MOST_STATES = 1000
"""States that a client carries at most, the heaviest ones."""
_Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class RouteState(BaseModel):
    """The content of the text. `places` of the map and `snapshot_id` say which numbers `states` are."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    index: str = Field(pattern=INDEX_NAME)
    snapshot_id: str = Field(pattern=r"^[0-9a-z]{1,64}$")
    region: Circle | Box | Polygon | None
    places: int = Field(ge=1)
    photos: int = Field(ge=1, le=1_000_000_000)
    states: list[Annotated[int, Field(ge=0)]] = Field(max_length=MOST_STATES)
    weight: list[_Share] = Field(max_length=MOST_STATES)
    score: list[_Share] = Field(max_length=MOST_STATES)
    off_map: _Share
    off_map_score: _Share

    @model_validator(mode="after")
    def _belongs_together(self) -> Self:
        if not len(self.states) == len(self.weight) == len(self.score):
            raise ValueError("states, weight and score have different lengths")
        if len(set(self.states)) < len(self.states) or max(self.states, default=0) >= self.places:
            raise ValueError("states are no different places of the map")
        if not math.isclose(sum(self.weight) + self.off_map, 1.0, abs_tol=1e-3):
            raise ValueError("the weights do not add up to 1")
        return self

    def filter_state(self) -> FilterState:
        """The same for the filter."""
        return FilterState(
            np.array(self.states, np.int64),
            np.array(self.weight, np.float64),
            np.array(self.score, np.float64),
            self.off_map,
            self.off_map_score,
        )


def write_state(
    state: FilterState,
    *,
    index: str,
    snapshot_id: str,
    region: Circle | Box | Polygon | None,
    places: int,
    photos: int,
) -> str:
    """The text of a filter's state, without its lightest states where they are too many."""
    kept = state.heaviest(MOST_STATES)
    content = RouteState(
        index=index,
        snapshot_id=snapshot_id,
        region=region,
        places=places,
        photos=photos,
        states=kept.states.tolist(),
        weight=np.minimum(kept.weight, 1.0).tolist(),
        score=np.minimum(kept.score, 1.0).tolist(),
        off_map=min(float(kept.off_map), 1.0),
        off_map_score=min(float(kept.off_map_score), 1.0),
    )
    return base64.urlsafe_b64encode(content.model_dump_json().encode()).decode()


def read_state(text: str) -> RouteState:
    """The content of a text; `QueryError` (`bad_state`) for one that `write_state` has not written."""
    try:
        if len(text) > MAX_ROUTE_STATE:
            raise ValueError("it is too long")
        return RouteState.model_validate_json(base64.b64decode(text.encode("ascii"), b"-_", validate=True))
    except (ValidationError, binascii.Error, ValueError, UnicodeEncodeError) as error:
        raise QueryError(
            "Field state: it is no state of a route; send the `state` of the answer before as it came.",
            reason="bad_state",
        ) from error
