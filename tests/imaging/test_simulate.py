"""Simulated sets: what is written agrees with the truth that is written, and what cannot be is refused."""

import csv
import errno
import math
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import torch
from tests.pretend_device import pretended_device

from cryoatlas.errors import ConfigError, OutputError
from cryoatlas.fourier.lattice import Disc, frequency_grid
from cryoatlas.fourier.transform import hartley
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import about_x, random_rotations
from cryoatlas.imaging.ctf import CTFParameters, contrast_transfer
from cryoatlas.imaging.draws import random_contrasts, random_ctfs, random_poses
from cryoatlas.imaging.experiment import Experiment, stream_clean_images, white_noise
from cryoatlas.imaging.projection import correlation, slice_frequencies
from cryoatlas.imaging.scenes import build_scene
from cryoatlas.imaging.shift import shift_hartley
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.imaging.simulate_plan import MeasuredTables, RandomStreams, plan_experiment
from cryoatlas.io.mrc import read_volume
from cryoatlas.io.stack import StackWriter
from cryoatlas.io.star import read_star
from cryoatlas.particles.particle_set import read_particles

BOX = 24


def config(**options) -> SimulationConfig:
    """A small set: 24 images of 24 px in 3 states of bond 1, without noise."""
    defaults = {"scene": "linear1d", "images": 24, "box": BOX, "snr": math.inf, "states": 3}
    return SimulationConfig(**(defaults | options))


def plan(options: SimulationConfig, tables: MeasuredTables | None = None) -> Experiment:
    random = RandomStreams.of(options.seed)
    scene = build_scene(options.scene, options.states, options.angle_range_deg, random.scene)
    return plan_experiment(options, scene, tables or MeasuredTables(), random)


def images_in(folder, name: str = "particles") -> torch.Tensor:
    return read_particles(folder / f"{name}.star").images(slice(None)).double()


def states_in(folder) -> list[dict[str, str]]:
    with (folder / "truth" / "states.csv").open() as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def clean_pairs(tmp_path_factory):
    """Tilt pairs with CTF, without noise."""
    folder = tmp_path_factory.mktemp("sets") / "clean"
    simulate(config(ctf=True, tilt_pairs=True, seed=7), folder)
    return folder


def slice_of_map(voxels: np.ndarray, freqs: torch.Tensor, pixel_size: float) -> torch.Tensor:
    """Hartley coefficients of a map at any frequencies (Å⁻¹), voxel by voxel."""
    grid = frequency_grid(len(voxels), 3).flatten(0, 2) * pixel_size
    phase = 2 * math.pi * (freqs @ grid.T)
    values = torch.from_numpy(voxels.astype(np.float64)).flatten()
    return (torch.cos(phase) + torch.sin(phase)) @ values / len(voxels)


@pytest.mark.parametrize("name", ["particles", "particles_tilt"])
def test_the_map_of_an_images_state_predicts_the_image(clean_pairs, name):
    truth = read_particles(clean_pairs / "truth" / f"{name}.star")
    states, disc, pixel_size = states_in(clean_pairs), Disc(BOX), 192 / BOX
    plane = disc.frequencies / (BOX * pixel_size)
    for image in range(4):
        voxels = read_volume(
            clean_pairs / "truth" / "volumes" / f"state_{int(states[image]['state']):06d}.mrc"
        )
        assert voxels.pixel_size == pytest.approx(pixel_size)
        freqs = slice_frequencies(plane[None], truth.pose.rotation[image : image + 1])[0]
        predicted = slice_of_map(voxels.array, freqs, pixel_size)[None]
        predicted = shift_hartley(predicted, plane[None], truth.pose.shift[image : image + 1])
        predicted = predicted * contrast_transfer(plane[None], truth.ctf[image : image + 1])
        observed = disc.gather(hartley(truth.images([image]).double()))
        # Between its own frequencies a map cut off at Nyquist differs a little from the continuous body.
        assert correlation(predicted, observed) > 0.999
        assert predicted.norm().item() == pytest.approx(observed.norm().item(), rel=0.01)


