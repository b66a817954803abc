"""Channel-wise gating (Table IV, w/ cg): features are mixed where HMoDE mixes density maps."""

import torch
from torch import Tensor, nn

from hmode.method.network import conv_relu, density_head, resize


class ChannelMixing(nn.Module):
    """What the mixture of features needs around it: inputs of one shape, and density heads.

    Each decoder block's features go through a 1 x 1 convolution with ReLU to C channels, as many as
    the finest block has, and bilinearly to its grid. Each mixture of them, group or final, has a
    density head of its own. The paper gives neither; the experts keep their heads.

    Args:
        c_in: channels of the K decoder blocks, finest first.
        mixtures: the number of mixtures on each level, the final one included: [3, 1] for M = 3.
        width, scale: of the network.
    """

    def __init__(self, c_in: list[int], mixtures: list[int], width: float, scale: float):
        super().__init__()
        self.channels = c_in[0]
        self.projections = nn.ModuleList(conv_relu([c, self.channels], [1]) for c in c_in)
        self.level_heads = nn.ModuleList(
            nn.ModuleList(density_head(self.channels, width, scale) for _ in range(m))
            for m in mixtures
        )

    def inputs(self, blocks: list[Tensor]) -> Tensor:
        """The decoder's blocks, coarsest first → `[B, K, C, h, w]`, finest first."""
        grid = blocks[-1].shape[-2:]
        projected = zip(self.projections, blocks[::-1], strict=True)
        return torch.stack([resize(project(x), grid) for project, x in projected], dim=1)

    def maps(self, levels: list[Tensor]) -> list[Tensor]:
        """Each level's mixtures `[B, M, C, h, w]`, the final one included → maps `[B, M, h, w]`."""
        return [
            torch.cat([head(x).float() for head, x in zip(heads, level.unbind(1), strict=True)], 1)
            for heads, level in zip(self.level_heads, levels, strict=True)
        ]


def mean_weights(gate: Tensor, grid: tuple[int, int]) -> Tensor:
    """Weights `[B, ..., C, 1, 1]`, averaged over channels and repeated: `[B, ..., h, w]`.

    They still sum to one over a group's members, which is what L_Eim asks about (eq. 6).
    """
    return gate.mean(dim=-3).expand(*gate.shape[:-3], *grid)
