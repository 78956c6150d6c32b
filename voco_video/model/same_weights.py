"""A module a second time, with another configuration over the same weights."""

from __future__ import annotations

import copy
from typing import Any


def over_same_weights(module: Any, config: Any, other_config: Any, recorded: tuple[type, ...]) -> Any:
    """Make a module with another configuration over the same weights; what does not read it is shared.

    Args:
        config: the configuration that ``module`` has.
        recorded: kinds of modules whose output the library records, by hooks that it never takes away: not shared.
    """
    children = {
        name: over_same_weights(child, config, other_config, recorded) for name, child in module.named_children()
    }
    reads_it = isinstance(module, recorded) or any(value is config for value in vars(module).values())
    if not reads_it and all(child is getattr(module, name) for name, child in children.items()):
        return module
    other = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):  # its children, and hooks that the library adds while it records
            vars(other)[name] = copy.copy(value)
        elif value is config:
            vars(other)[name] = other_config
    other._modules.update(children)
    if hasattr(module, "_hf_hook"):  # replaces `forward` and moves its input to the module's device
        from accelerate.hooks import add_hook_to_module

        for name in ("forward", "_old_forward", "_hf_hook"):
            vars(other).pop(name, None)
        add_hook_to_module(other, module._hf_hook)
    return other
