"""The photos of an evaluation as places of a street graph, for the protocols that locate routes."""

from __future__ import annotations

import numpy as np

from geoloc.core.arrays import FloatArray
from geoloc.core.errors import InputError
from geoloc.evaluation.protocol.questions import Questions
from geoloc.evaluation.ranking.pca import fit_projection
from geoloc.evaluation.ranking.photos_and_tiles import PhotoSet
from geoloc.evaluation.ranking.route_accuracy import RoutePhotos
from geoloc.geometry.street_graph import StreetGraph, local_metres, neighbour_links


def route_photos(questions: Questions, heading_deg: FloatArray) -> RoutePhotos:
    """Photos with a position and a tile of their own, linked along their streets, beside those tiles.

    heading_deg: float64[Q] of all photos, NaN where unknown. Embeddings are reduced to the protocol's components.
    Raises `InputError` where photos have several embeddings each, or the index has none.
    """
    photos, gallery = questions.queries, questions.gallery
    assert isinstance(photos, PhotoSet)
    if not gallery.has_embeddings or any(queries.embedding.shape[1] > 1 for _, queries in photos.groups):
        raise InputError(
            "Routes are compared by one embedding a photo: give headings, and an index with embeddings.",
            reason="no_such_figure",
        )
    projection = fit_projection(gallery.embeddings, questions.protocol.components or 128)
    dim = photos.groups[0][1].embedding.shape[-1]
    embeddings = np.zeros((len(photos), dim), np.float32)
    for rows, queries in photos.groups:
        embeddings[rows] = queries.embedding[:, 0]
    tile = np.full(len(photos), -1)
    tile[questions.right.query[::-1]] = questions.right.tile[::-1]
    kept = np.flatnonzero((tile >= 0) & np.isfinite(photos.lat) & np.isfinite(photos.lon))
    x, y = local_metres(photos.lat[kept], photos.lon[kept])
    return RoutePhotos(
        StreetGraph(x, y, heading_deg[kept] % 360.0, neighbour_links(x, y)),
        projection.apply(embeddings[kept]),
        projection.apply(np.asarray(gallery.embeddings_of(tile[kept]), np.float32)),
    )
