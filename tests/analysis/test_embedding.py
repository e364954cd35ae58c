"""UMAP: refused with the fix where it cannot be made, deterministic and faithful where it can."""

import importlib.util

import numpy as np
import pytest

from cryoatlas.analysis.embedding import require_umap, umap_plane
from cryoatlas.analysis.latent import knn_circular
from cryoatlas.errors import ConfigError


@pytest.mark.parametrize("size", [0, 1, 2])
def test_latents_that_are_flat_already_need_no_umap(size):
    with pytest.raises(ConfigError, match=f"this run has {size}"):
        require_umap(size)


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"cryoatlas\[umap\]"):
        require_umap(8)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # umap-learn warns of extras that it does not find
def test_a_ring_stays_a_ring_and_the_plane_is_the_same_every_time():
    pytest.importorskip("umap", reason="umap-learn is not installed (the extra cryoatlas[umap])")
    generator = np.random.default_rng(0)
    angle = generator.uniform(0, 2 * np.pi, 600)
    ring = np.stack([np.cos(angle), np.sin(angle), 0.1 * generator.standard_normal(600)], 1)
    plane = umap_plane(ring.astype(np.float32))
    assert plane.shape == (600, 2)
    assert knn_circular(plane, angle)[0] > 0.95
    np.testing.assert_array_equal(umap_plane(ring.astype(np.float32)), plane)
