"""Trials of codes: recalls against a plain count, the advice, reuse."""

from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import ConfigError
from geoloc.evaluation.ranking.code_trials import CodeTrial, TrialData
from geoloc.evaluation.ranking.encoded_queries import EncodedTable
from geoloc.evaluation.ranking.ranks import TruthTable
from geoloc.index.search.kernels.weighted_scan import weighted_distances
from geoloc.index.search.snapshot import Snapshot
from geoloc.models.hash_encoders.encoder import EncoderCard, FitSample
from geoloc.models.hash_encoders.itq import Itq
from geoloc.stages.codes import (
    _BUILDABLE,
    CodesConfig,
    CodesInputs,
    _encoded,
    _has_length,
    _sample,
    advise,
    run,
)

pytestmark = pytest.mark.usefixtures("ray_local", "parts_here_in_module")


@pytest.fixture(scope="module")
def tried(ray_local, parts_here_in_module, small_index, tmp_path_factory):
    output = str(tmp_path_factory.mktemp("codes") / "out")
    config = CodesConfig(bits=(32, 64, 128), tiles=1000, memory_gib=1.0)
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
    lengths = {
        kind: {t.bits for t in tried.trials if t.encoder == kind} for kind in ("trained", "random", "itq")
    }
    # 60 tiles have no 64 principal components.
    assert lengths == {"trained": {32, 64, 128}, "random": {32, 64, 128}, "itq": {32}}
    for trial in tried.trials:
        assert trial.recall["R@1"] <= trial.recall["R@5"] <= trial.recall["R@10"]
    floats = tried.trials[0]
    assert floats.float_best_in_100 == 100.0
    text = tried.text()
    best = tried.advice.trial
    assert best.recall["R@1"] == max(t.recall["R@1"] for t in tried.trials if t.method in _BUILDABLE)
    assert f"For 1,000 tiles in 1 GiB: encoder {best.encoder}, {best.bits} bits, {best.method}" in text
    of_model = [t for t in tried.trials if t.encoder == "trained"]
    advice = advise(of_model, 1000, 2**30, 128)
    assert "encoder trained" in tried.model_copy(update={"advice": advice}).text()
    assert "fit-codes" not in tried.model_copy(update={"advice": advice}).text()
    for other in (t for t in tried.trials if t.encoder in ("itq", "random") and t.method == "codes"):
        shown = tried.model_copy(update={"advice": advice.model_copy(update={"trial": other})}).text()
        assert f"geoloc fit-codes --kind {other.encoder} --bits {other.bits}`" in shown


def test_a_fitted_encoder_is_the_one_that_fit_codes_makes():
    rng = np.random.default_rng(0)
    tiles = rng.normal(size=(300, 64)).astype(np.float32)
    tiles /= np.linalg.norm(tiles, axis=1, keepdims=True)
    data = TrialData.of(tiles[:5], tiles.astype(np.float16), TruthTable(np.arange(5), np.arange(5)))
    mine = Itq().network.fit(Itq(), 32, _sample(data))
    logits, codes = _encoded(mine, data)
    assert np.array_equal(
        codes, np.packbits(mine.logits(data.tiles.astype(np.float32), "aerial") > 0, axis=1)
    )
    stored = data.tiles.astype(np.float32)
    whole = Itq().network.fit(Itq(), 32, FitSample(stored / np.linalg.norm(stored, axis=1, keepdims=True)))
    assert np.array_equal(np.sign(logits), np.sign(whole.logits(tiles[:5], "ground")))


def test_a_length_that_is_no_prefix_of_the_models_code_is_not_taken_for_it():
    card = EncoderCard(name="itq", bits=256, nested=False, fingerprint="f")
    assert [_has_length(card, bits) for bits in (64, 256)] == [False, True]
    nested = card.model_copy(update={"nested": True})
    assert [_has_length(nested, bits) for bits in (64, 256, 512)] == [True, True, False]


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
