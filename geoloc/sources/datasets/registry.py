"""The data sets that geoloc reads, by name: each is one module, which registers it where it is defined."""

from __future__ import annotations

import difflib

from geoloc.core.errors import ConfigError
from geoloc.core.extensions import import_modules
from geoloc.sources.datasets.rows import DataSet

_DATASETS: dict[str, DataSet] = {}


def register(dataset: DataSet) -> DataSet:
    """Make a data set known by its name; `ConfigError` where the name is taken by another module."""
    known = _DATASETS.get(dataset.name)
    if known is not None and known.plan.__module__ != dataset.plan.__module__:
        raise ConfigError(
            f"{dataset.plan.__module__} registers the data set {dataset.name!r}, which {known.plan.__module__} has "
            "already; choose another name."
        )
    _DATASETS[dataset.name] = dataset
    return dataset


def find(name: str) -> DataSet:
    """The data set of that name; `ConfigError` with the nearest name for an unknown one."""
    import_modules("geoloc.sources.datasets")
    if name not in _DATASETS:
        near = difflib.get_close_matches(name, _DATASETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_DATASETS)}."
        raise ConfigError(f"There is no data set {name!r}; {hint}")
    return _DATASETS[name]
