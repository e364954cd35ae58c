"""Rounds over all images: half sets stay apart, evidence never falls at fixed maps, good poses are kept."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import roma
import torch

from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import geodesic_angle
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import read_volume
from cryoatlas.particles.batch import Loader, ParticleLoader
from cryoatlas.particles.config import PreprocessConfig
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.progress import Interrupted, never, silent
from cryoatlas.recipes import pose_rounds as rounds
from cryoatlas.recipes.abinit_config import SubspaceConfig
from cryoatlas.recipes.noise import spectra
from cryoatlas.recipes.pose_rounds import Round, States, known_band
from cryoatlas.subspace.bootstrap import hypotheses
from cryoatlas.subspace.config import BootstrapConfig
from cryoatlas.subspace.model import Subspace

BOX, COUNT = 24, 48
CONFIG = SubspaceConfig(
    bootstrap=BootstrapConfig(shift_points=2), shift_extent_px=2.0, rounds=1, search_every=9, chunk=20
)
UNSCALED = Preprocessor(PreprocessConfig(window=False), BOX, 0.0, 1.0)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> ParticleSet:
    """48 images of a rigid body at SNR 3, with CTF and their true poses."""
    folder = tmp_path_factory.mktemp("rounds") / "set"
    simulate(SimulationConfig("homogeneous", images=COUNT, box=BOX, snr=3.0, seed=5, ctf=True), folder)
    return read_particles(folder / "truth" / "particles.star")


@pytest.fixture(scope="module")
def true_map(truth: ParticleSet) -> torch.Tensor:
    return torch.from_numpy(read_volume(truth.path.parent / "volumes" / "state_000000.mrc").array)


@pytest.fixture(scope="module")
def loader(truth: ParticleSet) -> Loader:
    return ParticleLoader(truth.with_pose(None), UNSCALED, Disc(BOX), CONFIG.chunk)


@pytest.fixture(scope="module")
def noise(loader: Loader) -> NoiseModel:
    return spectra(loader).noise


def states_at(pose: Pose, components: int = 0) -> States:
    """What is known when these poses are and nothing else is."""
    states = States.unknown(len(pose), components, 0)
    states.table.rotation[:], states.table.shift[:] = pose.rotation, pose.shift
    return states


def off(pose: Pose, spread: float) -> Pose:
    """Poses turned by a random angle about each axis; its standard deviation in radians."""
    generator = torch.Generator().manual_seed(0)
    turn = spread * torch.randn(len(pose), 3, generator=generator, dtype=torch.float64)
    return Pose(roma.rotvec_to_rotmat(turn) @ pose.rotation, pose.shift)


def subspace_of(map_: torch.Tensor, particles: ParticleSet, components: int = 0) -> Subspace:
    alone = Subspace(map_[None], float(particles.pixel_size[0]))
    if not components:
        return alone
    return alone.with_random_components(components, 0.3, torch.Generator().manual_seed(1))


def errors_deg(states: States, truth: ParticleSet) -> torch.Tensor:
    return torch.rad2deg(geodesic_angle(states.table.rotation, truth.require_pose().rotation))


def run(now: Round, loader: Loader, states: States, noise: NoiseModel) -> None:
    rounds._run(now, loader, states, noise, CONFIG, silent, never)


def test_the_known_band_ends_where_half_maps_disagree():
    fsc = torch.tensor([1.0, 1.0, 0.9, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.1, 0.2, 0.0])
    assert known_band(fsc) == 10
    assert known_band(torch.ones(13)) == 12
    assert known_band(torch.zeros(13)) == 8


@pytest.mark.parametrize("components", [0, 1])
def test_refining_never_lowers_the_evidence_at_fixed_maps(truth, true_map, loader, noise, components):
    """Of any image where there is a mean map alone: steps that raise the misfit are not taken. With
    components steps go towards the volume at the middle of z's posterior, and the mean over images rises."""
    model, states = subspace_of(true_map, truth, components), states_at(off(truth.pose, 0.1), components)
    evidence = []
    for number in range(1, 5):
        run(Round(number, [model, model], 10.0, None), loader, states, noise)
        evidence.append(-states.table.loss.clone())
    for before, after in pairwise(evidence):
        if not components:
            # The misfit and the evidence add up float32 numbers in different order.
            assert bool((after >= before - 1e-4 * before.abs() - 1e-2).all())
        assert after.mean() >= before.mean() - 1e-3
    assert evidence[-1].mean() > evidence[0].mean()
    assert errors_deg(states, truth).median() < 0.5 * float(
        torch.rad2deg(geodesic_angle(off(truth.pose, 0.1).rotation, truth.pose.rotation)).median()
    )


