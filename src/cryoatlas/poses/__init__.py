"""Poses of images against a volume: branch and bound over grids, then continuous refinement."""
