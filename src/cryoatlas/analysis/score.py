"""How right a run is where the truth is known: maps, poses and latents in numbers (the paper's M12).

The measure of Table 2 of the paper is the resolution per image: the volume that the run has for an
image's own z is compared with the map of that image's true state, and the period at which the FSC
falls under 0.5 is averaged over 100 images. Maps are brought to the true frame by motions that come
from the poses, once for the whole run and once for each state (convention C10).
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import torch

from cryoatlas.analysis.alignment import Alignment, align_volume, evenly_spaced
from cryoatlas.analysis.change import MovingPart, change_correlations
from cryoatlas.analysis.fsc import area_under_curve, cryobench_area, fourier_shell_correlation, resolution
from cryoatlas.analysis.latent import (
    adjusted_mutual_information,
    adjusted_rand_index,
    kmeans,
    knn_circular,
    knn_spearman,
    spearman,
)
from cryoatlas.analysis.leakage import Imaging
from cryoatlas.analysis.neighbour_score import NeighbourScore, neighbour_score
from cryoatlas.analysis.pose_error import PoseComparison, compare_poses
from cryoatlas.analysis.truth import Truth, spoken
from cryoatlas.errors import MetadataError
from cryoatlas.geometry.pose import Pose
from cryoatlas.progress import Progress, silent
from cryoatlas.shapes import Array, Float, Int

FEW_STATES = 20
"""Up to this many states, the clusters of the latents are compared with the states."""
TARGETS = {"state": "the true state", "orientation": "the true orientation", "ctf": "the CTF"}
"""How the table calls what z is compared with."""

Volumes = Callable[[Float[Array, "image latent"]], Iterable[Float[Array, "box box box"]]]
"""Gives the volume V(z) of each z, one after the other."""


@dataclass(frozen=True)
class MapScore:
    """Agreement of per-image volumes with their true maps, under one kind of alignment."""

    curves: Float[Array, "image shell"]
    """FSC of each measured image."""
    cryobench_areas: Float[Array, "image"]
    """Area under each image's FSC in CryoBench's shells (`cryobench_area`)."""
    box_size: int
    pixel_size: float
    """Å."""
    changes: Float[Array, "image"] | None = None
    """Correlation of each map's deviation from the average with the true one, where the body moves
    (`change_correlations`); None if nothing moves."""

    @property
    def resolutions_px(self) -> Float[Array, "image"]:
        """Period at FSC = 0.5 of each image, box / shell; 2.0 is the best possible."""
        return np.array([resolution(curve, 0.5, self.box_size) for curve in self.curves])

    def summary(self) -> dict[str, float | None]:
        """Means and spreads by name; lengths without a suffix are Å, None is what does not apply."""
        px = self.resolutions_px
        areas = [area_under_curve(curve, self.box_size) for curve in self.curves]
        return {
            "mean_px": float(px.mean()),
            "std_px": float(px.std()),
            "median_px": float(np.median(px)),
            "mean": float(px.mean() * self.pixel_size),
            "std": float(px.std() * self.pixel_size),
            "median": float(np.median(px) * self.pixel_size),
            "mean_fsc_area": float(np.mean(areas)),
            "mean_cryobench_area": float(self.cryobench_areas.mean()),
            "std_cryobench_area": float(self.cryobench_areas.std()),
            "mean_change_correlation": None if self.changes is None else float(self.changes.mean()),
        }


@dataclass(frozen=True)
class CoordinateScore:
    """What the latents know of one true coordinate."""

    spearman: float | None
    """|ρ| of a 1-D latent with the coordinate; None for more dimensions."""
    knn_spearman: float
    """ρ of the coordinate with its prediction from neighbours in z."""
    circular: float | None = None
    """Circular correlation of a periodic coordinate with its prediction; else None."""
    circular_error_deg: float | None = None
    """Median error of that prediction."""


@dataclass(frozen=True)
class MaskedMaps:
    """The maps compared under a mask, under both kinds of alignment."""

    run: MapScore
    states: MapScore


@dataclass(frozen=True)
class Score:
    """Everything that is measured of a run."""

    images: Int[Array, "image"]
    """Which images' volumes were compared."""
    run: MapScore
    """Maps after the run's one alignment, without a mask."""
    states: MapScore
    """The same maps, each after its state's alignment."""
    masked: MaskedMaps | None
    """Both again with the mask, if one was given."""
    poses: PoseComparison | None
    """None where the run or the truth has no poses."""
    coordinates: dict[str, CoordinateScore] = field(default_factory=dict)
    """By name of the true coordinate; empty for a homogeneous run."""
    rand_index: float | None = None
    """Adjusted Rand index of k-means clusters of z, as many as states; None for many states."""
    mutual_information: float | None = None
    """Adjusted mutual information of the same clusters and states."""
    neighbours: NeighbourScore | None = None
    """None for a homogeneous run."""

    def to_json(self) -> str:
        """All numbers, lengths in Å unless their name says px."""
        poses = None
        if self.poses is not None and self.poses.states is not None:
            poses = {
                "mirrored": self.poses.alignment.mirrored,
                "opposite_hand": self.poses.opposite_hand,
                "run": asdict(self.poses.run),
                "states": asdict(self.poses.states),
            }
        content = {
            "images": self.images.tolist(),
            "box_size": self.run.box_size,
            "pixel_size": self.run.pixel_size,
            **_map_content(self.run, self.states),
            "masked": None if self.masked is None else _map_content(self.masked.run, self.masked.states),
            "poses": poses,
            "coordinates": {name: asdict(score) for name, score in self.coordinates.items()},
            "rand_index": self.rand_index,
            "mutual_information": self.mutual_information,
            "neighbours": None if self.neighbours is None else asdict(self.neighbours),
        }
        return json.dumps(content, indent=2, allow_nan=False) + "\n"

    def rows(self) -> list[tuple[str, str, str]]:
        """The table: what is measured, its value after the run's alignment, and per state."""
        rows = _map_rows(self.run, self.states)
        if self.masked is not None:
            masked = _map_rows(self.masked.run, self.masked.states)
            rows += [(f"masked: {name}" if name else "", run, states) for name, run, states in masked]
        if self.run.changes is not None:
            run, states = (
                f"{maps.summary()['mean_change_correlation']:.3f}" for maps in (self.run, self.states)
            )
            rows.append(("change in the moving part, correlation", run, states))
        return [*rows, *self._pose_rows(), *self._latent_rows(), *self._neighbour_rows()]

    def _pose_rows(self) -> list[tuple[str, str, str]]:
        if self.poses is None or self.poses.states is None:
            return []
        errors = self.poses.run, self.poses.states

        def both(form: str) -> tuple[str, str]:
            first, second = (form.format(**asdict(error)) for error in errors)
            return first, second

        mixed = f"{self.poses.opposite_hand:.0%} of images differ"
        return [
            ("rotation error, median", *both("{median_rotation_deg:.2f}°")),
            ("rotation error, median ‖A−B‖²", *both("{median_squared_frobenius:.2g}")),
            ("rotation error, mean", *both("{mean_rotation_deg:.2f}°")),
            ("shift error, median", *both("{median_shift_px:.3f} px, {median_shift:.2f} Å")),
            ("hand", "opposite" if self.poses.alignment.mirrored else "as the truth", mixed),
        ]

    def _latent_rows(self) -> list[tuple[str, str, str]]:
        rows = []
        for key, score in self.coordinates.items():
            name = spoken(key)
            if score.spearman is not None:
                rows.append((f"{name}: |Spearman| with z", f"{score.spearman:.3f}", ""))
            if score.circular is None:
                rows.append((f"{name}: Spearman, from neighbours in z", f"{score.knn_spearman:.3f}", ""))
            else:
                value = f"{score.circular:.3f}, {score.circular_error_deg:.1f}° off in the median"
                rows.append((f"{name}: circular correlation, from neighbours in z", value, ""))
        if self.rand_index is not None:
            rows.append(("states against clusters of z (adjusted Rand)", f"{self.rand_index:.3f}", ""))
        if self.mutual_information is not None:
            name = "states against clusters of z (adjusted mutual information)"
            rows.append((name, f"{self.mutual_information:.3f}", ""))
        return rows

    def _neighbour_rows(self) -> list[tuple[str, str, str]]:
        if self.neighbours is None:
            return []
        rows = [
            (
                f"of the {found.neighbours} nearest in z, near in the true state",
                f"{found.shared:.3f}, by chance {found.chance:.3f}",
                "",
            )
            for found in self.neighbours.shared
        ]
        for name, found in self.neighbours.imbalances.items():
            count = ", ".join(str(each.neighbours) for each in found)
            value = ", ".join(f"{each.imbalance:.3f}" for each in found)
            best = ", ".join(f"{each.best:.3f}" for each in found)
            rows.append(
                (f"imbalance of z to {TARGETS[name]}, k = {count}", f"{value}; best {best}, chance 1", "")
            )
        return rows