def test_every_image_is_taken_to_the_maps_of_its_own_half(truth, true_map, loader, noise):
    """One half has the true map, the other none: its images are not explained, and stay where they are."""
    start = off(truth.pose, 0.1)
    halves = truth.half_sets()
    for full in (0, 1):
        maps = [torch.zeros_like(true_map), torch.zeros_like(true_map)]
        maps[full] = true_map
        states = states_at(start)
        run(Round(1, [subspace_of(map_, truth) for map_ in maps], 10.0, None), loader, states, noise)
        assert bool((states.table.loss[halves != full] == 0).all())
        left = geodesic_angle(states.table.rotation, start.rotation)[halves != full]
        # Poses go through float32 on their way.
        assert float(left.max()) < 1e-3
        assert bool((states.table.loss[halves == full] < -10).all())
        assert bool((states.table.turned[halves == full] > 2e-3).all())


def with_changed_images(loader: Loader, half: int) -> Loader:
    """The same loader, but the images of one half set are turned upside down."""
    changed = ParticleLoader(loader.particles, loader.preprocessor, loader.disc, loader.batch_size)
    make, halves = changed.batches, loader.particles.half_sets()

    def batches(order):
        for batch in make(order):
            mine = (halves[batch.index] == half)[:, None]
            yield replace(batch, images=torch.where(mine, -batch.images, batch.images))

    changed.batches = batches
    return changed


