"""Symmetric molecules: what an image shows is put wherever the symmetry says that it belongs."""

from dataclasses import replace
from pathlib import Path

import gemmi
import numpy as np
import pytest
import torch

from cryoatlas.errors import ConfigError
from cryoatlas.fourier.lattice import Disc
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.symmetry import point_group
from cryoatlas.imaging.noise import NoiseModel
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.particles.batch import ParticleLoader
from cryoatlas.particles.config import PreprocessConfig
from cryoatlas.particles.particle_set import ParticleSet, read_particles
from cryoatlas.particles.preprocess import Preprocessor
from cryoatlas.recipes import run as runs
from cryoatlas.recipes.abinit import abinit
from cryoatlas.recipes.abinit_config import NetworkConfig, SubspaceConfig
from cryoatlas.recipes.backprojection import backproject
from cryoatlas.recipes.one_grid import views_on_grid
from cryoatlas.recipes.presets import network, one_map
from cryoatlas.recipes.train import train
from cryoatlas.subspace.config import BootstrapConfig
from cryoatlas.subspace.expectation import Hypotheses, Known, accumulate, accumulate_known, expect
from cryoatlas.subspace.maximization import NormalEquations
from cryoatlas.subspace.model import Subspace

BOX, COUNT, NAME = 24, 12, "D3"
UNSCALED = Preprocessor(PreprocessConfig(window=False), BOX, 0.0, 1.0)
GROUP = point_group(NAME)


def write_model(path: Path) -> Path:
    """25 carbon atoms off the axes, six times over."""
    generator = np.random.default_rng(3)
    unit = np.array([22.0, 4.0, 14.0]) + generator.normal(0, 7, (25, 3))
    structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    for number, place in enumerate(np.concatenate([unit @ g.T for g in GROUP.numpy()])):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(number + 1, " ")
        atom.name, atom.element, atom.pos = "CA", gemmi.Element("C"), gemmi.Position(*place)
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.write_pdb(str(path))
    return path


def make_set(folder: Path, **options) -> ParticleSet:
    """Images of the symmetric model, with their true poses."""
    atoms = write_model(folder / "model.pdb")
    config = SimulationConfig("homogeneous", box=BOX, seed=2, atoms=atoms, pixel_size=5.0, **options)
    simulate(config, folder / "set")
    return read_particles(folder / "set/truth/particles.star")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ParticleSet:
    return make_set(tmp_path_factory.mktemp("symmetry"), images=COUNT, snr=2.0, ctf=True)


def expanded(particles: ParticleSet) -> ParticleSet:
    """Every image six times, at all poses R g."""
    order = torch.arange(COUNT).repeat_interleave(len(GROUP))
    pose = particles[order].require_pose()
    return particles[order].with_pose(Pose(pose.rotation @ GROUP.repeat(COUNT, 1, 1), pose.shift))


def batch_of(particles: ParticleSet):
    loader = ParticleLoader(particles, UNSCALED, Disc(BOX), 999)
    return loader, loader.batch(torch.arange(len(particles)))


def test_a_map_is_that_of_all_images_at_all_poses_that_symmetry_makes_alike(images):
    """To rounding of float32, and it has the symmetry: D3 cannot lie on the grid, so to 2 % of its norm."""
    maps = []
    for particles in (images.with_symmetry(NAME), expanded(images)):
        loader, batch = batch_of(particles)
        halves = torch.zeros(len(particles), dtype=torch.int64)
        halves[: len(particles) // 2] = 1
        result = backproject([batch], loader.disc, 5.0, len(particles), half_sets=halves)
        maps.append(result.map)
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=1e-4 * float(maps[1].abs().max()))


