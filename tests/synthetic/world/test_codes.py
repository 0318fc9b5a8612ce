from __future__ import annotations

import numpy as np
import pytest

from geoloc.core.errors import InputError
from geoloc.synthetic.world.codes import BLOCK, CodeModel, block_places, code_block, fit_codes, nearest_bits
from geoloc.synthetic.world.distractors import TileShape, distractor_tiles
from geoloc.synthetic.world.raster import City

BITS = 64


def signs(codes: np.ndarray) -> np.ndarray:
    return np.unpackbits(codes, axis=1).astype(np.float32) * 2 - 1


def encode_by_hand(pictures: list[np.ndarray]) -> np.ndarray:
    """Codes of real tiles: signs of random projections of their coarse colours."""
    flat = np.stack([p.reshape(8, 8, 8, 8, 3).mean((1, 3)).ravel() for p in pictures])
    random = np.random.default_rng(0).standard_normal((flat.shape[1], BITS))
    return np.packbits(
        (flat - flat.mean(0)) @ random > random.std(0) * flat.std() * np.linspace(-8, 8, BITS), axis=1
    )


@pytest.fixture(scope="module")
def real(city: City) -> np.ndarray:
    return encode_by_hand(distractor_tiles(city, 1, 0, 1500, TileShape(51.2, 64)).pictures)


@pytest.fixture(scope="module")
def model(real: np.ndarray) -> CodeModel:
    return fit_codes(real)


def test_generated_codes_have_the_statistics_of_the_real_ones(real: np.ndarray, model: CodeModel) -> None:
    made = signs(code_block(model, 3, 5)[: len(real)])
    random = signs(np.random.default_rng(1).integers(0, 256, real.shape, np.uint8))
    wanted, level = signs(real), np.linspace(0.05, 0.95, 19)

    def missed(codes: np.ndarray) -> tuple[float, float, float]:
        near = np.abs(np.quantile(nearest_bits(codes), level) - np.quantile(nearest_bits(wanted), level))
        together = np.abs(np.corrcoef(codes.T) - np.corrcoef(wanted.T))
        return (
            float(near.mean()),
            float(together.mean()),
            float(np.abs(codes.mean(0) - wanted.mean(0)).mean()),
        )

    ours, chance = missed(made), missed(random)
    assert ours[0] < 0.3 * chance[0]
    assert ours[1] < 0.4 * chance[1]
    assert ours[2] < 0.6 * chance[2]


def test_a_block_depends_on_its_number_alone(model: CodeModel) -> None:
    block = code_block(model, 3, 9)
    assert block.shape == (BLOCK, BITS // 8)
    code_block(model, 3, 8)
    np.testing.assert_array_equal(code_block(model, 3, 9), block)
    assert (code_block(model, 3, 10) != block).any(1).mean() > 0.99
    assert (code_block(model, 4, 9) != block).any(1).mean() > 0.99


def test_neighbours_in_a_group_are_nearer_than_others(model: CodeModel) -> None:
    block = signs(code_block(model, 3, 0))
    within = (BITS - (block[0::4] * block[1::4]).sum(1)) / 2
    across = (BITS - (block[0:-4:4] * block[4::4]).sum(1)) / 2
    assert within.mean() < 0.75 * across.mean()


def test_places_of_blocks_do_not_overlap() -> None:
    boxes = []
    for block in (0, 1, 255, 256, 257):
        x, y = block_places(block)
        assert len(np.unique(np.stack([x, y], -1), axis=0)) == BLOCK
        assert y.max() < -2048
        boxes.append((x.min(), y.min(), x.max(), y.max()))
    for k, a in enumerate(boxes):
        for b in boxes[k + 1 :]:
            assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


def test_too_few_codes_are_refused() -> None:
    with pytest.raises(InputError, match="20 codes are too few"):
        fit_codes(np.zeros((20, 8), np.uint8))
