"""`geoloc bench search`: exact and approximate search, opening, re-ranking and building, against their bars.

Everything runs in this one process on generated codes (they have no structure, so nothing can be skipped) and, for
the approximate search, on a user's own codes where given. Ratios are what to keep: machines are shared.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
from llvmlite import binding
from pydantic import BaseModel, ConfigDict, Field

from geoloc.bench import galleries
from geoloc.bench.approximate import ListsResult, measure_lists
from geoloc.bench.building import BuildResult, measure_build
from geoloc.bench.measure import Bar, ratios
from geoloc.bench.opening import OpeningResult, measure_opening, measure_rerank
from geoloc.bench.report import SearchReport
from geoloc.bench.scans import OURS, ScanResult, compare_scans, has_usearch
from geoloc.core import storage
from geoloc.core.errors import ConfigError
from geoloc.core.progress import say
from geoloc.index.search import scan as index_scan
from geoloc.index.search.kernels.scan_kernel import Kernel, compiled_kernel, default_kernel

_FULL_SIZES = (1_000_000, 10_000_000)
_GROWTH_LIMIT = 10.0


class SearchBench(BaseModel):
    """What is measured; the defaults take about three minutes on two cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sizes: list[int] = Field([100_000, 1_000_000], description="Tiles in the galleries to scan.")
    bits: list[int] = Field([256, 512], description="Bits of a code.")
    batches: list[int] = Field([1, 32, 256], description="Queries in a batch.")
    k: int = Field(10, ge=1, le=1000, description="Neighbours to return for a query.")
    rounds: int = Field(5, ge=1, description="How often each measurement is repeated.")
    full: bool = Field(False, description="Scan 1 and 10 million tiles and open a shard of 10 million.")
    parts: list[Literal["scan", "open", "rerank", "lists", "build"]] = Field(
        ["scan", "open", "rerank", "lists", "build"], description="Measurements to take."
    )
    codes: str | None = Field(None, description="URI of a codes table, for the approximate search.")
    build_tiles: int = Field(400_000, ge=100, description="Tiles of the index to build.")
    build_shards: int = Field(4, ge=1, description="Shards of the index to build.")
    threads: int | None = Field(None, ge=1, description="Threads of a search; default: all available CPUs.")
    scratch: str | None = Field(None, description="Directory for temporary files.")

    def tiles(self) -> list[int]:
        """Sizes of the galleries."""
        return sorted(_FULL_SIZES if self.full else self.sizes)


def run(config: SearchBench, output: str | None = None) -> SearchReport:
    """Measure search, opening, re-ranking and building on this machine, against FAISS and usearch.

    With `output` the report is written there as JSON. Raises `AnswersDiffer` when another library's answer is not ours.
    """
    _check(config)
    kernel, threads = default_kernel(), config.threads or index_scan.thread_count()
    with tempfile.TemporaryDirectory(prefix="geoloc-bench-", dir=config.scratch) as scratch:
        root = Path(scratch)
        scans, opening = _scan_galleries(config, root, kernel, threads)
        rerank = measure_rerank(root, config.rounds) if "rerank" in config.parts else []
        lists = _lists(config, kernel, threads) if "lists" in config.parts else []
        build = _build(config, root) if "build" in config.parts else []
    measured: list[ScanResult | OpeningResult | BuildResult] = [*scans, *opening, *build]
    bars = [bar for result in measured for bar in result.bars()] + _growth(scans)
    report = SearchReport(
        machine=_machine(kernel, threads),
        scans=scans,
        opening=opening,
        rerank=rerank,
        lists=lists,
        build=build,
        bars=bars,
    )
    if output:
        storage.write_bytes(storage.absolute(output), (report.model_dump_json(indent=1) + "\n").encode())
    return report


def _check(config: SearchBench) -> None:
    for name, values, least in (
        ("sizes", config.sizes, config.k),
        ("bits", config.bits, 8),
        ("batches", config.batches, 1),
    ):
        if not values or min(values) < least:
            raise ConfigError(f"{name} is {json.dumps(values)}; give numbers of {least} or more.")
    if any(bits % 8 for bits in config.bits):
        raise ConfigError(f"bits is {json.dumps(config.bits)}; give multiples of 8.")


def _scan_galleries(
    config: SearchBench, root: Path, kernel: Kernel, threads: int
) -> tuple[list[ScanResult], list[OpeningResult]]:
    scans, opening = [], []
    sizes = config.tiles() if {"scan", "open"} & set(config.parts) else []
    for tiles in sizes:
        for bits in config.bits:
            say(f"bench: {tiles:,} x {bits} bits")
            directory = root / f"{tiles}-{bits}"
            entry = galleries.write_gallery(directory, galleries.random_codes(tiles, bits, seed=bits))
            shard = galleries.open_gallery(directory, entry, bits)
            for batch in config.batches if "scan" in config.parts else []:
                queries = galleries.random_codes(batch, bits, seed=batch)
                scans.append(
                    compare_scans(
                        shard,
                        queries,
                        config.k,
                        kernel=kernel,
                        threads=threads,
                        rounds=config.rounds,
                        usearch=has_usearch(),
                    )
                )
            if "open" in config.parts and tiles == sizes[-1]:
                opening.append(measure_opening(directory, entry, bits, config.rounds))
            del shard
            for file in directory.iterdir():
                file.unlink()
    return scans, opening


def _lists(config: SearchBench, kernel: Kernel, threads: int) -> list[ListsResult]:
    name, rounds = "generated, without structure", min(config.rounds, 3)
    codes = galleries.random_codes(min(config.tiles()[-1], 200_000), config.bits[0], seed=0)
    say(f"bench: lists over {len(codes):,} codes")
    results = measure_lists(codes, name, kernel=kernel, threads=threads, rounds=rounds)
    if config.codes is not None:
        own = galleries.own_codes(config.codes)
        say(f"bench: lists over {len(own):,} codes of {config.codes}")
        results += measure_lists(own, config.codes, kernel=kernel, threads=threads, rounds=rounds)
    return results


def _build(config: SearchBench, root: Path) -> list[BuildResult]:
    say(f"bench: building {config.build_shards} shards of {config.build_tiles // config.build_shards:,}")
    rounds = min(config.rounds, 3)
    return [
        measure_build(
            root / "build",
            tiles=config.build_tiles,
            bits=config.bits[0],
            shards=config.build_shards,
            rounds=rounds,
        )
    ]


def _growth(scans: list[ScanResult]) -> list[Bar]:
    """How much longer ten times the tiles take, for each width and batch that was scanned at both sizes."""
    bars = []
    by_key = {(scan.tiles, scan.bits, scan.batch): scan for scan in scans}
    for (tiles, bits, batch), small in by_key.items():
        large = by_key.get((10 * tiles, bits, batch))
        if large is not None:
            bars.append(
                Bar(
                    what=f"{tiles:,} to {10 * tiles:,} x {bits} bits, batch {batch}: scan time",
                    value=ratios(large.seconds[OURS], small.seconds[OURS]),
                    limit=_GROWTH_LIMIT,
                    at_most=True,
                )
            )
    return bars


def _machine(kernel: Kernel, threads: int) -> dict[str, str | int]:
    features = binding.get_host_cpu_features() if compiled_kernel() is not None else {}
    wide = [name for name in ("avx2", "avx512f", "avx512vpopcntdq", "amx-int8") if features.get(name)]
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "threads": threads,
        "architecture": platform.machine(),
        "vectors": " ".join(wide) or "none known",
        "kernel": kernel.name,
        "faiss": faiss.__version__,
        "numpy": np.__version__,
    }
