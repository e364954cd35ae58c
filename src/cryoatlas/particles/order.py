"""Orders in which images are read: as they lie on disk, or at random and yet in large pieces.

Drawn one by one from a set larger than memory, images cost a seek each. Here the set is cut, as it lies on
disk, into chunks of `CHUNK_BYTES`. Chunks are read whole, in random order, into a buffer of `BUFFER_CHUNKS`,
and images leave the buffer at random, a chunk's worth for every chunk that comes in. Two neighbours in a
file come in together and leave at independent times, on average a buffer apart. A set that fits into the
buffer is permuted uniformly.
"""

from dataclasses import dataclass

import numpy as np
import torch

from cryoatlas.particles.particle_set import ParticleSet
from cryoatlas.shapes import Array, Int, Tensor

CHUNK_BYTES = 2**25
"""Of float32 pixels: 32 MiB, a tenth of a second at 300 MB/s, ten times a seek."""
BUFFER_CHUNKS = 16
"""512 MiB in the buffer: a batch of 32 images comes from about 14 places of the set."""


@dataclass(frozen=True)
class Order:
    """Positions of images in the order of their use, and the pieces in which they are read."""

    positions: Int[Tensor, "image"]
    chunks: tuple[Array, ...] = ()
    """Positions read together, in the order of reading, each as it lies on disk; together they are
    `positions`. None for images that are read batch by batch."""
    buffer_images: int = 0
    """This many images, at most, are read and not yet used before a chunk's first is."""

    def __len__(self) -> int:
        return len(self.positions)

    def after(self, images: int) -> "Order":
        """The rest of the order when so many images have been used: it goes on with the same ones."""
        rest = self.positions[images:]
        if not self.chunks:
            return Order(rest)
        wanted = np.zeros(int(self.positions.max()) + 1, bool)
        wanted[rest.numpy()] = True
        chunks = (chunk[wanted[chunk]] for chunk in self.chunks)
        return Order(rest, tuple(chunk for chunk in chunks if len(chunk)), self.buffer_images)


def storage_order(particles: ParticleSet) -> Int[Tensor, "image"]:
    """All positions as their images lie on disk: stack by stack, from the first to the last."""
    addresses = particles.addresses
    return torch.from_numpy(np.lexsort((addresses.section, addresses.stack)))


def random_order(count: int, seed: int, epoch: int) -> Int[Tensor, "image"]:
    """A permutation of 0 … count − 1 that depends on seed and epoch alone, so that runs can resume."""
    return torch.from_numpy(np.random.default_rng((seed, epoch)).permutation(count))


def shuffled_order(particles: ParticleSet, seed: int, epoch: int) -> Order:
    """Every image once, at random, read in large pieces where the set does not fit into the buffer.

    Depends on seed, epoch and the places of the images on disk alone.
    """
    size = max(1, CHUNK_BYTES // (4 * particles.box_size**2))
    if len(particles) <= BUFFER_CHUNKS * size:
        return Order(random_order(len(particles), seed, epoch))
    generator = np.random.default_rng((seed, epoch))
    stored = storage_order(particles).numpy()
    pieces = [stored[start : start + size] for start in range(0, len(stored), size)]
    chunks = tuple(pieces[number] for number in generator.permutation(len(pieces)))
    buffer = np.concatenate(chunks[:BUFFER_CHUNKS])
    used = []
    for chunk in chunks[BUFFER_CHUNKS:]:
        shuffled = generator.permutation(buffer)
        used.append(shuffled[: len(chunk)])
        buffer = np.concatenate([shuffled[len(chunk) :], chunk])
    used.append(generator.permutation(buffer))
    return Order(torch.from_numpy(np.concatenate(used)), chunks, BUFFER_CHUNKS * size)