def _map_content(run: MapScore, states: MapScore) -> dict[str, dict[str, object]]:
    return {
        "resolution": {"run": run.summary(), "states": states.summary()},
        "resolutions_px": {"run": run.resolutions_px.tolist(), "states": states.resolutions_px.tolist()},
    }


def _map_rows(run: MapScore, states: MapScore) -> list[tuple[str, str, str]]:
    summaries = run.summary(), states.summary()

    def both(form: str) -> tuple[str, str]:
        first, second = (form.format(**summary) for summary in summaries)
        return first, second

    cryobench = both("{mean_cryobench_area:.3f} ({std_cryobench_area:.3f})")
    return [
        ("resolution at FSC 0.5, mean (std)", *both("{mean_px:.2f} ({std_px:.2f}) px")),
        ("", *both("{mean:.1f} ({std:.1f}) Å")),
        ("resolution at FSC 0.5, median", *both("{median_px:.2f} px, {median:.1f} Å")),
        ("area under the FSC", *both("{mean_fsc_area:.3f}")),
        ("area under the FSC in CryoBench's shells, mean (std)", *cryobench),
    ]


def score_run(
    latents: Float[Array, "image latent"],
    pose: Pose | None,
    volumes: Volumes,
    truth: Truth,
    pixel_size: float,
    *,
    images: int = 100,
    mask: Float[Array, "box box box"] | None = None,
    imaging: Imaging | None = None,
    progress: Progress = silent,
) -> Score:
    """Measure a run against the truth.

    Args:
        latents: z of every image; no columns for a homogeneous run.
        pose: the run's poses; None leaves maps where they are.
        pixel_size: of the run's volumes, Å.
        images: volumes of this many images, evenly spaced, are compared.
        mask: if given, maps are compared a second time, both multiplied by it.
        imaging: how the images were taken, as far as known: its CTF is compared with z, and of several
            images of a particle the first.

    Raises:
        MetadataError: run and truth have different numbers of images, or maps of different boxes.
    """
    if len(latents) != len(truth):
        raise MetadataError(
            f"the run has {len(latents)} images, but the truth has {len(truth)}: they must be the same "
            "images in the same order; give the truth folder of the simulation that the run was made from."
        )
    comparison = None
    if pose is not None and truth.pose is not None:
        comparison = compare_poses(pose, truth.pose, pixel_size, torch.from_numpy(truth.states))
    chosen = evenly_spaced(len(truth), images).numpy()
    motions = [_motions(comparison, int(state)) for state in truth.states[chosen]]
    whole, *masked = _map_scores(
        _each_volume(latents[chosen], volumes),
        motions,
        truth,
        truth.states[chosen],
        pixel_size,
        [None] if mask is None else [None, mask],
        progress,
    )
    score = Score(chosen, *whole, MaskedMaps(*masked[0]) if masked else None, comparison)
    if latents.shape[1] == 0:
        return score
    rand, information = _cluster_agreement(latents, truth.states)
    return replace(
        score,
        coordinates=_coordinate_scores(latents, truth),
        rand_index=rand,
        mutual_information=information,
        neighbours=neighbour_score(latents, truth, imaging or Imaging()),
    )


