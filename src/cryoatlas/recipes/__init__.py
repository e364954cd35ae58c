"""Ways from particles to results: each recipe joins the rooms below into one run."""

from cryoatlas.recipes.presets import heterogeneous, paper, paper_noisy

__all__ = ["heterogeneous", "paper", "paper_noisy"]
