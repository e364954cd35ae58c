"""`cryoatlas classify`: classes and poses from particles to a run folder, resumed, refused and used again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.recipes.small_search import StopAfter, small_subspace

from cryoatlas.analysis.pose_error import compare_poses
from cryoatlas.cli import app
from cryoatlas.errors import ConfigError, InputError
from cryoatlas.geometry.pose import Pose
from cryoatlas.imaging.simulate import simulate
from cryoatlas.imaging.simulate_config import SimulationConfig
from cryoatlas.io.mrc import read_volume
from cryoatlas.particles.particle_set import read_particles
from cryoatlas.progress import Interrupted
from cryoatlas.recipes.abinit import abinit
from cryoatlas.recipes.run import Run, open_run
from cryoatlas.recipes.train import train
from cryoatlas.subspace.config import ClassesConfig

SMALL = ClassesConfig(
    classes=3, epochs=3, settle=1, component_epochs=2, components=2, band_start=4.0, chunk=64
)


@pytest.fixture(scope="module")
def found(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three classes of 240 images of 16 px."""
    particles = read_particles(simulated / "truth" / "particles.star")
    return train(particles, SMALL, tmp_path_factory.mktemp("classes") / "run", device="cpu")


def test_a_run_folder_holds_what_it_promises(found):
    z = found.latents()
    assert z.shape == (240, 3)
    np.testing.assert_allclose(z.sum(1), 1, atol=1e-5)
    assert found.engine == "classes"
    assert np.isfinite(found.losses()).all()
    events = [entry["event"] for entry in found.log()]
    assert events == ["consensus", "epoch", "epoch", "start", "epoch", "epoch", "epoch", "classes", "end"]
    number = found.particles.tables.particles.number("rlnClassNumber")
    assert (number == z.argmax(1) + 1).all()
    sizes = found.log()[-2]["sizes"]
    assert sizes == np.bincount(number.astype(int) - 1, minlength=3).tolist()


def test_volumes_of_a_run_are_the_maps_of_its_classes(found):
    for number, volume in enumerate(found.volumes(np.eye(3)), 1):
        written = read_volume(found.path / "volumes" / f"class_{number:03d}.mrc")
        assert written.array.shape == (16, 16, 16)
        # The written one is also 0 where images are windowed away.
        assert np.corrcoef(written.array.ravel(), volume.ravel())[0, 1] > 0.98
        halves = [
            read_volume(found.path / "volumes" / f"class_{number:03d}_half_{half}.mrc").array
            for half in (1, 2)
        ]
        assert not np.array_equal(*halves)
    # Whatever the other classes' probabilities, it is the most probable one's map.
    first, again = found.volumes(np.array([[1.0, 0.0, 0.0], [0.5, 0.3, 0.2]]))
    np.testing.assert_array_equal(first, again)


@pytest.mark.slow
def test_a_single_class_refines_poses(tmp_path):
    simulate(SimulationConfig(scene="homogeneous", images=400, box=32, snr=1.0, seed=2), tmp_path / "set")
    particles = read_particles(tmp_path / "set" / "truth" / "particles.star")
    true = particles.require_pose()
    generator = np.random.default_rng(3)
    turn = _small_turns(len(particles), 6.0, generator)
    shift = true.shift + torch.from_numpy(generator.normal(0, 3.0, (len(particles), 2)))
    off = particles.with_pose(Pose(turn @ true.rotation, shift))
    config = ClassesConfig(classes=1, align="refine", epochs=6, settle=0)
    run = train(off, config, tmp_path / "run", device="cpu")
    assert run.latent_size == 0
    assert run.latents().shape == (400, 0)
    assert run.volume().shape == (32, 32, 32)
    before = compare_poses(off.require_pose(), true, run.pixel_size).run
    after = compare_poses(run.particles.require_pose(), true, run.pixel_size).run
    assert after.median_rotation_deg < 0.6 * before.median_rotation_deg
    assert after.median_shift_px < 0.3 * before.median_shift_px