@pytest.mark.parametrize("components", [0, 1])
def test_half_sets_never_share_images(truth, loader, noise, tmp_path, monkeypatch, components):
    """Other images in one half leave the maps of the other as they were, bit for bit. What halves do share is
    how well they agree, which filters both: it is held fixed here."""
    agreement = torch.linspace(1, 0.2, BOX // 2 + 1)
    monkeypatch.setattr(rounds, "fourier_shell_correlation", lambda *maps: agreement)
    (tmp_path / "volumes").mkdir()
    states = states_at(truth.pose, components)
    states.latent[:] = torch.randn(states.latent.shape, generator=torch.Generator().manual_seed(2))
    loaders = [loader, with_changed_images(loader, 0), with_changed_images(loader, 1)]
    plain, first, second = (
        rounds._next_round(each, states, noise, CONFIG, 1, tmp_path, silent).halves for each in loaders
    )
    assert torch.equal(first[1].maps, plain[1].maps)
    assert torch.equal(second[0].maps, plain[0].maps)
    assert not torch.equal(first[0].maps, plain[0].maps)
    assert not torch.equal(second[1].maps, plain[1].maps)
    assert not torch.equal(plain[0].maps, plain[1].maps)


def searching_round(model: Subspace, loader: Loader, number: int = 1) -> Round:
    extent = CONFIG.shift_extent_px * float(loader.particles.pixel_size[0])
    grid = hypotheses(extent, 2, 4, np.random.default_rng(0), torch.empty(0))
    return Round(number, [model, model], 7.0, grid)


def test_a_search_keeps_the_pose_of_the_moment_where_it_explains_more(truth, true_map, loader, noise):
    """From the true poses nothing better is found on a coarse grid, so that each stays within its noise."""
    model, states = subspace_of(true_map, truth), states_at(truth.pose)
    run(Round(1, [model, model], 7.0, None), loader, states, noise)
    before, rotation = states.table.loss.clone(), states.table.rotation.clone()
    run(searching_round(model, loader), loader, states, noise)
    assert bool((states.table.loss <= before + 1e-4 * before.abs() + 1e-2).all())
    stayed = torch.rad2deg(geodesic_angle(states.table.rotation, rotation)) < 2
    # Gauss–Newton may come to another of two poses that explain a noisy image alike.
    assert float(stayed.double().mean()) > 0.9


def test_a_search_leads_images_out_of_a_wrong_basin(truth, true_map, loader, noise):
    model, states = subspace_of(true_map, truth), States.unknown(COUNT, 0, 1)
    assert errors_deg(states, truth).median() > 60
    run(Round(1, [model, model], 10.0, None), loader, states, noise)
    assert errors_deg(states, truth).median() > 20
    run(Round(1, [model, model], 7.0, None), loader, states, noise)
    refined = states.table.loss.clone()
    run(searching_round(model, loader), loader, states, noise)
    # Evidence over one band: the pose of the moment stays unless a better one is found.
    assert bool((states.table.loss <= refined + 1e-4 * refined.abs() + 1e-2).all())
    # SNR 3, 7 of 12 cycles per box, 8 Å pixels; an image at a small defocus may stay lost.
    assert errors_deg(states, truth).median() < 5


def test_the_first_search_does_not_look_at_where_images_were(truth, true_map, loader, noise):
    """In round 0 poses are random numbers: it gives the same from any of them."""
    model = subspace_of(true_map, truth)
    found = []
    for seed in (1, 2):
        states = States.unknown(COUNT, 0, seed)
        run(searching_round(model, loader, number=0), loader, states, noise)
        found.append(states.table)
    assert torch.equal(found[0].rotation, found[1].rotation)
    assert torch.equal(found[0].loss, found[1].loss)


def test_what_is_kept_is_read_back_as_it_was(truth, tmp_path):
    assert States.load(tmp_path) is None
    states = states_at(truth.pose, 2)
    states.latent += torch.randn(states.latent.shape)
    states.covariance += torch.rand(states.covariance.shape)
    states.save(tmp_path, 3)
    read, finished = States.load(tmp_path)
    assert finished == 3
    for name, value in states.table.state().items():
        assert torch.equal(read.table.state()[name], value)
    assert torch.equal(read.latent, states.latent)
    assert torch.equal(read.covariance, states.covariance)


def test_finished_rounds_are_not_done_again(truth, true_map, loader, noise, tmp_path):
    (tmp_path / "volumes").mkdir()
    config, first = replace(CONFIG, rounds=2), subspace_of(true_map, truth)
    states_at(truth.pose).save(tmp_path, 2)
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 2

    with pytest.raises(Interrupted, match="stopped in round 2"):
        rounds.pose_rounds(loader, first, noise, config, tmp_path, silent, stop)
    assert States.load(tmp_path)[1] == 2
    done = rounds.pose_rounds(loader, first, noise, config, tmp_path, silent, never)
    assert States.load(tmp_path)[1] == 3
    again = rounds.pose_rounds(loader, first, noise, config, tmp_path, silent, stop)
    assert len(asked) == 2
    assert torch.equal(again.table.rotation, done.table.rotation)


def test_every_so_many_rounds_search(truth, true_map, loader, noise, tmp_path):
    from cryoatlas.recipes.run import read_log

    (tmp_path / "volumes").mkdir()
    config = replace(CONFIG, rounds=4, search_every=2)
    states_at(truth.pose).save(tmp_path, 1)
    rounds.pose_rounds(loader, subspace_of(true_map, truth), noise, config, tmp_path, silent, never)
    entries = [entry for entry in read_log(tmp_path) if entry["event"] == "round"]
    assert [(entry["round"], entry["searched"]) for entry in entries] == [
        (1, False),
        (2, True),
        (3, False),
        (4, True),
    ]
