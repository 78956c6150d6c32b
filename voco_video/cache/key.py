"""What a cache entry is the result of: the video's bytes, the compressing model, and every setting."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from blake3 import blake3

from voco_video.errors import CacheError

FORMAT_VERSION = 1  # of keys, segments and manifests alike; part of every digest
_HEX_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, eq=False)
class CacheKey:
    """Identifies one compressed video by everything that changes the result.

    Two keys are equal exactly when their digests are.

    Args:
        video_digest: 64 hex digits, `digest_file(video_path)`.
        model_fingerprint: 64 hex digits over the weights of the compressing path.
        settings: JSON values: num_voco_tokens, form, dtype, storage, preprocessing, frame template,
            sampling, …. Copied; a tuple becomes a list, as it does on disk.

    Raises:
        CacheError: a digest is not 64 lowercase hex digits, or a setting is not JSON (NaN included).

    Example:
        >>> key = CacheKey("ab" * 32, "cd" * 32, {"num_voco_tokens": 2, "form": "kv"})
        >>> key == CacheKey("ab" * 32, "cd" * 32, {"form": "kv", "num_voco_tokens": 2})
        True
        >>> len(key.digest)
        64
    """

    video_digest: str
    model_fingerprint: str
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in ("video_digest", "model_fingerprint"):
            if not is_digest(getattr(self, name)):
                raise CacheError(f"{name} must be 64 lowercase hex digits, not {getattr(self, name)!r}")
        settings = plain_json(self.settings, what="cache key settings")
        object.__setattr__(self, "settings", settings)  # ours alone: the caller may go on changing theirs

    @cached_property
    def digest(self) -> str:
        """64 hex digits: BLAKE3 over the canonical JSON of the format version and all fields."""
        identity = {"format_version": FORMAT_VERSION, **self.to_json()}
        return blake3(canonical_json(identity).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the key as a JSON value; `from_json` is the inverse.

        Example:
            >>> key = CacheKey("ab" * 32, "cd" * 32, {"form": "embeds"})
            >>> CacheKey.from_json(key.to_json()) == key
            True
        """
        return {
            "video_digest": self.video_digest,
            "model_fingerprint": self.model_fingerprint,
            "settings": self.settings,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CacheKey:
        """Rebuild a key from `to_json`; CacheError when a field is missing, unknown or of the wrong type."""
        try:
            return cls(**value)
        except TypeError as error:
            raise CacheError(f"not a cache key: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CacheKey) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def is_digest(value: object) -> bool:
    """Tell whether `value` is a string of 64 lowercase hex digits."""
    return isinstance(value, str) and _HEX_DIGEST.fullmatch(value) is not None


def canonical_json(value: Any, *, what: str = "value") -> str:
    """Write a JSON value in its one spelling: sorted keys, no spaces, ASCII; CacheError if it is not JSON.

    Example:
        >>> canonical_json({"b": (1, 2), "a": None})
        '{"a":null,"b":[1,2]}'
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise CacheError(f"{what} must be plain JSON: {error}; got {value!r}") from error


def plain_json(value: Mapping[str, Any], *, what: str = "value") -> dict[str, Any]:
    """Copy a value as it will be read back from disk (a tuple becomes a list); CacheError if it is not JSON."""
    return json.loads(canonical_json(dict(value), what=what))
