r"""States of V(z) that are shown turned as a whole against their neighbours, or mirrored, and turned back.

Poses that are sought together with V(z) may fall into several frames: a molecule turned half around, its arm
on the other side, looks much the same at low frequencies, and where the components have taken up both views
no image contradicts either. The local steps of `poses.gauge` do not find such turns. Here each state's map is
tried in all rotations against the others (single images leave the hand of each state open too, so that
mirrored maps are tried as well), the likeliest are refined, and the turns are read off the minimum spanning
tree of the states, whose edges join those for which it is least in doubt whether one is turned: two states
that differ much in shape need not be compared, for a path of small steps leads from one to the other, nor two
in which the molecule looks the same from either side. A turn that is found is right to within the step of the
moving part between two states, since two maps do not tell what moves from what stands still; what is left is
drift, which `poses.gauge` takes out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from cryoatlas.geometry.grids import grid_rotations, rotation_count
from cryoatlas.geometry.pose import Pose
from cryoatlas.geometry.rotations import geodesic_angle
from cryoatlas.imaging.volume import Volume
from cryoatlas.poses.registration import Ball, Motion, disagreement, step_towards
from cryoatlas.shapes import Bool, Complex, Float, Int, Tensor

BAND = 6.0
"""Frequencies below this, in cycles per box, are compared."""
LEVEL = 2
"""Grid of rotations that are tried, 15° apart."""
FAR_DEG = 60.0
"""Turns by more are looked for; what is nearer is drift, and stays for `poses.gauge`."""
PARTNERS = 6
"""States, those most alike at their best rotation, that each is registered with."""
SHORTLIST, FAR_CANDIDATES = 128, 2
"""Far turns of the grid that correlate best, and how many of them, those that leave most of the density in
place, are refined for a pair, beside no turn at all."""
STAGES = ((1e-2, 6), (1e-3, 6))
"""ε, as a part of the squared maximum of the map that another is brought to, and steps with it."""
BELIEVED = 0.9
"""A far turn is believed if it leaves less than this part of what is left without one."""
LEAST = 1e-12
"""Of a disagreement that is divided by."""
ROTATIONS_AT_ONCE = 256


@dataclass(frozen=True)
class Edge:
    """How a state's map is best brought to another's."""

    first: int
    """The state that stays."""
    second: int
    """The state that moves."""
    doubt: float
    """What is left then (`poses.registration.disagreement`), as a part of what the other way leaves, a far
    turn or none: near 0 where it is clear whether one is turned against the other, 1 where it is not, more
    where a turn is a little better but not believed."""
    motion: Motion
    """Of the second; none where no far turn is better."""

    def motion_of(self, state: int) -> Motion:
        """Of either, to the other."""
        return self.motion if state == self.second else self.motion.back()


@torch.no_grad()
def find_turns(bodies: Sequence[Volume], share: Float[Tensor, "state"], *, mirrors: bool) -> Motion:
    """For each state the motion that brings it to the frame that most images have: none for most.

    Args:
        bodies: the volume of each state, without z.
        share: of the images, that each state stands for; in the dtype and on the device of the bodies.
        mirrors: whether mirrored maps are tried, which images of tilted pairs would contradict.
    """
    ball, still = Ball.of(bodies[0], BAND, share), Motion.none(1, share.device)
    spectra = torch.cat([ball.spectra(body, None, still.rotation, still.offset) for body in bodies])
    maps = ball.maps(spectra)
    tried = grid_rotations(LEVEL, torch.arange(rotation_count(LEVEL))).to(share.device)
    if mirrors:
        tried = torch.cat([tried, -tried])
    is_far, edges = _is_far(tried), []
    for second, body in enumerate(bodies):
        likeness = _likeness(ball, body, spectra, tried)
        partners = _partners(likeness, second)
        candidates = [
            _candidates(ball, body, maps[partner], tried[is_far], likeness[is_far, partner])
            for partner in partners.tolist()
        ]
        edges += _registered(ball, body, second, maps, partners, torch.stack(candidates, 1))
    return _from_tree(edges, share)


def turned_back(
    pose: Pose, z: Float[Tensor, "image latent"], states: Float[Tensor, "state latent"], motion: Motion
) -> tuple[Pose, Bool[Tensor, "image"]]:
    """Poses that show their state's map after its motion, and which of them that changed.

    Args:
        states: those that `motion` moves; the nearest one speaks for an image.
    """
    nearest = torch.cdist(z.double(), states.double()).argmin(1)
    moved = (motion.rotation - torch.eye(3).to(motion.rotation)).abs().amax((1, 2)) > 0
    rotation, offset = motion.rotation[nearest], motion.offset[nearest]
    return pose.to(rotation.device, torch.float64).of_moved_body(rotation, offset), moved[nearest]


def _is_far(rotation: Float[Tensor, "rotation 3 3"]) -> Bool[Tensor, "rotation"]:
    """Which of them turn by more than is drift, or mirror."""
    angle = torch.rad2deg(geodesic_angle(rotation, torch.eye(3).to(rotation).expand_as(rotation)))
    return (angle > FAR_DEG) | (torch.linalg.det(rotation) < 0)


def _likeness(
    ball: Ball,
    body: Volume,
    spectra: Complex[Tensor, "state half"],
    tried: Float[Tensor, "rotation 3 3"],
) -> Float[Tensor, "rotation state"]:
    """Correlation of a body in every rotation with the map of every state."""
    targets, likeness = torch.view_as_real(spectra).flatten(1), []
    for rotations in tried.split(ROTATIONS_AT_ONCE):
        offset = rotations.new_zeros(len(rotations), 3)
        turned = torch.view_as_real(ball.spectra(body, None, rotations, offset)).flatten(1)
        norms = torch.linalg.vector_norm(turned, dim=1)[:, None] * torch.linalg.vector_norm(targets, dim=1)
        likeness.append(turned @ targets.T / norms)
    return torch.cat(likeness)


def _candidates(
    ball: Ball,
    body: Volume,
    target: Float[Tensor, "voxel"],
    far: Float[Tensor, "rotation 3 3"],
    likeness: Float[Tensor, "rotation"],
) -> Float[Tensor, "candidate 3 3"]:
    """The far turns with which a body leaves most of another's map in place.

    Correlation alone would turn the body to where a moving part fits best.
    """
    listed = far[likeness.topk(min(SHORTLIST, len(far))).indices]
    motion = Motion(listed, listed.new_zeros(len(listed), 3))
    left = disagreement(ball, body, None, motion, target[None], STAGES[0][0])
    return listed[left.topk(FAR_CANDIDATES, largest=False).indices]


def _partners(likeness: Float[Tensor, "rotation state"], state: int) -> Int[Tensor, "partner"]:
    """The other states most like this one in its best rotation."""
    best = likeness.amax(0)
    best[state] = -torch.inf
    return best.topk(min(PARTNERS, len(best) - 1)).indices


def _registered(
    ball: Ball,
    body: Volume,
    state: int,
    maps: Float[Tensor, "state voxel"],
    partners: Int[Tensor, "partner"],
    candidates: Float[Tensor, "candidate partner 3 3"],
) -> list[Edge]:
    """The best motion of a state's map to each of its partners'."""
    eye = torch.eye(3).to(candidates).expand(1, *candidates.shape[1:])
    start = torch.cat([eye, candidates]).flatten(0, 1)
    target = maps[partners].repeat(len(candidates) + 1, 1)
    motion = Motion(start, start.new_zeros(len(start), 3))
    for epsilon, steps in STAGES:
        for _ in range(steps):
            motion = motion.then(step_towards(ball, body, None, motion, target, epsilon))
    left = disagreement(ball, body, None, motion, target, STAGES[-1][0]).unflatten(0, (-1, len(partners)))
    rotation, offset = (part.unflatten(0, left.shape) for part in (motion.rotation, motion.offset))
    edges = []
    for number, partner in enumerate(partners.tolist()):
        best = int(left[1:, number].argmin()) + 1
        without, with_turn = float(left[0, number]), float(left[best, number])
        if with_turn < BELIEVED * without:
            turn = Motion(rotation[best, number][None], offset[best, number][None])
            edges.append(Edge(partner, state, with_turn / without, turn))
        else:
            still = Motion.none(1, start.device)
            edges.append(Edge(partner, state, without / max(with_turn, LEAST), still))
    return edges


def _from_tree(edges: list[Edge], share: Float[Tensor, "state"]) -> Motion:
    """Motions along the minimum spanning tree into the frame of most images; none for what it misses."""
    ordered = sorted(edges, key=lambda edge: edge.doubt)
    reached = _reached(ordered, share.device)
    motion = Motion.joined([reached.get(state, Motion.none(1, share.device)) for state in range(len(share))])
    # Frames that lie near each other are one: a path of a turn and one back again leaves a rest.
    apart = torch.stack([_is_far(frame.mT @ motion.rotation) for frame in motion.rotation])
    root = int((~apart).to(share).matmul(share).argmax())
    motion = motion.then(motion.each()[root].back())
    # Paths add what each of their turns is wrong by: a frame is turned at once, by the best turn there is.
    near, straight = (~apart).tolist(), []
    for state, path in enumerate(motion.each()):
        if near[root][state]:
            straight.append(Motion.none(1, share.device))
        else:
            straight.append(_straight(ordered, near[state], near[root]) or path)
    return Motion.joined(straight)


def _reached(ordered: list[Edge], device: torch.device) -> dict[int, Motion]:
    """The motion of every state that edges lead to from the first, to that one's frame (Prim's algorithm)."""
    reached = {0: Motion.none(1, device)}
    while True:
        edge = next((e for e in ordered if (e.first in reached) != (e.second in reached)), None)
        if edge is None:
            return reached
        known, new = (edge.first, edge.second) if edge.first in reached else (edge.second, edge.first)
        reached[new] = edge.motion_of(new).then(reached[known])


def _straight(ordered: list[Edge], frame: list[bool], other: list[bool]) -> Motion | None:
    """The turn that brings two states of two frames to most likeness; None if none were compared."""
    for edge in ordered:
        for state, partner in ((edge.first, edge.second), (edge.second, edge.first)):
            motion = edge.motion_of(state)
            if frame[state] and other[partner] and bool(_is_far(motion.rotation)):
                return motion
    return None
