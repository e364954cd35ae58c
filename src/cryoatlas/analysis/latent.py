"""What a latent space says: how well it orders a known coordinate, its axes, clusters and paths.

Measures that compare a latent with a truth do not care about its scale, sign or rotation, since none
of them means anything. Those that predict a coordinate from the latent (`knn_regression`) leave the
image itself out, so that a latent of any dimension can be judged without overfitting.
"""

from dataclasses import dataclass

import numpy as np

from cryoatlas.analysis.alignment import evenly_spaced
from cryoatlas.analysis.traversal import shortest_order
from cryoatlas.shapes import Array, Float, Int

NEIGHBOURS = 20
QUERIES = 5000
"""At most this many images, evenly spaced, are predicted; all images may be their neighbours."""


def spearman(latent: Float[Array, "image"], coordinate: Float[Array, "image"]) -> float:
    """|ρ| of the ranks of a 1-D latent and a 1-D coordinate: 1 if one orders the images as the other.

    A latent or coordinate that is the same for all images orders nothing and gives 0.
    """
    from scipy.stats import rankdata

    if np.ptp(latent) == 0 or np.ptp(coordinate) == 0:
        return 0.0
    return float(abs(np.corrcoef(rankdata(latent), rankdata(coordinate))[0, 1]))


def circular_correlation(first: Float[Array, "image"], second: Float[Array, "image"]) -> float:
    """Correlation of two sets of angles (radians), in [−1, 1] (Fisher and Lee's ρ_T, 1983).

    Σ sin(a_i − a_j) sin(b_i − b_j) over pairs, normalised: 1 if b = a + constant, −1 if b = constant − a.
    It needs no origin, so it also holds where the angles fill the circle evenly.
    """

    def pair_sum(p: Float[Array, "image"], q: Float[Array, "image"]) -> float:
        # Σ_ij sin(p_i − p_j) sin(q_i − q_j) = |Σ e^{i(p−q)}|²/2 − |Σ e^{i(p+q)}|²/2, without the pairs.
        return (abs(np.exp(1j * (p - q)).sum()) ** 2 - abs(np.exp(1j * (p + q)).sum()) ** 2) / 2

    norm = np.sqrt(pair_sum(first, first) * pair_sum(second, second))
    return float(pair_sum(first, second) / norm) if norm > 0 else 0.0


def knn_regression(
    latents: Float[Array, "image latent"],
    targets: Float[Array, "image target"],
    neighbours: int = NEIGHBOURS,
) -> tuple[Int[Array, "query"], Float[Array, "query target"]]:
    """Predict targets from the mean over an image's nearest neighbours in z, itself left out.

    Returns:
        Which images were predicted (all, or `QUERIES` evenly spaced ones), and their predictions.
    """
    from sklearn.neighbors import NearestNeighbors

    count = len(latents)
    neighbours = min(neighbours, count - 1)
    queries = evenly_spaced(count, QUERIES).numpy()
    model = NearestNeighbors(n_neighbors=neighbours + 1).fit(latents)
    found = model.kneighbors(latents[queries], return_distance=False)
    # An image is its own nearest neighbour, except among duplicates: then any one of them is dropped.
    own = found == queries[:, None]
    own[~own.any(1), -1] = True
    others = found[~own].reshape(len(queries), neighbours)
    return queries, targets[others].mean(1)


def knn_spearman(
    latents: Float[Array, "image latent"], coordinate: Float[Array, "image"], neighbours: int = NEIGHBOURS
) -> float:
    """ρ between a coordinate and its prediction from the neighbours in z; 0 if z knows nothing."""
    from scipy.stats import rankdata

    queries, predicted = knn_regression(latents, coordinate[:, None], neighbours)
    if np.ptp(predicted) == 0 or np.ptp(coordinate) == 0:
        return 0.0
    return float(np.corrcoef(rankdata(predicted[:, 0]), rankdata(coordinate[queries]))[0, 1])


def knn_circular(
    latents: Float[Array, "image latent"], angle: Float[Array, "image"], neighbours: int = NEIGHBOURS
) -> tuple[float, float]:
    """As `knn_spearman` for an angle (radians): its cosine and sine are predicted.

    Returns:
        The circular correlation with the true angle, and the median error in radians.
    """
    queries, predicted = knn_regression(latents, np.stack([np.cos(angle), np.sin(angle)], 1), neighbours)
    prediction = np.arctan2(predicted[:, 1], predicted[:, 0])
    error = np.angle(np.exp(1j * (prediction - angle[queries])))
    return circular_correlation(prediction, angle[queries]), float(np.median(np.abs(error)))


