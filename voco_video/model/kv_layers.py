"""Layers of the library's cache that do no more than a pass here needs: keep the end, stop early, grow in place.

They are for decoders whose layers keep the keys and values of all tokens. Others, such as those with a running state,
keep what the library's own cache keeps: `library_cache`, `copied_cache`.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

ROOM_TOKENS = 64
"""How many more tokens a `GrowingLayer` makes room for at a time; `AnswerOptions` generates as many by default."""


class TailLayer(DynamicLayer):
    """Keeps the last few positions only, so a batch of frames never holds all its vision keys."""

    keys: Tensor
    values: Tensor

    def __init__(self, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep the end of what comes; attention sees all of it."""
        self.lazy_initialization(key_states, value_states)
        self.keys = key_states[:, :, -self.num_tokens :].clone()
        self.values = value_states[:, :, -self.num_tokens :].clone()
        return key_states, value_states


class PassIsOver(Exception):  # noqa: N818  # nothing is wrong
    """Everything that was wanted of a pass through the decoder is in its cache."""


class LastTailLayer(TailLayer):
    """The last layer's tail: ends the pass once it has its keys and values, before its attention and MLP."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep the end of what comes, and end the pass.

        Raises:
            PassIsOver: always.
        """
        super().update(key_states, value_states)
        raise PassIsOver


class GrowingLayer(DynamicLayer):
    """Begins with a prefix, shared until more comes; then a step writes its own tokens, where the library copies all.

    Args:
        keys, values: ``[B, kv_heads, S, head_dim]``, never written to.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values
        self._rooms: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Put what comes behind what is there."""
        start = self.keys.shape[-2]
        stop = start + key_states.shape[-2]
        rooms = self._rooms
        # The tensor may be another one by now: the library reorders and repeats rows.
        if rooms is None or rooms[0].shape[-2] < stop or rooms[0].data_ptr() != self.keys.data_ptr():
            rooms = _with_room(self.keys, stop), _with_room(self.values, stop)
        for room, new in zip(rooms, (key_states, value_states), strict=True):
            room[:, :, start:stop] = new
        self._rooms = rooms
        self.keys, self.values = (room[:, :, :stop] for room in rooms)
        return self.keys, self.values


def _with_room(tensor: Tensor, num_tokens: int) -> Tensor:
    """Copy ``[B, kv_heads, S, head_dim]`` with places for ``num_tokens`` and `ROOM_TOKENS` more."""
    batch_size, kv_heads, length, head_dim = tensor.shape
    room = tensor.new_empty(batch_size, kv_heads, num_tokens + ROOM_TOKENS, head_dim)
    room[:, :, :length] = tensor
    return room


# ---------------------------------------------------------------------- decoders that keep something else


def library_cache(text_config: Any) -> DynamicCache | None:
    """Make an empty cache as the library does for a decoder; None where all layers keep all keys and values.

    It holds the running state of layers that have one, and the last few keys and values of those that see no more.
    """
    cache = DynamicCache(config=text_config)
    return None if all(type(layer) is DynamicLayer for layer in cache.layers) else cache


def copied_cache(cache: Cache, batch_size: int) -> Cache:
    """Copy a cache of one row to one of several; the library writes into what it is given."""
    rows: Any = torch.zeros(batch_size, dtype=torch.long)
    layers = []
    for layer in cache.layers:
        other = copy.copy(layer)
        # Layers with a running state have it in dictionaries, which would be shared.
        vars(other).update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
        other.reorder_cache(rows)  # picks row 0 for each row, which copies it
        layers.append(other)
    return Cache(layers=layers)
