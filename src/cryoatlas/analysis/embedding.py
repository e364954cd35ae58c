"""Flat pictures of high-dimensional latents by UMAP, which is an extra."""

import importlib.util

import numpy as np

from cryoatlas.errors import ConfigError
from cryoatlas.shapes import Array, Float


def require_umap(latent_size: int) -> None:
    """Check, before any work is done, that a UMAP can be made.

    Raises:
        ConfigError: umap-learn is not installed, or the latent has no more than two dimensions.
    """
    if latent_size <= 2:
        raise ConfigError(
            f"--umap flattens latents of three or more dimensions, but this run has {latent_size}: "
            "leave it out."
        )
    if importlib.util.find_spec("umap") is None:
        raise ConfigError(
            "--umap needs the package umap-learn, which is not installed: pip install 'cryoatlas[umap]'."
        )


def umap_plane(latents: Float[Array, "image latent"], seed: int = 0) -> Float[Array, "image 2"]:
    """UMAP coordinates of every image, the same every time."""
    import umap

    model = umap.UMAP(n_neighbors=15, min_dist=0.1, random_state=seed, n_jobs=1)
    return np.asarray(model.fit_transform(latents))
