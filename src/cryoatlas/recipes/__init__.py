"""Ways from particles to results: each recipe joins the rooms below into one run."""

from cryoatlas.recipes.presets import default, network, one_map, paper, paper_noisy, subspace

__all__ = ["default", "network", "one_map", "paper", "paper_noisy", "subspace"]
