"""The report of `geoloc bench search`, and its text."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from geoloc.bench.approximate import ListsResult
from geoloc.bench.building import BuildResult
from geoloc.bench.measure import Bar, Spread
from geoloc.bench.opening import OpeningResult, RerankResult
from geoloc.bench.scans import ASYMMETRIC, DEFAULT, FLOOR, OURS, TUNED, USEARCH, ScanResult

_VARIANTS = (FLOOR, OURS, DEFAULT, TUNED, USEARCH, ASYMMETRIC)


class SearchReport(BaseModel):
    """What `geoloc bench search` measured, and the bars."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: dict[str, str | int]
    scans: list[ScanResult]
    opening: list[OpeningResult]
    rerank: list[RerankResult]
    lists: list[ListsResult]
    build: list[BuildResult]
    bars: list[Bar]

    def text(self) -> str:
        """Tables of the measurements, the bars last."""
        lines = ["machine: " + ", ".join(f"{name} {value}" for name, value in self.machine.items())]
        if self.scans:
            lines += ["", "exact scan, milliseconds a batch: median (min to max); all answers equal", _head()]
            lines += [_scan_line(scan) for scan in self.scans]
        for opened in self.opening:
            lines += [
                "",
                f"opening {opened.tiles:,} x {opened.bits} bits: {_spread(Spread.of(opened.milliseconds))} ms, "
                f"{opened.private_bytes:,} bytes of private memory for {opened.shard_bytes:,} of files",
            ]
        if self.rerank:
            lines += ["", "re-ranking one query, one thread, microseconds: median (min to max)"]
            for rerank in self.rerank:
                shown = ", ".join(f"{name} {_spread(value)}" for name, value in rerank.microseconds.items())
                lines.append(f"  {rerank.candidates:>5} candidates x {rerank.dim}: {shown}")
        if self.lists:
            lines += ["", "approximate search, one thread, recall by distance (equal distances are equal)"]
        for lists in self.lists:
            lines.append(
                f"  {lists.engine}, {lists.tiles:,} x {lists.bits} bits ({lists.codes}), {lists.lists} lists in "
                f"{lists.build_s:.1f} s, {lists.bytes_per_tile:.0f} bytes a tile, {lists.probes} probes: recall@1 "
                f"{lists.recall_at_1:.3f}, @10 {lists.recall_at_10:.3f}, {lists.queries_per_s:,.0f} queries/s, "
                f"{_spread(lists.faster)} x the exact scan"
            )
        for build in self.build:
            lines += [
                "",
                f"building {build.tiles_per_shard:,} tiles x {build.bits} bits a shard on {build.cores} cores: one "
                f"{_spread(Spread.of(build.one_s))} s, {build.shards} {_spread(Spread.of(build.all_s))} s",
            ]
        lines += ["", "bars: median (min to max over the rounds)"]
        return "\n".join([*lines, *(f"  {bar.line()}" for bar in self.bars)])


def _head() -> str:
    return f"  {'tiles x bits':>18} {'batch':>5}  " + "".join(f"{name:>28}" for name in _VARIANTS)


def _scan_line(scan: ScanResult) -> str:
    cells = [_spread(scan.spread(name)) if name in scan.seconds else "-" for name in _VARIANTS]
    return f"  {f'{scan.tiles:,} x {scan.bits}':>18} {scan.batch:>5}  " + "".join(
        f"{cell:>28}" for cell in cells
    )


def _spread(spread: Spread) -> str:
    return f"{spread.median:,.2f} ({spread.min:,.2f} to {spread.max:,.2f})"
