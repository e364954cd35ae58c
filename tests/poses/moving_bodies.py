"""Bodies whose true motion is known, for what takes false motions out."""

import torch


def core_and_arm() -> tuple[torch.Tensor, torch.Tensor]:
    """48 Gaussians in a ball of 22 Å, and 12 in an arm of 46 Å along x."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(48, 3, generator=generator).double(), dim=1)
    core = 22 * torch.rand(48, 1, generator=generator).double() ** (1 / 3) * direction
    along = torch.linspace(18, 46, 12).double()[:, None]
    return core, torch.cat([along, 2 * torch.randn(12, 2, generator=generator).double()], 1)
