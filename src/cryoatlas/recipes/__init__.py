"""Ways from particles to results: each recipe joins the rooms below into one run."""