def _each_volume(
    latents: Float[Array, "image latent"], volumes: Volumes
) -> Iterator[Float[Array, "box box box"]]:
    """One volume per latent; a homogeneous run's only one is made once."""
    if latents.shape[1] > 0:
        yield from volumes(latents)
    else:
        (volume,) = volumes(latents[:1])
        yield from (volume for _ in latents)


def _motions(comparison: PoseComparison | None, state: int) -> tuple[Alignment, Alignment]:
    """The run's alignment and the state's; the same object where they are the same."""
    if comparison is None:
        still = Alignment.identity()
        return still, still
    return comparison.alignment, comparison.state_alignments[state]


@dataclass(frozen=True)
class _Compared:
    """One volume and its true map, under one alignment."""

    curves: list[Float[Array, "shell"]]
    """FSC under each mask."""
    areas: list[float]
    """CryoBench's area under each mask."""
    part: Float[Array, "voxel"]
    """The volume where the body moves."""


def _map_scores(
    volumes: Iterator[Float[Array, "box box box"]],
    motions: Sequence[tuple[Alignment, Alignment]],
    truth: Truth,
    states: Int[Array, "image"],
    pixel_size: float,
    masks: Sequence[Float[Array, "box box box"] | None],
    progress: Progress,
) -> list[tuple[MapScore, MapScore]]:
    """Compare volumes with the maps of their states, for each mask after the run's motion and the states'."""
    moving = MovingPart.of(truth, states)
    found: list[list[_Compared]] = [[], []]
    true_parts, box_size = [], 0

    def compare(volume: Float[Array, "box box box"], true_map: Float[Array, "box box box"]) -> _Compared:
        return _Compared(
            [fourier_shell_correlation(volume, true_map, mask) for mask in masks],
            [cryobench_area(volume, true_map, mask) for mask in masks],
            np.zeros(0) if moving is None else moving.inside(volume),
        )

    last: tuple[object, int] | None = None
    for done, (volume, state, (run, own)) in enumerate(zip(volumes, states, motions, strict=True), 1):
        if last is not None and volume is last[0] and state == last[1]:  # images of one rigid body
            for each in (*found, true_parts):
                each.append(each[-1])
            progress(done, len(states))
            continue
        last = volume, state
        true_map = _true_map(truth, int(state), volume)
        box_size = len(true_map)
        true_parts.append(np.zeros(0) if moving is None else moving.inside(true_map))
        found[0].append(compare(align_volume(volume, run, pixel_size), true_map))
        same = own is run
        found[1].append(found[0][-1] if same else compare(align_volume(volume, own, pixel_size), true_map))
        progress(done, len(states))

    def gathered(compared: list[_Compared], which: int) -> MapScore:
        curves = np.stack([each.curves[which] for each in compared])
        areas = np.array([each.areas[which] for each in compared])
        parts = np.stack([each.part for each in compared])
        changes = None if moving is None else change_correlations(parts, np.stack(true_parts))
        return MapScore(curves, areas, box_size, pixel_size, changes)

    return [(gathered(found[0], which), gathered(found[1], which)) for which in range(len(masks))]