def _small_turns(count: int, degrees: float, generator: np.random.Generator) -> torch.Tensor:
    import roma

    axis = torch.nn.functional.normalize(torch.from_numpy(generator.normal(size=(count, 3))), dim=1)
    return roma.rotvec_to_rotmat(np.radians(degrees) * axis)


def test_an_interrupted_run_goes_on_to_the_same_end(simulated, found, tmp_path):
    particles = read_particles(simulated / "truth" / "particles.star")
    out = tmp_path / "run"
    # 240 images are 4 chunks: 8 questions for components, 4 for latents, 4 for first maps, then the passes.
    with pytest.raises(Interrupted, match="classes, pass 2"):
        train(particles, SMALL, out, device="cpu", stop_requested=StopAfter(22))
    with pytest.raises(InputError, match="not finished"):
        open_run(out).volume(np.array([1.0, 0.0, 0.0]))
    run = train(particles, SMALL, out, device="cpu", resume=True)
    np.testing.assert_array_equal(run.latents(), found.latents())
    with pytest.raises(ConfigError, match="classes"):
        train(particles, replace(SMALL, classes=2), out, device="cpu", resume=True)


@pytest.mark.slow
@pytest.mark.parametrize("align", ["refine", "search"])
def test_poses_are_taken_to_the_frames_of_classes(simulated, tmp_path, align):
    particles = read_particles(simulated / "truth" / "particles.star")
    config = replace(SMALL, classes=2, align=align, search_every=1, shift_extent_px=1.0, shift_points=2)
    run = train(particles, config, tmp_path / "run", device="cpu")
    assert run.pose is not None
    moved = compare_poses(run.pose, particles.require_pose(), run.pixel_size).run
    # Of poses at random it would be 127°.
    assert 0 < moved.median_rotation_deg < 25


@pytest.mark.slow
def test_classes_from_nothing(simulated, tmp_path):
    particles = read_particles(simulated / "particles.star")
    config = replace(SMALL, classes=2, align="search", shift_extent_px=1.0, shift_points=2)
    run = abinit(particles, small_subspace(0), config, tmp_path / "run", device="cpu")
    assert run.engine == "classes"
    assert (run.path / "search" / "particles.star").exists()
    assert run.latents().shape == (240, 2)


def test_the_verb(simulated, tmp_path, capsys):
    file, out = simulated / "truth" / "particles.star", tmp_path / "run"
    words = ["classify", str(file), "--classes", "2", "--out", str(out), "--epochs", "2", "--device", "cpu"]
    assert app.run(words) == 0
    said = capsys.readouterr()
    assert "half maps agree to" in said.out
    assert open_run(out).config["train"]["align"] == "none"
    assert app.run(["volumes", str(out), "--out", str(tmp_path / "maps"), "--latent", "0,1"]) == 0
    assert app.run(["score", str(out), "--truth", str(simulated / "truth"), "--images", "4"]) == 0
    assert app.run(["analyze", str(out)]) == 0
    assert "divided into 2 classes" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--classes", "0"], "classes must be 1 or more"),
        (["--classes", "200"], "need 1600 images or more, got 240"),
        (["--classes", "2", "--starts", "3"], "--starts has no meaning for --recipe known"),
    ],
)
def test_what_cannot_be_is_refused(simulated, tmp_path, capsys, words, complaint):
    file, out = simulated / "truth" / "particles.star", tmp_path / "run"
    assert app.run(["classify", str(file), "--out", str(out), *words]) == 2
    assert complaint in capsys.readouterr().err
    assert not out.exists()


def test_particles_without_poses_need_ab_initio(simulated, tmp_path, capsys):
    words = ["classify", str(simulated / "particles.star"), "--classes", "2", "--out", str(tmp_path / "run")]
    assert app.run([*words, "--recipe", "known"]) == 2
    assert "pose" in capsys.readouterr().err