def test_every_image_has_its_state_and_the_states_coordinates(clean_pairs):
    rows = states_in(clean_pairs)
    assert [int(row["image"]) for row in rows] == list(range(24))
    assert np.bincount([int(row["state"]) for row in rows]).tolist() == [8, 8, 8]
    assert all(float(row["angle_1_deg"]) == 45 * int(row["state"]) for row in rows)
    maps = sorted(path.name for path in (clean_pairs / "truth" / "volumes").iterdir())
    assert maps == [f"state_{state:06d}.mrc" for state in range(3)]


def test_the_particles_have_no_poses_and_the_truth_has(clean_pairs):
    for name in ("particles", "particles_tilt"):
        assert not [
            column
            for table in read_star(clean_pairs / f"{name}.star").values()
            for column in table.names
            if column.startswith(("rlnAngle", "rlnOrigin"))
        ]
        assert read_particles(clean_pairs / "truth" / f"{name}.star").pose is not None
        torch.testing.assert_close(images_in(clean_pairs, name), images_in(clean_pairs / "truth", name))


def test_a_tilt_pair_is_turned_about_x_and_shares_all_else(clean_pairs):
    first = read_particles(clean_pairs / "truth" / "particles.star")
    second = read_particles(clean_pairs / "truth" / "particles_tilt.star")
    tilted = about_x(math.radians(45)) @ first.pose.rotation
    # Angles and origins are written with all their digits.
    torch.testing.assert_close(second.pose.rotation, tilted, atol=1e-12, rtol=0)
    torch.testing.assert_close(second.pose.shift, first.pose.shift)
    torch.testing.assert_close(second.ctf.defocus_u, first.ctf.defocus_u)


