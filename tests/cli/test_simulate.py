"""``cryoatlas simulate`` from words to files."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from cryoatlas.cli.app import run
from cryoatlas.io.star import read_star
from cryoatlas.particles.particle_set import read_particles


def simulate(*words: object) -> int:
    return run(["simulate", *map(str, words)])


def test_a_set_is_made_and_announced(tmp_path, capsys):
    out = tmp_path / "set"
    assert simulate("linear2d", "--images", 20, "--box", 16, "--snr", "inf", "--states", 4, "--out", out) == 0
    assert str(out) in capsys.readouterr().err
    particles = read_particles(out / "truth" / "particles.star")
    assert len(particles) == 20
    assert particles.box_size == 16
    assert (out / "truth" / "states.csv").read_text().startswith("image,state,angle_1_deg,angle_2_deg\n0,")


def test_poses_and_ctfs_come_from_the_star_file_of_another_set(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    common = ("--images", 10, "--box", 16)
    assert simulate("homogeneous", *common, "--ctf", "--seed", 1, "--out", first) == 0
    star = first / "truth" / "particles.star"
    words = ("homogeneous", *common, "--poses-from", star, "--ctf-from", star, "--seed", 2, "--out", second)
    assert simulate(*words) == 0
    old, new = (read_particles(folder / "truth" / "particles.star") for folder in (first, second))
    torch.testing.assert_close(new.pose.rotation, old.pose.rotation)
    torch.testing.assert_close(new.pose.shift, old.pose.shift)
    assert sorted(new.ctf.defocus_u.tolist()) == sorted(old.ctf.defocus_u.tolist())
    assert simulate(*words[:-1], tmp_path / "third", "--ignore-shifts") == 0
    third = read_particles(tmp_path / "third" / "truth" / "particles.star")
    torch.testing.assert_close(third.pose.rotation, old.pose.rotation)
    assert not torch.equal(third.pose.shift, old.pose.shift)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("linear9d", "--images", 5, "--box", 16), "linear9d"),
        (("linear1d", "--images", 5, "--box", 16, "--snr", 0), "--snr must be above 0"),
        (("linear1d", "--images", 5), "--box"),
        (("linear1d", "--images", 5, "--box", 16, "--ignore-shifts"), "--poses-from"),
        (("linear1d", "--images", 5, "--box", 16, "--poses-from", "absent.star"), "absent.star"),
        (
            ("linear1d", "--images", 5, "--box", 16, "--atoms", "absent.pdb", "--rotate", "A:1-2"),
            "absent.pdb",
        ),
        (("linear1d", "--images", 5, "--box", 16, "--pixel-size", 3), "--pixel-size"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_one_paragraph(tmp_path, capsys, words, says):
    assert simulate(*words, "--out", tmp_path / "set") == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_star_file_without_ctf_cannot_give_one(tmp_path, capsys):
    assert simulate("homogeneous", "--images", 4, "--box", 16, "--out", tmp_path / "plain") == 0
    star = tmp_path / "plain" / "particles.star"
    assert "rlnDefocusU" not in read_star(star)["particles"].names
    words = ("homogeneous", "--images", 4, "--box", 16, "--out", tmp_path / "set", "--ctf-from", star)
    assert simulate(*words) == 2
    assert "has no CTF" in capsys.readouterr().err


def test_help_names_every_option_without_loading_torch():
    program = (
        "import sys; from cryoatlas.cli.app import run; status = run(['simulate', '--help']); "
        "sys.exit(status or 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in ("SCENE", "--snr", "--tilt-pairs", "--ctf-from", "--poses-from", "--rotate", "--axis"):
        assert option in done.stdout


@pytest.mark.data
def test_the_spike_swings_a_domain_in_real_poses_and_ctfs(shared_data, tmp_path):
    real = shared_data / "dist" / "empiar10076"
    out = tmp_path / "spike"
    words = ["linear1d", "--images", 6, "--box", 48, "--snr", "inf", "--states", 2, "--angles", "0,40"]
    words += ["--atoms", shared_data / "models" / "6vxx.pdb.gz", "--rotate", "A:330-530", "--out", out]
    words += ["--poses-from", real / "poses.pkl", "--ctf-from", real / "ctf.pkl"]
    assert simulate(*words) == 0
    particles = read_particles(out / "truth" / "particles.star")
    box = 48 * float(particles.pixel_size[0])
    # The table's first shifts, as fractions of the box, stay what they are.
    assert 0 < particles.pose.shift.abs().max() / box < 0.11
    assert particles.ctf.amplitude_contrast.numpy() == pytest.approx(0.07)
    images = particles.images(slice(None)).numpy()
    assert np.isfinite(images).all()
    assert images.std() > 0
