"""An exponential moving average of a model's weights (Polyak and Juditsky, 1992), which is what a run then keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

State = dict[str, torch.Tensor]


class WeightAverage:
    """The average of a module's weights and running statistics over the steps of a run.

    Early on it is taken over fewer steps: the weight of the past is (1 + n) / (10 + n) after n steps until that reaches
    `decay`, so that the random weights of the start are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self._module = module
        self.state: State = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Count the module's present weights in; what is no float (counters) is taken over."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        for name, value in self._module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, share)
            else:
                self.state[name].copy_(value)

    def restore(self, state: State, steps: int) -> None:
        """Go on from an earlier average."""
        self.steps = steps
        for name, value in state.items():
            self.state[name].copy_(value)


@contextmanager
def other_weights(module: nn.Module, state: State | None) -> Iterator[None]:
    """The module has these weights meanwhile, and then its own again; None changes nothing."""
    if state is None:
        yield
        return
    own = {name: value.detach().clone() for name, value in module.state_dict().items()}
    module.load_state_dict(state)
    try:
        yield
    finally:
        module.load_state_dict(own)