def test_noise_has_the_variance_that_the_snr_asks_for(tmp_path):
    for snr in (math.inf, 0.1):
        simulate(config(images=400, snr=snr, tilt_pairs=True, ctf=True), tmp_path / str(snr))
    clean, noisy = (images_in(tmp_path / name) for name in ("inf", "0.1"))
    noise = noisy - clean
    ratio = clean.var((-2, -1), correction=0).mean() / noise.var(correction=0)
    # The signal is measured on all 400 images, so what is left is the sampling error of the variance of
    # 400 · 24² deviates, √(2/230,400) = 0.3 %; four of those.
    assert ratio.item() == pytest.approx(0.1, rel=0.012)
    # Standard errors: σ/480 of the mean, 1/480 of a correlation; four of each.
    assert abs(noise.mean() / noise.std()) < 4 / 480
    tilt_noise = images_in(tmp_path / "0.1", "particles_tilt") - images_in(tmp_path / "inf", "particles_tilt")
    assert abs(torch.corrcoef(torch.stack([noise.flatten(), tilt_noise.flatten()]))[0, 1]) < 4 / 480
    assert (
        abs(torch.corrcoef(torch.stack([noise[:, :, 1:].flatten(), noise[:, :, :-1].flatten()]))[0, 1]) < 0.01
    )
    record = tomllib.loads((tmp_path / "0.1" / "simulation.toml").read_text())
    assert record["result"]["noise_sigma"] == pytest.approx(noise.std().item(), rel=0.006)
    assert record["result"]["signal_variance"] == pytest.approx(0.1 * noise.var().item(), rel=0.012)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_seed_gives_the_same_files_and_another_seed_other_images(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        simulate(config(scene="discrete10", states=None, snr=1.0, ctf=True, seed=seed), tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    other = contents(tmp_path / "c")
    different = [str(path) for path, data in contents(tmp_path / "a").items() if other[path] != data]
    assert {"particles.star", "particles.mrcs", "truth/states.csv", "truth/volumes/state_000003.mrc"} <= set(
        different
    )


def test_images_do_not_depend_on_the_number_of_threads():
    experiment = plan(config(images=40, ctf=True))
    indices = torch.arange(40)
    one, three = (torch.cat(list(stream_clean_images(experiment, indices, workers))) for workers in (1, 3))
    assert torch.equal(one, three)
    assert torch.equal(torch.cat(list(stream_clean_images(experiment, indices.flip(0), 2))).flip(0), one)


def test_images_of_another_device_are_the_same_to_rounding():
    experiment = plan(config(scene="discrete10", states=None, images=20, ctf=True, contrast_spread=0.2))
    here = torch.cat(list(stream_clean_images(experiment, torch.arange(20))))
    with pretended_device() as name:
        there = torch.cat(list(stream_clean_images(experiment, torch.arange(20), device=torch.device(name))))
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5 * float(here.abs().max()))


def test_noise_does_not_depend_on_the_size_of_the_pieces():
    whole = white_noise((6, 5, 5), 2.0, np.random.default_rng(3))
    generator = np.random.default_rng(3)
    pieces = np.concatenate([white_noise((count, 5, 5), 2.0, generator) for count in (1, 3, 2)])
    np.testing.assert_array_equal(whole, pieces)


def test_the_body_is_the_same_molecule_at_every_box_size():
    for box in (16, 32):
        experiment = plan(config(box=box))
        assert experiment.pixel_size * box == 192
        assert experiment.sigma == max(96 / box, 1)


def test_random_poses_cover_rotations_and_shifts():
    pose = random_poses(4000, 15.0, np.random.default_rng(0))
    # Uniform rotations: the mean of each entry is 0 with standard deviation √(1/3)/√4000 = 0.009.
    assert pose.rotation.mean(0).abs().max() < 0.04
    assert pose.shift.abs().max() <= 15
    assert pose.shift.std(0).numpy() == pytest.approx(15 / math.sqrt(3), rel=0.05)


def test_shifts_reach_5_px_in_64_unless_told_otherwise():
    assert config(box=64).largest_shift_px == 5
    assert config(box=128).largest_shift_px == 10
    still = plan(config(shift_px=0.0))
    assert still.pose.shift.abs().max() == 0
    moved = plan(config(images=300))
    assert 0.9 < moved.pose.shift.abs().max() / (5 / 64 * 192) <= 1


def test_built_in_ctfs_are_realistic():
    ctf = random_ctfs(2000, np.random.default_rng(0))
    mean = (ctf.defocus_u + ctf.defocus_v) / 2
    assert 5_000 <= mean.min() < 6_000
    assert 29_000 < mean.max() <= 30_000
    astigmatism = ctf.defocus_u - ctf.defocus_v
    assert astigmatism.min() >= 0
    assert 100 < astigmatism.median() < 300
    assert ctf.defocus_angle.min() >= 0
    assert ctf.defocus_angle.max() <= math.pi


def test_without_ctf_the_star_file_says_nothing_of_one(tmp_path):
    simulate(config(), tmp_path / "set")
    assert read_particles(tmp_path / "set" / "particles.star").ctf is None


def test_a_measured_ctf_table_is_used_row_by_row(tmp_path):
    rows = 30
    table = CTFParameters.build(
        rows,
        defocus_u=torch.arange(1, rows + 1).double() * 1000,
        defocus_v=torch.arange(1, rows + 1).double() * 900,
        defocus_angle=0.5,
        voltage_kv=torch.tensor([200.0, 300.0]).repeat(15),
        spherical_aberration_mm=2.0,
        amplitude_contrast=0.07,
        phase_shift=0.25,
        b_factor=40.0,
    )
    simulate(config(), tmp_path / "set", MeasuredTables(ctf=table))
    read = read_particles(tmp_path / "set" / "particles.star").ctf
    row = (read.defocus_u / 1000).round().long() - 1
    assert len(set(row.tolist())) == 24
    for name in ("defocus_v", "defocus_angle", "voltage_kv", "phase_shift", "b_factor"):
        torch.testing.assert_close(getattr(read, name), getattr(table[row], name))
    assert len(read_star(tmp_path / "set" / "particles.star")["optics"]) == 2


def pose_table(rows: int) -> Pose:
    generator = np.random.default_rng(9)
    return Pose(random_rotations(rows, generator), torch.from_numpy(generator.uniform(-9, 9, (rows, 2))))


def test_a_measured_pose_table_is_used_in_order_and_again_when_it_is_short():
    table = pose_table(30)
    long = plan(config(), MeasuredTables(poses=lambda box, pixel_size: table)).pose
    torch.testing.assert_close(long.rotation, table.rotation[:24])
    torch.testing.assert_close(long.shift, table.shift[:24])
    short = plan(config(), MeasuredTables(poses=lambda box, pixel_size: table[:5])).pose
    distance = (short.rotation[:, None] - table.rotation[:5]).abs().amax((-2, -1))
    assert distance.amin(1).max() == 0
    assert len(set(distance.argmin(1).tolist())) == 5


def test_shifts_of_a_pose_table_can_be_left_aside():
    table = Pose(pose_table(30).rotation, torch.full((30, 2), 500.0, dtype=torch.float64))
    tables = MeasuredTables(poses=lambda box, pixel_size: table, keep_shifts=False)
    pose = plan(config(shift_px=1.0), tables).pose
    torch.testing.assert_close(pose.rotation, table.rotation[:24])
    assert 0 < pose.shift.abs().max() <= 192 / BOX


def test_a_pose_table_learns_the_box_and_pixel_size_that_its_fractions_refer_to():
    asked = []
    plan(config(pixel_size=9.0), MeasuredTables(poses=lambda *scale: asked.append(scale) or pose_table(30)))
    assert asked == [(BOX, 9.0)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"images": 0}, "--images"),
        ({"box": 4}, "--box"),
        ({"snr": 0.0}, "give inf"),
        ({"snr": math.nan}, "--snr"),
        ({"seed": -1}, "--seed"),
        ({"states": 0}, "--states"),
        ({"scene": "linear2d", "states": 5}, "give 6"),
        ({"scene": "homogeneous", "states": 3}, "leave it out"),
        ({"scene": "circular1d", "angles": "0,90"}, "--angles has no meaning"),
        ({"angles": "0:90"}, "--angles takes 2 numbers"),
        ({"angles": "0,inf"}, "finite"),
        ({"pixel_size": 0.0}, "--pixel-size"),
        ({"sigma": -1.0}, "--sigma"),
        ({"shift_px": -1.0}, "--shift-px"),
        ({"tilt_angle": 0.0}, "--tilt-angle"),
        ({"rotate": ("A",)}, "add --atoms FILE"),
        ({"atoms": "model.pdb"}, "--rotate was given 0 times"),
        ({"atoms": "model.pdb", "rotate": ("A", "B")}, "turns 1 bond"),
        ({"scene": "homogeneous", "states": None, "atoms": "model.pdb", "rotate": ("A",)}, "turns 0 bonds"),
        ({"atoms": "model.pdb", "rotate": ("A",), "hinge": ("A:1", "A:2")}, "--hinge was given 2 times"),
        ({"atoms": "model.pdb", "rotate": ("A",), "axis": ("0,0",)}, "--axis takes 3 numbers"),
    ],
)
def test_options_that_mean_nothing_are_refused_with_the_fix(tmp_path, options, says):
    if "atoms" in options:
        options = options | {"atoms": tmp_path / options["atoms"]}
    with pytest.raises(ConfigError, match=says):
        config(**options)


