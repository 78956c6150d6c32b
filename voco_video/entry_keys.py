"""The address of a compressed video in a cache: what its frames depend on."""

from __future__ import annotations

from typing import Any

from voco_video.auto_compressor import settled
from voco_video.cache import CacheKey, digest_file
from voco_video.errors import CacheError, UsageError, VideoError
from voco_video.model.compressors import check_compressor
from voco_video.model.voco import VocoModel
from voco_video.options.compression import CompressOptions
from voco_video.options.sampling import Sampling
from voco_video.video.sources import LocalVideo, VideoLike, local_video


def cache_key(
    model: VocoModel,
    path: VideoLike,
    *,
    sampling: Sampling,
    options: CompressOptions,
    fingerprint: str | None = None,
) -> CacheKey:
    """Return the address of a compressed video: its bytes, the compressing weights, and every setting that counts."""
    with local_video(path) as local:
        return entry_key(model, video_digest(local), sampling=sampling, options=options, fingerprint=fingerprint)


def entry_key(
    model: VocoModel,
    video_digest: str,
    *,
    sampling: Sampling,
    options: CompressOptions,
    fingerprint: str | None = None,
) -> CacheKey:
    """Return the address of what a model makes of the video with this digest, 64 hex digits."""
    compressor = settled(model, options.compressor, num_voco_tokens=options.num_voco_tokens)
    if compressor is None:
        raise UsageError("compressor='auto' depends on the number of frames here, so no entry can be named; name one")
    form = model.form_of(compressor, options.form)
    check_compressor(model, compressor, num_voco_tokens=options.num_voco_tokens, form=form)
    kind: dict[str, Any] = {"compressor": str(compressor)}
    if compressor.name == "voco":  # so that entries from before there was a choice are found
        kind = {"num_voco_tokens": model.checked_budget(options.num_voco_tokens)}
    if compressor.sees_frames and model.backbone.template.pictures_per_frame > 1 and not options.merge_pictures:
        kind["merge_pictures"] = False
    return CacheKey(
        video_digest=video_digest,
        model_fingerprint=fingerprint or model.fingerprint(),
        settings={
            **kind,
            "form": form if compressor.sees_frames else "embeds",  # an empty entry is always stored as embeds
            "dtype": str(model.backbone.dtype).removeprefix("torch."),
            "storage": options.storage,
            "images": model.backbone.images.describe(),
            "template": model.backbone.template.describe(),
            "sampling": sampling.describe(),
            "decoder": options.decoder,
        },
    )


def video_digest(local: LocalVideo) -> str:
    """Return the digest under which the cache keeps what is made of a video, 64 hex digits."""
    if local.digest is not None:
        return local.digest
    if local.pictures is not None:
        return local.pictures.digest()
    assert local.path is not None
    try:
        return digest_file(local.path)
    except CacheError as error:  # the video cannot be read; the cache is fine
        raise VideoError(f"{local.path}: cannot be read to its end ({error})") from error
