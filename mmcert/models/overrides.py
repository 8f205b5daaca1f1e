"""Whether an object does what its class says."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def is_untouched(module: torch.nn.Module, names: Sequence[str]) -> bool:
    """Whether a module has its class's methods of these names, and no hooks around its call."""
    own = vars(module)
    return not any(name in own for name in names) and not (
        module._forward_hooks or module._forward_pre_hooks
    )
