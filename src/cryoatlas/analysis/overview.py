"""Everything that `cryoatlas analyze` makes of a run: volumes, figures, pictures and the report.

Works on arrays and callables; the command line hands in what it reads from the run folder.
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cryoatlas.analysis import plots, wording
from cryoatlas.analysis.chimerax import VIEW, write_view
from cryoatlas.analysis.figures import save_figure, slice_picture, to_svg
from cryoatlas.analysis.latent import Clusters, PrincipalComponents, kmeans
from cryoatlas.analysis.leakage import Imaging, Leak, leakage
from cryoatlas.analysis.plots import Colouring, cluster_colours
from cryoatlas.analysis.render import BLUE, Camera, Surface, automatic_level
from cryoatlas.analysis.report import (
    Beside,
    Block,
    Card,
    Figure,
    Files,
    Frame,
    Gallery,
    Picture,
    Report,
    Row,
    Section,
    Table,
    Text,
    Viewer,
)
from cryoatlas.analysis.score import Score, Volumes
from cryoatlas.analysis.traversal import data_path
from cryoatlas.io.mrc import write_volume
from cryoatlas.io.output import write_text
from cryoatlas.progress import Progress, silent
from cryoatlas.shapes import Array, Float, Int

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Plot

SIDES = ("the side that shows the motion best", "turned by 90°")
TURNTABLE_STEP_DEG = 20.0
CARD_SHARE = 0.6
"""Size of the pictures of groups, as a share of the large ones."""


@dataclass(frozen=True)
class Subject:
    """A run, as far as its analysis needs to know it."""

    name: str
    latents: Float[Array, "image latent"]
    """No columns for a single volume."""
    volumes: Volumes
    box_size: int
    pixel_size: float
    """Å."""
    facts: Sequence[tuple[str, str]] = ()
    """Name and value of what characterises the run, for the head of the report."""
    command: str = ""
    log: Sequence[Mapping[str, Any]] = ()
    half_map_fsc: Float[Array, "shell"] | None = None
    """Of the consensus map."""
    colourings: Sequence[Colouring] = ()
    """Columns to colour the latents by."""
    imaging: Imaging | None = None
    """How the images were taken, to see whether z tells that; None to leave it out."""
    files: Sequence[tuple[str, str]] = ()
    """What the run itself wrote, for the list at the end."""


@dataclass(frozen=True)
class Options:
    """What to make."""

    clusters: int = 8
    component: int | None = None
    """Principal component that the path follows, from 1; None for a path through the groups."""
    points: int = 10
    """Volumes along the path."""
    umap: bool = False
    picture_px: int = 360
    """Side of the large pictures."""
    seed: int = 0


@dataclass
class Overview:
    """Makes the files of an analysis in a folder and collects the sections of its report."""

    subject: Subject
    options: Options
    folder: Path
    """Where files go; it exists."""
    place: str
    """What the report calls that folder."""
    progress: Progress = silent
    sections: list[Section] = field(default_factory=list)
    files: list[tuple[str, str]] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    """What z knows about how the images were taken."""

    def report(self, score: Score | None = None) -> Report:
        """Make everything.

        Args:
            score: of the run, where the truth is known.
        """
        if self.subject.latents.shape[1] > 0:
            self._heterogeneous()
        else:
            self._single_volume()
        if score is not None:
            self._add_score(score)
        self._add_quality()
        files = [*((f"{self.place}/{path}", about) for path, about in self.files), *self.subject.files]
        self.sections.append(Section("Files", wording.FILES, [Files(files)]))
        return Report(
            title=self.subject.name,
            lead=self.lead,
            facts=self.subject.facts,
            sections=self.sections,
            command=self.subject.command,
            made=datetime.now().astimezone().strftime("report made %Y-%m-%d %H:%M"),
            terms=wording.TERMS,
        )

    @property
    def lead(self) -> str:
        """What was done, in a sentence or two."""
        return wording.lead(len(self.subject.latents), self.subject.latents.shape[1])

    def _heterogeneous(self) -> None:
        latents = self.subject.latents
        components = PrincipalComponents.of(latents)
        clusters = kmeans(latents, self.options.clusters, self.options.seed)
        path = self._path(components, clusters)
        representatives = latents[clusters.representatives]
        decoded = self._decoded(np.concatenate([path, representatives]))
        frames, typical = decoded[: len(path)], decoded[len(path) :]
        average = np.average(typical, axis=0, weights=clusters.sizes).astype(np.float32)
        level = automatic_level(average)
        self._write_volumes(self.path_name, frames, path, level)
        self._write_volumes("kmeans", typical, representatives, level, clusters.representatives)
        self._write_clusters(clusters)
        camera = Camera.around(list(frames), level)
        through_groups = self._through_groups(clusters)
        self._add_motion(frames, path, through_groups, self._path_plot(components, path), level, camera)
        self._add_typical(typical, clusters, self._cluster_plot(components, clusters), level, camera)
        self._add_latents(components, clusters)
        self._add_leakage()
        self._add_slices(average, wording.SLICES_AVERAGE)

    @property
    def telling(self) -> Float[Array, "image column"]:
        """What is compared with how the images were taken."""
        return self.subject.latents

    @property
    def path_name(self) -> str:
        """Folder of the path's volumes."""
        return "path" if self.options.component is None else f"pc{self.options.component}"

    def _path(self, components: PrincipalComponents, clusters: Clusters) -> Float[Array, "frame latent"]:
        """Along the latent, along a component, or where the images are."""
        latents, points = self.subject.latents, self.options.points
        if self._through_groups(clusters):
            return data_path(latents, clusters.representatives, points).astype(np.float32)
        return components.path((self.options.component or 1) - 1, points).astype(np.float32)

    def _through_groups(self, clusters: Clusters) -> bool:
        """Whether the path goes from group to group, not along a line."""
        several = len(clusters.centres) > 1 and self.subject.latents.shape[1] > 1
        return several and self.options.component is None

    def _single_volume(self) -> None:
        (volume,) = self._decoded(self.subject.latents[:1])
        write_volume(self.folder / "volume.mrc", volume, self.subject.pixel_size)
        self.files.append(("volume.mrc", "the map"))
        level = automatic_level(volume)
        write_view(self.folder, ["volume.mrc"], level, [BLUE])
        self.files.append((VIEW, "the map in ChimeraX: open this script there"))
        surface, camera = Surface(volume), Camera.around([volume], level)
        turns = np.arange(0, 360, TURNTABLE_STEP_DEG)
        frames = [
            Frame(
                f"turned by {turn:.0f}°",
                [surface.render(level, camera.turned(float(turn)), size=self.options.picture_px)],
            )
            for turn in turns
        ]
        viewer = Viewer(frames, [wording.level(level)], closed=True)
        self.sections.append(Section("The map", wording.TURNTABLE, [viewer]))
        self._add_slices(volume, wording.SLICES_SINGLE)

    def _decoded(self, points: Float[Array, "point latent"]) -> Float[Array, "point box box box"]:
        decoded = []
        for volume in self.subject.volumes(points):
            decoded.append(volume)
            self.progress(len(decoded), len(points), "decoding volumes")
        return np.stack(decoded)

    def _write_volumes(
        self,
        name: str,
        volumes: Float[Array, "point box box box"],
        points: Float[Array, "point latent"],
        level: float,
        images: Int[Array, "point"] | None = None,
    ) -> None:
        """Maps, a table of their latents and a ChimeraX script, in a folder of their own."""
        (self.folder / name).mkdir(exist_ok=True)
        header = ["volume", *(["image"] if images is not None else []), *_latent_names(points)]
        rows = []
        for number, (volume, point) in enumerate(zip(volumes, points, strict=True)):
            file = f"vol_{number:06d}.mrc"
            write_volume(self.folder / name / file, volume, self.subject.pixel_size)
            rows.append([file, *([images[number]] if images is not None else []), *point])
        write_text(self.folder / name / "volumes.csv", _csv([header, *rows]))
        write_view(self.folder / name, [row[0] for row in rows], level, cluster_colours(len(rows)))
        about = wording.VOLUME_FILES.get(name, wording.VOLUME_FILES["path"])
        self.files.append((f"{name}/vol_….mrc", about.format(len(volumes))))
        self.files.append((f"{name}/volumes.csv", "the latent z of each of these maps"))
        self.files.append((f"{name}/{VIEW}", "these maps in ChimeraX: open this script there"))

    def _write_clusters(self, clusters: Clusters) -> None:
        rows = ([image, label + 1] for image, label in enumerate(clusters.labels))
        write_text(self.folder / "kmeans" / "clusters.csv", _csv([["image", "cluster"], *rows]))
        self.files.append(("kmeans/clusters.csv", "which group each image belongs to (images from 0)"))

    def _plot(self, name: str, plot: "Plot", alt: str, caption: str = "") -> Figure:
        """A figure as a file and as a block."""
        save_figure(plot, self.folder / f"{name}.png")
        self.files.append((f"{name}.png", alt))
        return Figure(to_svg(plot), alt, caption)

    def _path_plot(self, components: PrincipalComponents, path: Float[Array, "frame latent"]) -> Figure:
        """The latents with the points of the path."""
        alt = "the latents of all images, and where the volumes of the path lie"
        if path.shape[1] == 1:
            plot = plots.histogram_figure(self.subject.latents[:, 0], path=path[:, 0])
            return self._plot("latent_path", plot, alt)
        axes = [0, max(1, (self.options.component or 1) - 1)]
        along = (path - components.mean) @ components.axes[axes].T
        plot = plots.scatter_figure(
            components.coordinates[:, axes], _component_names(components, axes), path=along
        )
        return self._plot("latent_path", plot, alt)

    def _cluster_plot(self, components: PrincipalComponents, clusters: Clusters) -> Figure:
        """The latents in the groups' colours, with the groups' numbers."""
        alt = "the latents of all images in the colours of their groups"
        chosen = clusters.representatives
        if components.coordinates.shape[1] == 1:
            latent = self.subject.latents[:, 0]
            plot = plots.histogram_figure(latent, clusters.labels, marks=latent[chosen])
        else:
            plane = components.coordinates[:, :2]
            plot = plots.scatter_figure(
                plane, _component_names(components, [0, 1]), clusters.labels, marks=plane[chosen]
            )
        return self._plot("latent_groups", plot, alt)

    def _add_motion(
        self,
        volumes: Float[Array, "frame box box box"],
        path: Float[Array, "frame latent"],
        through_groups: bool,
        plot: Figure,
        level: float,
        camera: Camera,
    ) -> None:
        titles = [f"volume {n + 1} of {len(volumes)}{_point_text(point)}" for n, point in enumerate(path)]
        frames = self._frames(self.path_name, volumes, titles, level, camera, "path")
        ends = ("first group", "last group") if through_groups else ("5th percentile", "95th percentile")
        viewer = Viewer(frames, SIDES, ends, plot)
        component = None if through_groups else self.options.component or 1
        intro = wording.motion(path.shape[1], component, len(path))
        self.sections.append(Section("The motion", f"{intro} {wording.level(level)}", [viewer]))

    def _add_typical(
        self,
        volumes: Float[Array, "cluster box box box"],
        clusters: Clusters,
        plot: Figure,
        level: float,
        camera: Camera,
    ) -> None:
        gallery = self._gallery("group", volumes, clusters.sizes, level, camera)
        intro = wording.typical(len(volumes))
        self.sections.append(Section("Typical structures", intro, [Beside(gallery, plot)]))

    def _frames(
        self,
        folder: str,
        volumes: Float[Array, "frame box box box"],
        titles: Sequence[str],
        level: float,
        camera: Camera,
        mark: str,
    ) -> list[Frame]:
        """Volumes of a folder from two sides, for a viewer.

        Args:
            mark: of the figure that lights up, ``path`` or ``cluster``.
        """
        frames = []
        for number, (volume, title) in enumerate(zip(volumes, titles, strict=True)):
            surface = Surface(volume)
            pictures = [
                surface.render(level, view, size=self.options.picture_px)
                for view in (camera, camera.turned(90.0))
            ]
            file = f"{self.place}/{folder}/vol_{number:06d}.mrc"
            frames.append(Frame(f"{title} · {file}", pictures, f"{mark}-{number}"))
            self.progress(number + 1, len(volumes), "drawing volumes")
        return frames

    def _gallery(
        self,
        word: str,
        volumes: Float[Array, "cluster box box box"],
        sizes: Int[Array, "cluster"],
        level: float,
        camera: Camera,
    ) -> Gallery:
        """A card with a picture and a number of images for each volume.

        Args:
            word: what each is called.
        """
        cards, colours = [], cluster_colours(len(volumes))
        side = round(CARD_SHARE * self.options.picture_px)
        for number, volume in enumerate(volumes):
            picture = Surface(volume).render(level, camera, size=side, colour=_paint(colours[number]))
            note = f"{sizes[number]:,} images ({sizes[number] / sizes.sum():.0%})"
            cards.append(Card(f"{word} {number + 1}", note, picture, colours[number], f"cluster-{number}"))
            self.progress(number + 1, len(volumes), "drawing the gallery")
        return Gallery(cards)

    def _add_latents(self, components: PrincipalComponents, clusters: Clusters) -> None:
        size = self.subject.latents.shape[1]
        blocks: list[Block] = [self._coloured(components, colouring) for colouring in self.subject.colourings]
        if self.options.umap:
            blocks.insert(0, self._umap(clusters))
        if size > 1:
            alt = "share of the variance of each principal component"
            bars = plots.variance_figure(components.explained)
            blocks.append(self._plot("latent_variance", bars, alt, wording.VARIANCE))
        if blocks:
            intro = wording.latents(size, umap=self.options.umap)
            self.sections.append(Section("The latent space", intro, [Row(blocks)]))

    def _coloured(self, components: PrincipalComponents, colouring: Colouring) -> Figure:
        alt = f"latents and {colouring.label}"
        if components.coordinates.shape[1] == 1:
            plane = np.stack([self.subject.latents[:, 0], colouring.values], 1).astype(np.float64)
            plot = plots.scatter_figure(plane, ("latent z", colouring.label))
        else:
            plane = components.coordinates[:, :2]
            plot = plots.scatter_figure(plane, _component_names(components, [0, 1]), colouring=colouring)
        return self._plot(f"latent_by_{slug(colouring.label)}", plot, alt)

    def _add_leakage(self) -> None:
        if self.subject.imaging is None:
            return
        self.leaks = leakage(self.telling, self.subject.imaging, self.options.seed)
        if not self.leaks:
            return
        rows = [
            [leak.quantity, f"{leak.excess:.3f}", f"{leak.spread:.3f}", str(leak.telling).lower()]
            for leak in self.leaks
        ]
        header = ["quantity", "shared_with_z_nats", "chance_nats", "telling"]
        write_text(self.folder / "leakage.csv", _csv([header, *rows]))
        self.files.append(("leakage.csv", "what z shares with how the images were taken"))
        table = Table(wording.LEAKAGE_HEAD, wording.leakage_rows(self.leaks), wording.LEAKAGE_TABLE)
        verdict = [Text(sentence) for sentence in wording.leakage(self.leaks)]
        self.sections.append(Section(wording.LEAKAGE_TITLE, wording.LEAKAGE, [*verdict, table]))

    def _umap(self, clusters: Clusters) -> Figure:
        from cryoatlas.analysis.embedding import umap_plane

        plane = umap_plane(self.subject.latents, self.options.seed)
        np.savetxt(
            self.folder / "umap.csv", plane, delimiter=",", header="umap_1,umap_2", comments="", fmt="%.5f"
        )
        self.files.append(("umap.csv", "UMAP coordinates of every image"))
        plot = plots.scatter_figure(
            plane, ("UMAP 1", "UMAP 2"), clusters.labels, marks=plane[clusters.representatives]
        )
        return self._plot("latent_umap", plot, "UMAP of the latents", wording.UMAP)

    def _add_score(self, score: Score) -> None:
        low, middle, high = np.quantile(score.run.curves, [0.1, 0.5, 0.9], axis=0)
        fsc = plots.fsc_figure(
            {"median of the images": middle}, score.run.box_size, score.run.pixel_size, (low, high)
        )
        resolutions = plots.resolution_figure(score.run.resolutions_px, score.run.pixel_size)
        blocks: list[Block] = [
            Table(
                ("measure", "one alignment for the run", "one per state"), score.rows(), wording.SCORE_TABLE
            ),
            Row(
                [
                    self._plot(
                        "fsc_truth", fsc, "FSC of the volumes with their true maps", wording.FSC_TRUTH
                    ),
                    self._plot("resolutions", resolutions, "resolution of each measured image"),
                ]
            ),
        ]
        self.sections.append(Section("Against the truth", wording.score(len(score.images)), blocks))

    def _add_quality(self) -> None:
        blocks: list[Block] = []
        if self.subject.half_map_fsc is not None:
            curve = self.subject.half_map_fsc
            plot = plots.fsc_figure({"half maps": curve}, self.subject.box_size, self.subject.pixel_size)
            blocks.append(self._plot("fsc", plot, "FSC of the two half maps", wording.HALF_MAPS))
        training = plots.training_figure(self.subject.log)
        if training is not None:
            blocks.append(self._plot("training", training, "training curves", wording.TRAINING))
        if blocks:
            self.sections.append(Section("How well it went", wording.QUALITY, [Row(blocks)]))

    def _add_slices(self, volume: Float[Array, "box box box"], caption: str) -> None:
        picture = slice_picture(volume)
        self.sections.append(
            Section("Inside the map", wording.SLICES, [Picture(picture, "three central slices", caption)])
        )


def _component_names(components: PrincipalComponents, axes: Sequence[int]) -> tuple[str, str]:
    """Labels of two principal axes."""
    first, second = (
        f"principal component {i + 1} ({components.explained[i]:.0%} of the variance)" for i in axes
    )
    return first, second


def _latent_names(points: Float[Array, "point latent"]) -> Iterator[str]:
    return (f"z{axis}" for axis in range(points.shape[1]))


def slug(words: str) -> str:
    """Words as part of a file's name."""
    return "_".join(re.findall(r"\w+", words))


def _csv(rows: Sequence[Sequence[object]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue()


def _point_text(point: Float[Array, "latent"]) -> str:
    return f" · z = {point[0]:.2f}".replace("-", "−") if len(point) == 1 else ""


def _paint(colour: tuple[float, float, float]) -> tuple[float, float, float]:
    """A cluster's colour, lightened so that shading can be seen on it."""
    red, green, blue = (0.25 + 0.75 * channel for channel in colour)
    return red, green, blue
