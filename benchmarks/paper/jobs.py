"""What is run for each of the paper's tables, at each size: plain data."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cryoatlas.imaging.simulate_config import SceneName

MOVING: tuple[SceneName, ...] = ("linear1d", "linear2d", "circular1d", "discrete10")
"""The paper's four heterogeneous sets (M11)."""
NOISELESS = float("inf")


@dataclass(frozen=True)
class Data:
    """A simulated set."""

    scene: SceneName
    box: int
    images: int
    """Particles; with pairs, there are two images of each."""
    snr: float = NOISELESS
    ctf: bool = False
    pairs: bool = False

    @property
    def name(self) -> str:
        """Of its folder."""
        ends = [end for end, given in (("ctf", self.ctf), ("pairs", self.pairs)) if given]
        return "_".join([self.scene, str(self.box), str(self.images), f"snr{self.snr:g}", *ends])


@dataclass(frozen=True)
class Method:
    """How it is reconstructed."""

    recipe: Literal["default", "paper", "classify"]
    size: int
    """Dimension of z; of `classify`, the number of classes."""
    known: bool = False
    """Poses are the true ones."""

    @property
    def name(self) -> str:
        """For folders and tables."""
        kind = (
            f"classify, K = {self.size}" if self.recipe == "classify" else f"{self.recipe}, z of {self.size}"
        )
        return f"{kind}, poses known" if self.known else kind


@dataclass(frozen=True)
class Job:
    """One line of one table."""

    table: str
    data: Data
    method: Method
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its run folder; the same run may serve several tables."""
        method = self.method.name.replace(", ", "_").replace(" = ", "").replace(" ", "")
        return f"{self.data.name}_{method}_{self.seed}"


@dataclass(frozen=True)
class Size:
    """How large the sets are."""

    rigid_clean: Data
    """Of Table 1, without noise."""
    rigid: Data
    """The same with noise, which is set row by row, as is the CTF."""
    clean: Data
    """Of the other tables, without noise; the scene is set row by row."""
    noisy: Data
    """The same with noise."""
    paper_recipe: Data
    """What the paper's own recipe is run on."""


SIZES = {
    "laptop": Size(
        rigid_clean=Data("homogeneous", 64, 1500),
        rigid=Data("homogeneous", 64, 3000),
        clean=Data("linear1d", 32, 1000),
        noisy=Data("linear1d", 48, 1500, snr=0.1),
        paper_recipe=Data("linear1d", 32, 1000),
    ),
    "paper": Size(
        rigid_clean=Data("homogeneous", 128, 50_000),
        rigid=Data("homogeneous", 128, 50_000),
        clean=Data("linear1d", 64, 50_000),
        noisy=Data("linear1d", 64, 50_000, snr=0.1),
        paper_recipe=Data("linear1d", 64, 50_000),
    ),
}
DIMENSIONS = {"linear1d": 1, "linear2d": 2, "circular1d": 2, "discrete10": 3}
"""Of z, by scene: a circle needs a plane."""


def jobs(size: str, seeds: Sequence[int] = (0,)) -> Iterator[Job]:
    """Every line of every table, what is read first being run first."""
    sets = SIZES[size]
    for seed in seeds:
        for job in (*_table_1(sets), *_table_2(sets), *_table_s3(sets), *_table_s4(sets)):
            yield replace(job, seed=seed)


def _table_1(sets: Size) -> Iterator[Job]:
    """A rigid body from nothing."""
    yield Job("1", sets.rigid_clean, Method("default", 0))
    for snr in (0.1, 0.01):
        yield Job("1", replace(sets.rigid, snr=snr), Method("default", 0))
    yield Job("1", replace(sets.rigid, snr=0.1, ctf=True), Method("default", 0))
    yield Job("1", replace(sets.paper_recipe, scene="homogeneous"), Method("paper", 0))


def _table_2(sets: Size) -> Iterator[Job]:
    """Four kinds of heterogeneity from nothing, with and without tilt pairs."""

    def from_nothing(base: Data, *, pairs: bool) -> Iterator[Job]:
        for scene in MOVING:
            yield Job("2", replace(base, scene=scene, pairs=pairs), Method("default", DIMENSIONS[scene]))

    yield from from_nothing(sets.clean, pairs=True)
    for scene in MOVING:
        yield Job("2", replace(sets.clean, scene=scene), Method("classify", 3))
    yield from from_nothing(sets.noisy, pairs=True)
    yield Job("2", replace(sets.noisy, ctf=True, pairs=True), Method("default", 1))
    yield from from_nothing(sets.clean, pairs=False)
    for pairs in (True, False):
        yield Job("2", replace(sets.paper_recipe, pairs=pairs), Method("paper", 1))
    yield from from_nothing(sets.noisy, pairs=False)


def _table_s3(sets: Size) -> Iterator[Job]:
    """How many classes, and what a continuous latent makes of the same images."""
    for classes in (2, 3, 4, 5):
        yield Job("S3", sets.clean, Method("classify", classes))
    for classes in (2, 3, 4, 5):
        yield Job("S3", sets.noisy, Method("classify", classes, known=True))
    yield Job("S3", sets.noisy, Method("default", 1, known=True))
    yield Job("S3", replace(sets.noisy, scene="discrete10"), Method("classify", 10, known=True))


def _table_s4(sets: Size) -> Iterator[Job]:
    """How many dimensions?"""
    for dimensions in (1, 2, 10):
        yield Job("S4", replace(sets.clean, pairs=True), Method("default", dimensions))