def area_under_roc(
    score: Float[Array, "image"], positive: Int[Array, "image"], *, either_direction: bool = False
) -> float:
    """The chance that a positive image scores above a negative one; 0.5 is guessing.

    Args:
        positive: 1 for one class, 0 for the other.
        either_direction: return max(AUC, 1 − AUC), for scores whose sign means nothing.
    """
    from scipy.stats import rankdata

    ones = int(positive.sum())
    zeros = len(positive) - ones
    if ones == 0 or zeros == 0:
        raise ValueError("both classes need at least one image")
    area = (rankdata(score)[positive == 1].sum() - ones * (ones + 1) / 2) / (ones * zeros)
    return float(max(area, 1 - area) if either_direction else area)


def adjusted_rand_index(first: Int[Array, "image"], second: Int[Array, "image"]) -> float:
    """Agreement of two partitions: 1 if equal up to names, about 0 if independent."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(first, second))


def adjusted_mutual_information(first: Int[Array, "image"], second: Int[Array, "image"]) -> float:
    """Mutual information of two partitions over the mean of their entropies, less what chance gives.

    1 if they are equal up to names, about 0 if independent. Small parts count for more than in the
    adjusted Rand index, where pairs of images are counted.
    """
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(first, second))


@dataclass(frozen=True)
class PrincipalComponents:
    """Axes of largest variance of the latents, in descending order."""

    mean: Float[Array, "latent"]
    axes: Float[Array, "component latent"]
    """Unit rows; each one's largest entry is positive, so that signs repeat from run to run."""
    coordinates: Float[Array, "image component"]
    explained: Float[Array, "component"]
    """Fractions of the total variance."""

    @classmethod
    def of(cls, latents: Float[Array, "image latent"]) -> "PrincipalComponents":
        """The principal components of a set of latents."""
        centred = latents.astype(np.float64)
        mean = centred.mean(0)
        centred = centred - mean
        variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
        variances, axes = variances[::-1].clip(0), axes.T[::-1]
        largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
        axes = axes * np.sign(largest)
        total = variances.sum()
        explained = variances / total if total > 0 else variances
        return cls(mean, axes, centred @ axes.T, explained)

    def path(self, component: int, count: int = 10) -> Float[Array, "count latent"]:
        """Points along one axis through the mean, evenly from its 5th to its 95th percentile.

        Args:
            component: from 0.
        """
        low, high = np.percentile(self.coordinates[:, component], [5, 95])
        return self.mean + np.linspace(low, high, count)[:, None] * self.axes[component]


@dataclass(frozen=True)
class Clusters:
    """A partition of the images by their latents."""

    labels: Int[Array, "image"]
    centres: Float[Array, "cluster latent"]
    representatives: Int[Array, "cluster"]
    """The image nearest to each centre: its z is one that the data visit, which a mean need not be."""

    @property
    def sizes(self) -> Int[Array, "cluster"]:
        """Images per cluster."""
        return np.bincount(self.labels, minlength=len(self.centres))


def kmeans(latents: Float[Array, "image latent"], count: int, seed: int = 0) -> Clusters:
    """Partition into `count` clusters (fewer if there are fewer different latents), the same every time.

    Clusters are numbered along the shortest way through their centres, from the end that lies lower on
    the first principal component.
    """
    from sklearn.cluster import KMeans

    count = min(count, len(np.unique(latents, axis=0)))
    # The stub of scikit-learn knows n_init only by its default, the word "auto".
    model = KMeans(count, n_init=4, random_state=seed)  # pyright: ignore[reportArgumentType]
    model.fit(latents.astype(np.float64))
    along = (model.cluster_centers_ - latents.mean(0)) @ PrincipalComponents.of(latents).axes[0]
    ascending = np.argsort(along)
    order = ascending[shortest_order(model.cluster_centers_[ascending])]
    centres = model.cluster_centers_[order]
    labels = np.argsort(order)[model.labels_]
    return Clusters(labels, centres, nearest_images(centres, latents))


def nearest_images(
    points: Float[Array, "point latent"], latents: Float[Array, "image latent"]
) -> Int[Array, "point"]:
    """For each point, the image whose latent lies nearest."""
    from sklearn.neighbors import NearestNeighbors

    found = NearestNeighbors(n_neighbors=1).fit(latents).kneighbors(points, return_distance=False)
    return found[:, 0]
