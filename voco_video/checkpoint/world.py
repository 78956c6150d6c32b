"""What the frames that a checkpoint was trained on look like, so that a video of something else is recognised.

Features of those frames are taken for a normal distribution. A frame is foreign where its Mahalanobis distance

    d(x) = |W (x - m)| / sqrt(D)          m: mean, W: D x D, the inverse root of the covariance, shrunk to its diagonal

is beyond a limit that few frames of the held-out ones pass. Features come from vision tokens while a video is
compressed, whatever the compressor; the result is a fact of its entry. For entries without this fact they come from the
stored VoCo tokens.

Source of the distance as a detector: Lee et al. (arXiv:1807.03888), section 2; here with one class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from voco_video.checkpoint.needed import VOCO_CONFIG
from voco_video.errors import ModelError
from voco_video.files.settings import FETCH_AGAIN, first_line, has_file, read_settings
from voco_video.files.weights import read_small_weights
from voco_video.model.inference import undisturbed
from voco_video.model.tokens import VocoTokens
from voco_video.model.voco import VocoModel

WORLD_WEIGHTS = "world.safetensors"
SHRINKAGE = 0.02  # of the covariance of features, each of variance 1, towards the identity
VISION = "vision"  # the features that are taken from vision tokens


@dataclass(frozen=True)
class Familiar:
    """Where the features of familiar frames lie.

    Attributes:
        mean: ``[D]``.
        whitening: ``[D, D]``; see the module's formula.
        limit: frames beyond this distance are foreign.
    """

    mean: Tensor
    whitening: Tensor
    limit: float

    @staticmethod
    @undisturbed()
    def fit(features: Tensor, held_out: Tensor, *, share: float) -> Familiar:
        """Fit a normal distribution to features ``[F, D]``.

        Args:
            held_out: features of other frames, ``[F, D]``, by which the limit is set.
            share: of the held-out frames, how many may be beyond it, 0 to 1.
        """
        rows = features.double()
        mean, scale = rows.mean(0), rows.std(0)
        scale = scale.clamp_min(1e-6 * float(scale.max()))  # a feature that never changes says nothing
        correlation = torch.cov(((rows - mean) / scale).T)  # [D, D]
        identity = torch.eye(len(mean), dtype=torch.float64)
        values, vectors = torch.linalg.eigh((1 - SHRINKAGE) * correlation + SHRINKAGE * identity)
        whitening = (vectors * values.rsqrt()).T / scale  # [D, D]
        fitted = Familiar(mean.float(), whitening.bfloat16().float(), 0.0)  # it is stored in 16 bits
        limit = float(fitted.distances(held_out).quantile(1 - share))
        return Familiar(fitted.mean, fitted.whitening, limit)

    @undisturbed()
    def distances(self, features: Tensor) -> Tensor:
        """Compute the distances of frames, ``[F, D] -> [F]``."""
        offsets = features.to("cpu", torch.float32) - self.mean
        return (offsets @ self.whitening.T).square().mean(1).sqrt()


@dataclass(frozen=True)
class World:
    """What a checkpoint was trained on, and how its frames are told from others.

    Attributes:
        about: what it was trained on, to be read after "trained on".
        model_fingerprint: fingerprint of the compressing weights that it is for, in float32.
        familiar: by kind of features, see `vision_features` and `stored_features`.
    """

    about: str
    model_fingerprint: str
    familiar: Mapping[str, Familiar]

    def belongs_to(self, model: VocoModel, fingerprint: str) -> bool:
        """Check that this is the world of a model; in types other than float32 by the width of its features alone."""
        if model.backbone.dtype == torch.float32:
            return fingerprint == self.model_fingerprint
        return len(self.familiar[VISION].mean) == model.backbone.hidden_size

    def count(self, features: Mapping[str, Tensor]) -> FrameCounts | None:
        """Count frames and those of them that are foreign.

        Args:
            features: ``[F, D]`` by their kind; the first kind that is known counts.

        Returns:
            None where no kind is known.
        """
        for kind, rows in features.items():
            if (familiar := self.familiar.get(kind)) is not None and rows.shape[1] == len(familiar.mean):
                is_familiar = familiar.distances(rows) <= familiar.limit  # NaN is not
                return FrameCounts(len(rows), int((~is_familiar).sum()))
        return None

    def save(self, folder: Path) -> Path:
        """Write it into a checkpoint's folder, whose voco_config.json then lists it."""
        tensors: dict[str, Tensor] = {}
        for kind, one in self.familiar.items():
            tensors |= {f"{kind}.mean": one.mean, f"{kind}.limit": torch.tensor(one.limit, dtype=torch.float32)}
            tensors[f"{kind}.whitening"] = one.whitening.bfloat16().contiguous()
        path = folder / WORLD_WEIGHTS
        save_file(tensors, path, metadata={"model_fingerprint": self.model_fingerprint, "about": self.about})
        settings = read_settings(folder / VOCO_CONFIG)
        settings["files"] = list(dict.fromkeys([*settings.get("files", []), WORLD_WEIGHTS]))
        (folder / VOCO_CONFIG).write_text(json.dumps(settings, indent=2) + "\n")
        return path

    @staticmethod
    def load(folder: Path) -> World | None:
        """Load the world of a checkpoint's folder; None if it has none.

        Raises:
            ModelError: the file does not hold one.
        """
        if not has_file(folder, WORLD_WEIGHTS):
            return None
        path = folder / WORLD_WEIGHTS
        tensors = read_small_weights(path)
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
            familiar = {kind: _familiar(tensors, kind) for kind in {name.rpartition(".")[0] for name in tensors}}
            if VISION not in familiar:
                raise ValueError(f"{VISION}.mean is missing")
            return World(metadata["about"], metadata["model_fingerprint"], familiar)
        except Exception as error:  # the library raises anything
            raise ModelError(
                f"{path} does not say what the model was trained on: {first_line(error)}; {FETCH_AGAIN}"
            ) from error


