"""The subspace engine: volumes on grids, poses integrated out, maps solved and not trained."""
