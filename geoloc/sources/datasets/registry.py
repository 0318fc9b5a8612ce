"""The data sets that geoloc reads, by name."""

from __future__ import annotations

import difflib

from geoloc.core.errors import ConfigError
from geoloc.sources.datasets import cvact, cvusa, map25d, university1652, vigor, webdataset, xyz
from geoloc.sources.datasets.rows import DataSet

DATASETS: dict[str, DataSet] = {
    module.DATASET.name: module.DATASET
    for module in (cvusa, cvact, vigor, university1652, map25d, webdataset, xyz)
}


def find(name: str) -> DataSet:
    """The data set of that name; `ConfigError` with the nearest name for an unknown one."""
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(DATASETS)}."
        raise ConfigError(f"There is no data set {name!r}; {hint}")
    return DATASETS[name]
