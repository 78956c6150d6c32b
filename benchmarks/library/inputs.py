"""What the arithmetic starts from: a library, machines, prices, limits; each can be set, and says where it is from."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.library.command import PRODUCT, PUBLISHED, SCENARIO, check_fields, given
from benchmarks.library.lengths import Lengths
from benchmarks.library.measured import CODECS
from voco_video.errors import UsageError

SHAPES = ("voco-tiny", "Qwen2-7B", "Vicuna-7B")
COUNTED = ("voco-tiny", "mid", "LLaVA-1.5-7B")
"""Models whose arithmetic a benchmark has counted."""
MODELS = {"voco-tiny": "voco-tiny", "LLaVA-1.5-7B": "Vicuna-7B"}
"""Those of them that can be chosen, and the shape whose bytes their frames take."""
FORMS = ("embeds", "kv")

_PRICES = "aws.amazon.com/s3/pricing: S3 Standard, US East (N. Virginia), as quoted in July 2022"
_RATES = "docs.aws.amazon.com: S3 User Guide, Optimizing performance, as quoted in May 2026"


@dataclass(frozen=True)
class Inputs:
    """A library, the machines that compress it, the store that keeps it.

    Raises:
        UsageError: a value that cannot be.
    """

    videos: int = given(1_000_000, "videos of the library", kind=SCENARIO)
    hours: float = given(100_000.0, "hours of video of the library", kind=SCENARIO)
    sigma: float = given(2.1, "spread of the lengths: standard deviation of their logarithms", zero=True, most=5)
    longest_hours: float = given(12.0, "the longest video")
    fps: float = given(1.0, "frames a second that are compressed", kind=SCENARIO)
    codec: str = given("h264", f"codec of the videos, 720p: {', '.join(CODECS)}", kind=SCENARIO)
    source_megabits: float = given(2.5, "Mbit a second of the video files")
    days: float = given(7.0, "days in which it has to be done", kind=SCENARIO)
    gpus: int = given(64, "GPUs at work", kind=SCENARIO)
    model: str = given("LLaVA-1.5-7B", f"what compresses: {', '.join(MODELS)}", kind=SCENARIO)
    checkpoint: str = given(
        "", "a checkpoint folder or name in its place; takes --gpu-frames-per-second", kind=SCENARIO
    )
    form: str = given("embeds", f"what is kept of a frame: {', '.join(FORMS)}", kind=SCENARIO)
    num_voco_tokens: int = given(1, "K, tokens kept of a frame", kind=SCENARIO)
    gpu_tflops: float = given(
        989.4, "peak of a GPU in bf16, dense", kind=PUBLISHED, source="NVIDIA's H100 SXM data sheet"
    )
    gpu_share: float = given(0.4, "share of that peak that compressing reaches; nothing was measured on a GPU", most=1)
    gpu_frames_per_second: float = given(
        0.0, "frames a second of a GPU, where you measured it; 0: its peak times the share", zero=True
    )
    cores_per_gpu: float = given(24.0, "processor cores beside each GPU, for decoding")
    core_speed: float = given(1.0, "how many times as fast as the core that was measured on")
    gpu_dollars_per_hour: float = given(3.0, "a GPU with its cores for an hour", zero=True)
    core_dollars_per_hour: float = given(0.04, "a core without a GPU for an hour", zero=True)
    store_dollars_per_gb_month: float = given(
        0.023, "keeping 2^30 bytes for a month", kind=PUBLISHED, source=_PRICES, zero=True
    )
    put_dollars_per_1000: float = given(
        0.005, "1 000 requests that write or list", kind=PUBLISHED, source=_PRICES, zero=True
    )
    get_dollars_per_1000: float = given(0.0004, "1 000 requests that read", kind=PUBLISHED, source=_PRICES, zero=True)
    put_rate: float = given(3500.0, "writes a second under one prefix", kind=PUBLISHED, source=_RATES)
    get_rate: float = given(5500.0, "reads a second under one prefix", kind=PUBLISHED, source=_RATES)
    request_seconds: float = given(0.15, "until the first byte of an answer", kind=PUBLISHED, source=_RATES)
    list_keys: int = given(
        1000, "keys in one answer to a listing", kind=PUBLISHED, source="docs.aws.amazon.com: S3 API, ListObjectsV2"
    )
    segment_frames: int = given(32, "frames in a segment, which would be an object", kind=PRODUCT)
    cache_gb: float = given(50.0, "GB after which a cache deletes what was unused longest", kind=PRODUCT)
    node_memory_gb: float = given(256.0, "GB of memory of the machine that searches")
    network_gigabits: float = given(10.0, "Gbit a second of network for each GPU")
    hot_questions_per_second: float = given(
        1000.0, "questions a second about the one video that all ask about", kind=SCENARIO
    )
    question_seconds: float = given(60.0, "video that a question reads", kind=SCENARIO)

    def __post_init__(self) -> None:
        check_fields(self)
        choices = (("codec", CODECS), ("model", tuple(MODELS)), ("form", FORMS))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise UsageError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        if self.checkpoint and not self.gpu_frames_per_second:
            raise UsageError(
                f"how fast a GPU compresses with {self.checkpoint} is not known: give --gpu-frames-per-second"
            )
        self.lengths()

    def lengths(self) -> Lengths:
        """How long the videos are."""
        return Lengths(self.mean_seconds, self.sigma, self.longest_hours * 3600)

    @property
    def mean_seconds(self) -> float:
        """Of a video."""
        return self.hours * 3600 / self.videos

    @property
    def frames(self) -> float:
        """Of the whole library."""
        return self.hours * 3600 * self.fps