@pytest.mark.parametrize("components", [0, 1])
def test_normal_equations_are_those_of_all_poses_that_symmetry_makes_alike(images, components):
    noise = NoiseModel(torch.ones(BOX // 2 + 1))
    sums = []
    for particles in (images.with_symmetry(NAME), expanded(images)):
        loader, batch = batch_of(particles)
        count = len(particles)
        z = torch.linspace(-1, 1, COUNT).repeat_interleave(count // COUNT)[:, None].expand(-1, components)
        known = Known(z, 0.2 * torch.eye(components).expand(count, -1, -1), torch.zeros(count))
        equations = NormalEquations(BOX, 5.0, components)
        pose = particles.require_pose().to(torch.float32)
        accumulate_known(equations, views_on_grid(batch, loader, noise), pose, known, BOX / 2)
        sums.append(equations.sums)
    torch.testing.assert_close(sums[0], sums[1], rtol=0, atol=2e-5 * float(sums[1].abs().max()))


def test_soft_assignments_are_inserted_at_all_poses_that_symmetry_makes_alike(images):
    """An E-step on two rotations, with symmetry; and one on all twelve that it makes of them, without.

    The map is the symmetric truth, which cannot tell R from R g: the weights are spread evenly over g."""
    noise, sums = NoiseModel(torch.ones(BOX // 2 + 1)), []
    loader, batch = batch_of(images.with_symmetry(NAME))
    (view,) = views_on_grid(batch, loader, noise)
    truth = backproject([batch], loader.disc, 5.0, COUNT)
    subspace = Subspace(truth.map[None], 5.0)
    two, shift = images.require_pose().rotation[:2].to(torch.float32), torch.zeros(1, 2)
    every = (two[:, None] @ GROUP.to(two)).flatten(0, 1)
    for rotation, seen in ((two, view), (every, replace(view, symmetry=None))):
        grid, equations = Hypotheses(rotation, shift), NormalEquations(BOX, 5.0, 0)
        accumulate(equations, [seen], grid, expect(subspace, [seen], grid, 6.0), 6.0)
        sums.append(equations.sums)
    # The even spread counts each image once, symmetry counts it six times.
    torch.testing.assert_close(sums[0], 6 * sums[1], rtol=0, atol=0.02 * float(sums[0].abs().max()))


def test_networks_are_refused_before_anything_is_written(images, tmp_path):
    symmetric, out = images.with_symmetry(NAME), tmp_path / "run"
    with pytest.raises(ConfigError, match="networks cannot be told of symmetry D3"):
        train(symmetric, network(latent=1), out)
    for search, final in ((NetworkConfig(), one_map()), (SubspaceConfig(), network(latent=0))):
        with pytest.raises(ConfigError, match="networks cannot be told of symmetry D3"):
            abinit(symmetric, search, final, out)
    assert not out.exists()


def test_the_run_remembers_the_symmetry(images, tmp_path):
    run = train(images.with_symmetry("d3"), one_map(), tmp_path / "run")
    assert runs.open_run(run.path).particles.symmetry == "D3"
    with pytest.raises(ConfigError, match="symmetry: D3 then, C1 now"):
        train(images, one_map(), tmp_path / "run", resume=True)


@pytest.mark.slow
def test_poses_of_a_symmetric_molecule_are_found_from_nothing(tmp_path):
    """300 images, D3, SNR 1: up to one of the six, the frame and the hand, poses are those of the truth."""
    truth = make_set(tmp_path, images=300, snr=1.0)
    particles = read_particles(tmp_path / "set/particles.star").with_symmetry(NAME)
    search = SubspaceConfig(bootstrap=BootstrapConfig(starts=4), shift_extent_px=2.0, rounds=2)
    run = abinit(particles, search, one_map(), tmp_path / "run")
    assert run.pose is not None
    assert error_deg(run.pose.rotation, truth.require_pose().rotation) < 3
    found = torch.from_numpy(np.array(run.volume()))
    inside = found[1:, 1:, 1:]  # z, y, x, with the centre in the middle
    half_turn = inside.flip(0, 1)  # about x, a twofold axis of D3
    assert float((half_turn - inside).norm() / inside.norm()) < 0.02


def error_deg(found: torch.Tensor, true: torch.Tensor) -> float:
    """The median angle to the truth, the best of either hand and of frames that some image suggests."""
    best = 180.0
    for depth in (1.0, -1.0):
        mirrored = torch.tensor([1.0, 1.0, depth]).double()
        relative = found.mT @ (mirrored[:, None] * true * mirrored)  # A g for each image
        for frame in relative[:20]:
            apart = torch.einsum("nij,gkj,kl->nilg", relative, GROUP, torch.eye(3).double())
            traces = torch.einsum("nilg,il->ng", apart, frame)
            angle = torch.arccos(((traces.amax(1) - 1) / 2).clamp(-1, 1))
            best = min(best, float(torch.rad2deg(angle.median())))
    return best