def _true_map(
    truth: Truth, state: int, volume: Float[Array, "side side side"]
) -> Float[Array, "box box box"]:
    """The map of a state, on the grid of the run's volume."""
    true_map = truth.volume(state)
    if true_map.shape != volume.shape:
        raise MetadataError(
            f"the run's volumes have a box of {volume.shape[-1]} px, but {truth.volume_paths[state]} has "
            f"{true_map.shape[-1]}: score a run that was made at the truth's box size."
        )
    return true_map


def _coordinate_scores(latents: Float[Array, "image latent"], truth: Truth) -> dict[str, CoordinateScore]:
    scores = {}
    for name, coordinate in truth.coordinates.items():
        if np.ptp(coordinate) == 0:
            continue  # a coordinate that does not vary cannot be found
        circular = error_deg = None
        if truth.is_periodic(name):
            circular, error = knn_circular(latents, np.radians(coordinate))
            error_deg = float(np.degrees(error))
        scores[name] = CoordinateScore(
            spearman=spearman(latents[:, 0], coordinate) if latents.shape[1] == 1 else None,
            knn_spearman=knn_spearman(latents, coordinate),
            circular=circular,
            circular_error_deg=error_deg,
        )
    return scores


def _cluster_agreement(
    latents: Float[Array, "image latent"], states: Int[Array, "image"]
) -> tuple[float | None, float | None]:
    """Adjusted Rand index and mutual information of clusters and states; None for one state or many."""
    count = len(np.unique(states))
    if not 2 <= count <= FEW_STATES:
        return None, None
    labels = kmeans(latents, count).labels
    return adjusted_rand_index(labels, states), adjusted_mutual_information(labels, states)
