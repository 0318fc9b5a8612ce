"""The contrastive encoder: its loss by formula, its start, and what learning adds on places that it never saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from geoloc.core.errors import InputError
from geoloc.models.hash_encoders import contrastive
from geoloc.models.hash_encoders.contrastive import Contrastive, ContrastiveEncoder, bit_loss, start_weight
from geoloc.models.hash_encoders.encoder import FitSample, HashEncoder
from geoloc.models.hash_encoders.itq import principal_components

DIM = 32
QUICK = Contrastive(prefixes=(8,), steps=60, batch_size=128, learning_rate=0.05)


def pairs(count: int, seed: int) -> FitSample:
    """Tiles of 24 directions, the 8 widest of which photos do not see; photos lie about a mean of their own."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(99).normal(size=(DIM, DIM)))[0][:24]
    places, weather = rng.normal(size=(count, 24)), rng.normal(size=(count, 8))
    width = np.r_[np.full(8, 2.0), np.full(16, 1.0)]
    seen = places + 0.3 * rng.normal(size=places.shape)
    seen[:, :8] = weather
    tiles, photos = (places * width) @ basis + 3.0, (seen * width) @ basis - 1.0
    unit = [(x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (tiles, photos)]
    return FitSample(unit[0], unit[1], np.arange(count))


def found_first(encoder: HashEncoder, sample: FitSample, bits: int) -> float:
    """Share of the photos whose own tile has the nearest code, by the first `bits`; ties share their place."""
    assert sample.photos is not None
    photos, tiles = (encoder.codes(sample.photos, "ground"), encoder.codes(sample.tiles, "aerial"))
    apart = np.unpackbits(photos[:, None] ^ tiles[None], axis=-1)[..., :bits].sum(axis=-1)
    own = np.diagonal(apart)
    nearest = apart.min(axis=1)
    return float(np.where(own == nearest, 1 / (apart == nearest[:, None]).sum(axis=1), 0.0).mean())


def test_the_loss_is_info_nce_of_bits_and_of_reals_at_every_prefix() -> None:
    rng = np.random.default_rng(0)
    ground, aerial = rng.normal(size=(5, 16)), rng.normal(size=(5, 16))
    scales = np.array([[3.0, 5.0], [7.0, 11.0]])
    expected = 0.0
    for number, end in enumerate((8, 16)):
        photo, tile = ground[:, :end], np.sign(aerial[:, :end])
        of_bits = np.sign(photo) @ tile.T / end * scales[0, number]
        lengths = np.linalg.norm(photo, axis=1)[:, None] * np.linalg.norm(tile, axis=1)[None]
        of_reals = photo @ tile.T / lengths * scales[1, number]
        for similarity in (of_bits, of_reals):
            for rows in (similarity, similarity.T):
                share = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
                expected -= np.log(np.diagonal(share)).mean() / 2
    loss = bit_loss(*(torch.from_numpy(x) for x in (ground, aerial)), (8, 16), torch.from_numpy(scales))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_sign_passes_the_gradient_of_tanh() -> None:
    logits = torch.tensor([-2.0, -0.1, 0.3, 4.0], dtype=torch.float64, requires_grad=True)
    bits = contrastive.straight_through(logits)
    assert bits.detach().tolist() == [-1.0, -1.0, 1.0, 1.0]
    torch.autograd.backward(bits.sum())
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), 1 / np.cosh(logits.detach().numpy()) ** 2, rtol=1e-6)


def test_every_block_of_the_start_rotates_the_widest_components() -> None:
    tiles = pairs(300, 1).tiles
    centred = tiles - tiles.mean(axis=0)
    weight = start_weight(QUICK, (8, 16, 32, 72), centred)
    assert weight.shape == (72, DIM)
    components = principal_components(tiles)[1]
    for start, end, used in ((0, 8, 8), (8, 16, 8), (16, 32, 16), (32, 64, 32)):
        block = weight[start:end]
        np.testing.assert_allclose(block @ block.T, np.eye(end - start), atol=1e-4)  # orthonormal
        inside = block @ components[:used].T
        np.testing.assert_allclose(np.square(inside).sum(axis=1), 1.0, atol=1e-4)  # and of these alone
    assert not np.allclose(weight[:8], weight[8:16])  # two rotations of the same components


def test_learning_leaves_out_what_photos_do_not_see() -> None:
    sample, others = pairs(1000, 2), pairs(300, 3)
    learned = ContrastiveEncoder.fit(QUICK, 24, sample)
    start = ContrastiveEncoder.fit(QUICK.model_copy(update={"steps": 0}), 24, sample)
    assert found_first(learned, others, 24) > found_first(start, others, 24) + 0.1  # 0.21 and 0.01


def test_photos_and_tiles_are_centred_apart() -> None:
    sample = pairs(1000, 4)
    encoder = ContrastiveEncoder.fit(QUICK.model_copy(update={"steps": 0}), 16, sample)
    assert sample.photos is not None
    for embeddings, side in ((sample.photos, "ground"), (sample.tiles, "aerial")):
        logits = encoder.logits(embeddings, side)  # type: ignore[arg-type]
        np.testing.assert_allclose(logits.mean(axis=0), 0.0, atol=1e-5)


def test_a_turned_and_mirrored_world_keeps_the_similarity_of_pairs() -> None:
    rng = np.random.default_rng(0)
    photos, tiles = torch.randn(6, 24), torch.randn(6, 24)
    worlds = set()
    for _ in range(60):
        turned = contrastive._turned(photos, tiles, 8, rng)
        torch.testing.assert_close((turned[0] * turned[1]).sum(1), (photos * tiles).sum(1))
        worlds.add(tuple(turned[0][0].tolist()))
    assert len(worlds) == 8  # four quarter circles, each mirrored or not
    assert contrastive._turned(photos, tiles, 1, rng)[0] is photos  # embeddings without azimuth columns


def test_prefixes_beyond_the_code_do_not_count() -> None:
    encoder = ContrastiveEncoder.fit(Contrastive(steps=0), 32, pairs(100, 5))
    assert isinstance(encoder.section, Contrastive)
    assert encoder.section.prefixes == ()
    with pytest.raises(InputError, match="photos and their tiles"):
        ContrastiveEncoder.fit(Contrastive(), 32, FitSample(pairs(100, 5).tiles))
