"""The report of discrete classes: their maps and sizes, and how sure each image's class is."""

from dataclasses import dataclass

import numpy as np

from cryoatlas.analysis import plots, wording
from cryoatlas.analysis.overview import Overview, slug
from cryoatlas.analysis.render import Camera, automatic_level
from cryoatlas.analysis.report import Block, Row, Section, Viewer
from cryoatlas.shapes import Array, Float, Int

SIDES = ("the side that shows the differences best", "turned by 90°")


@dataclass
class ClassOverview(Overview):
    """An `Overview` of a run whose z is the probability of each class."""

    @property
    def labels(self) -> Int[Array, "image"]:
        """The most probable class of each image, from 0."""
        return self.subject.latents.argmax(1)

    @property
    def telling(self) -> Float[Array, "image class"]:
        """1 for the most probable class and 0 for the others.

        Not the probabilities: an image seen from a side that hides the differences has none near 1, which
        tells its side but not its class.
        """
        return np.eye(self.subject.latents.shape[1], dtype=np.float32)[self.labels]

    @property
    def lead(self) -> str:
        """What was done, in a sentence or two."""
        return wording.lead_of_classes(*self.subject.latents.shape)

    def _heterogeneous(self) -> None:
        count = self.subject.latents.shape[1]
        points = np.eye(count, dtype=np.float32)
        maps, sizes = self._decoded(points), np.bincount(self.labels, minlength=count)
        average = np.average(maps, axis=0, weights=sizes).astype(np.float32)
        level = automatic_level(average)
        self._write_volumes("classes", maps, points, level)
        self._add_classes(maps, sizes, level)
        self._add_certainty()
        self._add_leakage()
        self._add_slices(average, wording.SLICES_CLASSES)

    def _add_classes(
        self, maps: Float[Array, "class box box box"], sizes: Int[Array, "class"], level: float
    ) -> None:
        camera, titles = Camera.around(list(maps), level), [f"class {n + 1}" for n in range(len(maps))]
        frames = self._frames("classes", maps, titles, level, camera, "cluster")
        intro = f"{wording.classes(len(maps))} {wording.level(level)}"
        blocks = [
            Viewer(frames, SIDES, ("largest", "smallest")),
            self._gallery("class", maps, sizes, level, camera),
        ]
        self.sections.append(Section("The classes", intro, blocks))

    def _add_certainty(self) -> None:
        """How probable the classes are, and what else is known of their images."""
        chosen, name = self.subject.latents.max(1), "probability of the most probable class"
        figure = plots.stacked_figure(chosen, self.labels, name)
        blocks: list[Block] = [self._plot("certainty", figure, f"{name}, by class")]
        for colouring in self.subject.colourings:
            figure = plots.stacked_figure(colouring.values, self.labels, colouring.label)
            file = f"classes_by_{slug(colouring.label)}"
            blocks.append(self._plot(file, figure, f"{colouring.label}, by class"))
        self.sections.append(Section("How sure the classes are", wording.CERTAINTY, [Row(blocks)]))
