"""Centred transforms, lattices of frequencies, shells and masks."""