def _familiar(tensors: Mapping[str, Tensor], kind: str) -> Familiar:
    mean, whitening, limit = (tensors[f"{kind}.{name}"].float() for name in ("mean", "whitening", "limit"))
    if mean.ndim != 1 or whitening.shape != (len(mean), len(mean)) or limit.ndim:
        raise ValueError(f"{kind} has shapes {tuple(mean.shape)}, {tuple(whitening.shape)} and {tuple(limit.shape)}")
    return Familiar(mean, whitening, float(limit))


@dataclass(frozen=True)
class FrameCounts:
    """How many frames were looked at, and how many of them are foreign."""

    num_frames: int
    num_foreign: int

    def __add__(self, other: FrameCounts) -> FrameCounts:
        return FrameCounts(self.num_frames + other.num_frames, self.num_foreign + other.num_foreign)

    @property
    def is_foreign(self) -> bool:
        """Whether most frames are."""
        return 2 * self.num_foreign > self.num_frames

    @staticmethod
    def of_fact(fact: Any) -> FrameCounts | None:
        """Read the fact of an entry that `as_fact` made; None where it is something else."""
        match fact:
            case {"num_frames": int(num_frames), "num_foreign": int(num_foreign)} if num_frames > 0:
                return FrameCounts(num_frames, num_foreign)
        return None

    def as_fact(self) -> dict[str, int]:
        """Return what an entry records."""
        return {"num_frames": self.num_frames, "num_foreign": self.num_foreign}


class Watcher:
    """Counts the foreign frames among those that are compressed.

    Attributes:
        counts: so far; None before the first frame.
    """

    def __init__(self, world: World, counts: FrameCounts | None = None) -> None:
        self._world, self.counts = world, counts

    def look(self, vision_tokens: Tensor) -> None:
        """Count frames by their vision tokens ``[F, N, D]``."""
        found = self._world.count({VISION: vision_features(vision_tokens)})
        if found is not None:
            self.counts = found if self.counts is None else self.counts + found

    @property
    def facts(self) -> dict[str, Any]:
        """What an entry records; nothing before the first frame."""
        return {} if self.counts is None else {"world": self.counts.as_fact()}


def vision_features(vision_tokens: Tensor) -> Tensor:
    """Average the vision tokens of each frame, ``[F, N, D] -> [F, D]``."""
    return vision_tokens.float().mean(1)


def stored_features(tokens: VocoTokens) -> dict[str, Tensor]:
    """Return features of stored VoCo tokens, ``[F, D]`` by kind, the most telling kind first.

    Embeddings are averaged over the first 8, 4, 2 or 1 tokens. Of keys and values the first token counts, which does
    not depend on how many follow it: its values in every second layer.
    """
    if tokens.form == "kv":
        assert tokens.values is not None
        return {"kv": tokens.values[:, 1::2, :, 0].flatten(1).float()}
    assert tokens.embeds is not None
    counts = [k for k in (8, 4, 2, 1) if k <= tokens.embeds.shape[1]]
    return {f"embeds.{k}": tokens.embeds[:, :k].float().mean(1) for k in counts}
