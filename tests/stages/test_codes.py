"""Trials of codes: recalls against a plain count, the advice, reuse."""

from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import ConfigError
from geoloc.evaluation.ranking.code_trials import CodeTrial
from geoloc.evaluation.ranking.encoded_queries import EncodedTable
from geoloc.index.search.kernels.weighted_scan import weighted_distances
from geoloc.index.search.snapshot import Snapshot
from geoloc.stages.codes import CodesConfig, CodesInputs, advise, run

pytestmark = pytest.mark.usefixtures("ray_local")


@pytest.fixture(scope="module")
def tried(ray_local, small_index, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("codes") / "out")
    config = CodesConfig(bits=(64, 128), tiles=1000, memory_gib=1.0)
    inputs = CodesInputs(index=small_index.index, queries=small_index.ingested)
    result = run(config, inputs, output)
    assert run(config, inputs, output).reused
    return result


def test_recalls_are_those_of_a_plain_count(tried, small_index):
    encoded = EncodedTable(f"{tried.output}/encoded")
    snapshot = Snapshot.open(small_index.index)
    codes = np.concatenate([shard.codes for shard in snapshot.shards])
    vectors = np.concatenate([shard.embeddings for shard in snapshot.shards]).astype(np.float32)
    ids = [name for shard in snapshot.shards for name in shard.tiles()[0].to_pylist()]
    hits, count = {"codes": 0, "asymmetric": 0, "floats": 0}, 0
    for rows, queries in encoded.groups():
        if not queries.heading_known:
            continue
        for number, row in enumerate(rows):
            right = encoded.query_ids[int(row)].as_py().replace("query", "tile")
            apart = np.bitwise_count(codes ^ queries.code[number, 0]).sum(axis=1, dtype=np.int64)
            weighed = weighted_distances(np.ascontiguousarray(queries.weights[number]), codes)[0]
            similar = -(vectors @ queries.embedding[number, 0])
            for name, distance in (("codes", apart), ("asymmetric", weighed), ("floats", similar)):
                first = min(range(len(ids)), key=lambda tile, d=distance: (d[tile], ids[tile]))
                hits[name] += ids[first] == right
            count += 1
    assert tried.photos == count
    for name, number in hits.items():
        trial = next(t for t in tried.trials if t.method == name and t.bits in (0, 128))
        assert trial.recall["R@1"] == pytest.approx(100 * number / count, abs=1.5)


def test_every_comparison_stands_side_by_side(tried):
    methods = {(trial.encoder, trial.method) for trial in tried.trials}
    assert {("trained", "codes"), ("trained", "asymmetric"), ("trained", "asymmetric + int8")} <= methods
    for trial in tried.trials:
        assert trial.recall["R@1"] <= trial.recall["R@5"] <= trial.recall["R@10"]
    floats = tried.trials[0]
    assert floats.float_best_in_100 == 100.0
    text = tried.text()
    assert "For 1,000 tiles in 1 GiB: encoder trained" in text


def trial(bits: int, method: str, first: float) -> CodeTrial:
    return CodeTrial(
        encoder="e",
        bits=bits,
        method=method,
        recall={"R@1": first},
        float_best_in_100=0.0,
        bytes_per_tile=bits / 8,
        scan_ms=None,
    )


def test_the_advice_is_the_best_that_fits():
    trials = [
        trial(64, "codes", 20.0),
        trial(512, "asymmetric", 60.0),
        trial(512, "asymmetric + float16", 70.0),
        trial(512, "asymmetric + int8", 99.0),  # an index cannot be built so
    ]
    million = 1_000_000
    best = advise(trials, million, 2e9, 512)
    assert best.trial.method == "asymmetric + float16"
    assert best.total_bytes == best.bytes_per_tile * million > 1024 * million
    assert advise(trials, million, 2e8, 512).trial.method == "asymmetric"
    assert advise(trials, million, 8e7, 512).trial.bits == 64
    assert advise(trials, million, 1e6, 512) is None


def test_lengths_that_the_model_lacks_are_refused(small_index, tmp_path):
    with pytest.raises(ConfigError, match="multiples of 8"):
        run(
            CodesConfig(bits=(64, 4096)),
            CodesInputs(index=small_index.index, queries=small_index.ingested),
            str(tmp_path / "out"),
        )
