from __future__ import annotations

import numpy as np
import pytest
import torch

from geoloc.losses.contrastive import symmetric_info_nce
from geoloc.losses.hashing import orthogonality_loss, prefix_loss, quantisation_loss, relaxed_similarity


def test_saturated_similarity_is_the_hamming_distance() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 64, generator=g), torch.randn(9, 64, generator=g)
    similarity = relaxed_similarity(a * 1e6, b * 1e6).numpy()
    distance = ((a.numpy() > 0)[:, None] != (b.numpy() > 0)[None]).sum(-1)
    np.testing.assert_allclose(similarity, 1 - 2 * distance / 64, atol=1e-6)


def test_prefix_loss_is_the_mean_over_prefixes() -> None:
    g = torch.Generator().manual_seed(1)
    a, b = torch.randn(5, 16, generator=g), torch.randn(5, 16, generator=g)
    expected = []
    for k in (8, 16):
        left, right = torch.tanh(a[:, :k]), torch.tanh(b[:, :k])
        cosine = left @ right.T / (left.norm(dim=1)[:, None] * right.norm(dim=1))
        expected.append(symmetric_info_nce(cosine / 0.1).item())
    assert prefix_loss(a, b, (8, 16), temperature=0.1).item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_prefix_loss_ignores_masked_pairs() -> None:
    a = torch.tensor([[5.0] * 8, [5.0] * 8])
    mask = torch.tensor([[False, True], [True, False]])
    assert prefix_loss(a, a, (8,), temperature=0.1, ignored=mask).item() == pytest.approx(0.0, abs=1e-6)
    assert prefix_loss(a, a, (8,), temperature=0.1).item() == pytest.approx(np.log(2), rel=1e-5)


def test_quantisation_loss_by_formula() -> None:
    logits = torch.tensor([[0.0, 0.5, -0.5, 20.0]])
    expected = np.mean((np.abs(np.tanh([0.0, 0.5, -0.5, 20.0])) - 1) ** 2)
    assert quantisation_loss(logits).item() == pytest.approx(expected, rel=1e-5)
    assert quantisation_loss(torch.zeros(2, 3)).item() == 1.0


def test_gradients() -> None:
    g = torch.Generator().manual_seed(2)
    a = torch.randn(3, 8, generator=g, dtype=torch.float64, requires_grad=True)
    b = torch.randn(3, 8, generator=g, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, y: prefix_loss(x, y, (4, 8), temperature=0.5), (a, b))
    assert torch.autograd.gradcheck(quantisation_loss, (a,))
    assert torch.autograd.gradcheck(orthogonality_loss, (a,))


def test_orthogonality_by_formula() -> None:
    basis = torch.linalg.qr(
        torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    )[0]
    assert orthogonality_loss(basis[:5]).item() == pytest.approx(0.0, abs=1e-12)
    doubled = torch.stack([basis[0], basis[0]])
    assert orthogonality_loss(doubled).item() == pytest.approx((1 + 1) / 2)