def test_an_unknown_scene_is_refused_with_the_scenes_there_are():
    # In a process of its own, without the tests' type checks, which would speak first.
    program = (
        "from cryoatlas.imaging.simulate_config import SimulationConfig as C; C('linear3d', images=1, box=16)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "ConfigError: there is no scene 'linear3d': choose one of homogeneous, linear1d" in done.stderr


def test_a_molecule_larger_than_the_box_is_refused_with_a_pixel_size_that_fits():
    with pytest.raises(ConfigError, match="reaches") as refusal:
        plan(config(pixel_size=4.0))
    needed = float(str(refusal.value).split("--pixel-size ")[1].split()[0])
    box = int(str(refusal.value).split("--box ")[1].split()[0])
    assert plan(config(pixel_size=needed, shift_px=0.0)).pixel_size == needed
    assert plan(config(pixel_size=4.0, box=box, shift_px=0.0)).box_size == box


def test_shifts_that_push_the_molecule_over_the_edge_are_refused():
    with pytest.raises(ConfigError, match="--shift-px"):
        plan(config(shift_px=8.0))
    with pytest.raises(ConfigError, match="--ignore-shifts"):
        plan(config(shift_px=1.0), MeasuredTables(poses=lambda box, pixel_size: pose_table(30)))


def test_an_atomic_model_swings_and_fills_three_quarters_of_its_box(tmp_path):
    atoms = [(0, 0, z) for z in range(0, 30, 3)] + [(x, 0, 30) for x in range(3, 30, 3)]
    lines = [
        f"ATOM  {i:5d}  CA  ALA A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C\n"
        for i, (x, y, z) in enumerate(atoms, 1)
    ]
    (tmp_path / "model.pdb").write_text("".join(lines))
    experiment = plan(config(atoms=tmp_path / "model.pdb", rotate=("A:11-19",), angles="0,30"))
    positions = [experiment.volume(state).centres for state in range(3)]
    torch.testing.assert_close(positions[0][:10], positions[2][:10])
    arms = [(centres[18] - centres[9]) / (centres[18] - centres[9]).norm() for centres in positions]
    assert math.degrees(math.acos(arms[0] @ arms[2])) == pytest.approx(30)
    largest = max(centres.norm(dim=-1).max().item() for centres in positions)
    assert largest / (BOX * experiment.pixel_size) == pytest.approx(0.375, rel=0.01)


def test_an_interrupted_simulation_leaves_nothing(tmp_path):
    def interrupt(done: int, total: int, note: str = "") -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(config(), tmp_path / "set", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing_and_says_so(tmp_path, monkeypatch):
    def full(self, images):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(StackWriter, "append", full)
    with pytest.raises(OutputError, match="the disk is full"):
        simulate(config(), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_noticed_before_the_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(OutputError, match="nothing was written"):
        simulate(config(), tmp_path / "set")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused_and_replaced_only_on_request(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "notes.txt").write_text("precious")
    with pytest.raises(OutputError, match="--overwrite"):
        simulate(config(), folder)
    assert contents(folder).keys() == {(folder / "notes.txt").relative_to(folder)}
    simulate(config(), folder, overwrite=True)
    assert not (folder / "notes.txt").exists()
    assert len(images_in(folder)) == 24
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_progress_counts_all_images_once(tmp_path):
    seen = []
    simulate(
        config(images=200, box=96, tilt_pairs=True),
        tmp_path / "set",
        progress=lambda done, total, note="": seen.append((done, total)),
    )
    assert seen[-1] == (400, 400)
    assert len(seen) > 4
    assert seen == sorted(seen)


def test_contrasts_scale_the_signal_of_each_image_and_nothing_else(tmp_path):
    simulate(config(seed=4), tmp_path / "even")
    simulate(config(seed=4, contrast_spread=0.2), tmp_path / "spread")
    even, spread = (images_in(tmp_path / name) for name in ("even", "spread"))
    truth = read_particles(tmp_path / "spread" / "truth" / "particles.star").tables.particles
    factor = torch.from_numpy(truth.number("cryoatlasContrast"))
    # Images are stored as float32.
    torch.testing.assert_close(spread, factor[:, None, None] * even, rtol=1e-5, atol=1e-5 * float(even.max()))
    assert factor.log().std() > 0.1
    assert not read_particles(tmp_path / "spread" / "particles.star").tables.particles.has(
        "cryoatlasContrast"
    )
    assert not read_particles(tmp_path / "even" / "truth" / "particles.star").tables.particles.has(
        "cryoatlasContrast"
    )


def test_contrasts_have_mean_one_and_the_spread_asked_for():
    factor = random_contrasts(40_000, 0.3, np.random.default_rng(0))
    # Standard errors are 0.3/√40000 = 0.0015 and 0.0011; five of these.
    assert factor.mean().item() == pytest.approx(1, abs=0.008)
    assert factor.log().std().item() == pytest.approx(0.3, abs=0.006)
    assert random_contrasts(5, 0.0, np.random.default_rng(0)) is None


def test_a_negative_contrast_spread_is_refused():
    with pytest.raises(ConfigError, match=r"--contrast-spread .* -0\.1"):
        config(contrast_spread=-0.1)
