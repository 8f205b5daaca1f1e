"""Whether an object does what its class says."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def is_untouched(module: torch.nn.Module, names: Sequence[str]) -> bool:
    """Whether a module has its class's methods, and no hooks around its call.

    Args:
        module (torch.nn.Module): Any module.
        names (Sequence[str]): Methods to look at.

    Returns:
        bool: False if the instance itself was given one of these methods, or has forward hooks.
    """
    own = vars(module)
    return not any(name in own for name in names) and not (
        module._forward_hooks or module._forward_pre_hooks
    )
