"""A running average of weights that never waits for the device."""

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class RunningAverage(AveragedModel):
    """torch's exponential average of a network's weights and statistics, which however asks the
    device at every update whether it is the first."""

    def __init__(self, network: nn.Module, decay: float):
        follow = get_ema_multi_avg_fn(decay)
        device = next(network.parameters()).device
        super().__init__(network, device, multi_avg_fn=follow, use_buffers=True)
        self.begun: bool | None = None

    def update_parameters(self, network: nn.Module) -> None:
        """Take in the network's weights and statistics; the first time, copy them."""
        if self.begun is None:  # at first, and after a checkpoint was loaded
            self.begun = bool(self.n_averaged > 0)
        if not self.begun:
            super().update_parameters(network)
            self.begun = True
            return
        ours, theirs = (
            [each.detach() for each in (*net.parameters(), *net.buffers())]
            for net in (self.module, network)
        )
        pairs = [pair for pair in zip(ours, theirs, strict=True) if pair[0].is_floating_point()]
        self.multi_avg_fn(*map(list, zip(*pairs, strict=True)), None)
        self.n_averaged += 1
