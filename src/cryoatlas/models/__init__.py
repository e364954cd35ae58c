"""Volumes and posteriors with parameters: the coordinate networks of the paper, and voxel grids."""
