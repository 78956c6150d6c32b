"""What Prometheus reads: requests, the queue, tokens, hits of the cache, seconds by stage."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter("voco_video_requests", "Requests.", ["route", "method", "status"], registry=registry)
        self.request_seconds = Histogram(
            "voco_video_request_seconds", "Whole requests.", ["route"], registry=registry, buckets=_SECONDS
        )
        self.first_piece_seconds = Histogram(
            "voco_video_first_piece_seconds", "From request to first text.", registry=registry, buckets=_SECONDS
        )
        self.answers = Counter("voco_video_answers", "Answers, by how they ended.", ["finish"], registry=registry)
        self.tokens = Counter("voco_video_tokens", "Tokens of prompts and of answers.", ["kind"], registry=registry)
        self.batch_size = Histogram(
            "voco_video_batch_size", "Questions in a batch.", registry=registry, buckets=(1, 2, 4, 8, 16, 32)
        )
        self.stage_seconds = Counter("voco_video_stage_seconds", "Seconds of work.", ["stage"], registry=registry)
        self.cache = Counter("voco_video_cache_requests", "Videos by whether the cache had them.", ["found"],
                             registry=registry)  # fmt: skip
        self.prefixes = Counter("voco_video_prefix_requests", "Videos by whether they were in memory.", ["found"],
                                registry=registry)  # fmt: skip
        self.refused = Counter("voco_video_refused", "Requests turned away.", ["why"], registry=registry)
        self.jobs = Counter("voco_video_jobs", "Jobs by how they ended.", ["kind", "state"], registry=registry)

    def watch(self, name: str, help: str, value: Callable[[], float]) -> None:
        """Add a gauge whose value is asked for when the metrics are read."""
        Gauge(f"voco_video_{name}", help, registry=self._registry).set_function(value)

    def page(self) -> bytes:
        """Return them as Prometheus reads them."""
        return generate_latest(self._registry)
