"""Ways through the latent space that stay where the images are.

A straight line between two structures may cross a part of the latent space that no image visits, and
what the decoder makes up there is no structure of the sample. These paths follow the data instead.
"""

from itertools import pairwise

import numpy as np

from cryoatlas.analysis.alignment import evenly_spaced
from cryoatlas.shapes import Array, Float, Int

GRAPH_NEIGHBOURS = 12
"""Images that each image is linked with."""
GRAPH_IMAGES = 5000
"""At most this many images, evenly spaced, make up the graph."""
SMOOTHING = 30
"""A point of a path is the mean over this many images around it, which takes out their scatter."""


def shortest_order(points: Float[Array, "point latent"]) -> Int[Array, "point"]:
    """An order of few points that makes the way through all of them short, from one end to another.

    The nearest next point from every start, improved by turning stretches round (2-opt) until nothing
    gets shorter; the best of all starts. It begins at the end that comes first in the given order.
    """
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    best = np.arange(len(points))
    for start in range(len(points)):
        order = _improved(_greedy(distance, start), distance)
        if _length(order, distance) < _length(best, distance) - 1e-12:
            best = order
    return best[::-1] if best[0] > best[-1] else best


def data_path(
    latents: Float[Array, "image latent"], stations: Int[Array, "station"], count: int
) -> Float[Array, "count latent"]:
    """Points along a way from station to station that goes from image to nearby image.

    Between stations it takes the shortest way over the graph of nearest neighbours, its links weighted
    by their squared length, so that it keeps to where images are dense. Points are means over nearby
    images, about evenly spaced along the way; none lies in a gap that the way has to jump.

    Args:
        stations: images to pass, in this order.
        count: points of the path.
    """
    from sklearn.neighbors import NearestNeighbors

    chosen = np.union1d(evenly_spaced(len(latents), GRAPH_IMAGES).numpy(), stations)
    cloud = latents[chosen].astype(np.float64)
    way = _way(cloud, np.searchsorted(chosen, stations))
    around = NearestNeighbors(n_neighbors=min(SMOOTHING, len(cloud))).fit(cloud)

    def smooth(points: Float[Array, "step latent"]) -> Float[Array, "step latent"]:
        return cloud[around.kneighbors(points, return_distance=False)].mean(1)

    return smooth(_evenly_along(smooth(way), count))


def _way(cloud: Float[Array, "image latent"], stations: Int[Array, "station"]) -> Float[Array, "step latent"]:
    """The images that a way from station to station passes."""
    from scipy.sparse.csgraph import dijkstra
    from sklearn.neighbors import kneighbors_graph

    graph = kneighbors_graph(cloud, min(GRAPH_NEIGHBOURS, len(cloud) - 1), mode="distance")
    graph.data **= 2
    steps = [stations[:1]]
    for start, end in pairwise(stations):
        _, before = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
        stretch = [end]
        while stretch[-1] != start and before[stretch[-1]] >= 0:
            stretch.append(before[stretch[-1]])
        steps.append(np.array(stretch[::-1]))  # where no links lead there, the way jumps
    return cloud[np.concatenate(steps)]


def _evenly_along(way: Float[Array, "step latent"], count: int) -> Float[Array, "count latent"]:
    """Points at equal distances along a polyline."""
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(way, axis=0), axis=1))])
    places = np.linspace(0, lengths[-1], count)
    return np.stack([np.interp(places, lengths, axis) for axis in way.T], 1)


def _greedy(distance: Float[Array, "point point"], start: int) -> Int[Array, "point"]:
    order, left = [start], set(range(len(distance))) - {start}
    while left:
        nearest = min(left, key=lambda point: (distance[order[-1], point], point))
        order.append(nearest)
        left.remove(nearest)
    return np.array(order)


def _improved(order: Int[Array, "point"], distance: Float[Array, "point point"]) -> Int[Array, "point"]:
    """No reversal of a stretch makes the result shorter."""
    shorter = True
    while shorter:
        shorter = False
        for first in range(len(order) - 1):
            for last in range(first + 1, len(order)):
                turned = np.concatenate([order[:first], order[first : last + 1][::-1], order[last + 1 :]])
                if _length(turned, distance) < _length(order, distance) - 1e-12:
                    order, shorter = turned, True
    return order


def _length(order: Int[Array, "point"], distance: Float[Array, "point point"]) -> float:
    return float(distance[order[:-1], order[1:]].sum())
