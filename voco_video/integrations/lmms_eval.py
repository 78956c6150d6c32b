"""voco-video models in lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval), under the name ``voco_video``.

The harness, version 0.7.2 or later, finds it through the entry-point group ``lmms_eval.models``:

    lmms-eval --model voco_video --model_args pretrained=./checkpoint,num_frames=32 --tasks videomme,gqa --batch_size 16

Videos and images are compressed once, whatever the number of questions on them, and kept in the frame cache.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms
from tqdm import tqdm

from voco_video.api import load_model
from voco_video.errors import UsageError
from voco_video.evaluate.processes import device_of
from voco_video.integrations.generation import Generation
from voco_video.integrations.visuals import PICTURE_ERRORS, HarnessView, Viewer
from voco_video.options.compression import AUTO, CompressOptions, Decoder
from voco_video.options.sampling import Sampling

if TYPE_CHECKING:
    import torch

logger = logging.getLogger("voco_video")
_Got = TypeVar("_Got")


class VocoVideo(lmms):
    """A voco-video model as lmms-eval calls it. Frames come before the text, whatever their place in the question.

    Args:
        pretrained: a checkpoint folder, a hub id, or an embedded model; see `load_model`.
        fps, num_frames: see `Sampling`; 1 fps when neither is given. An image is one frame.
        compressor, form, storage, decoder: see `CompressOptions`.
        num_voco_tokens: budget k per frame to answer from; the cache keeps all K.
        frames_per_batch: see `CompressOptions.batch_size`.
        max_new_tokens: where a task does not say.
        dtype, attn_implementation, cache_dir: see `load_model`.
        device, batch_size, max_batch_size: the harness's own options. A batch is of questions on one video; ``"auto"``
            is 32.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "voco-tiny",
        *,
        fps: float | None = None,
        num_frames: int | None = None,
        compressor: str = AUTO,
        num_voco_tokens: int | None = None,
        form: Any = None,
        storage: Any = "native",
        decoder: Decoder = "pyav",
        frames_per_batch: int = 16,
        max_new_tokens: int = 1024,
        dtype: str = "auto",
        attn_implementation: str = "sdpa",
        cache_dir: str | None = None,
        device: str = "auto",
        batch_size: int | str = 1,
        max_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        self.questions_per_batch = _questions_per_batch(batch_size, max_batch_size)
        self.max_new_tokens = max_new_tokens
        sampling = Sampling(fps=fps, num_frames=num_frames)
        compression = CompressOptions(
            compressor=compressor, form=form, storage=storage, batch_size=frames_per_batch, decoder=decoder
        )
        model = load_model(
            pretrained,
            device=device_of(device, int(os.environ.get("LOCAL_RANK", "0"))),
            dtype=dtype,
            attn_implementation=attn_implementation,
            cache_dir=cache_dir,
        )
        self.viewer = Viewer(model, sampling, compression, num_voco_tokens)
        self._generations: dict[str, Generation] = {}
        self._num_unreadable = 0

    @property
    def device(self) -> torch.device:
        """The device for the tensors that the harness's processes exchange."""
        return self.viewer.model.voco.backbone.device

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answer each request's question about its visuals; "" with a warning if these cannot be read.

        Raises:
            DataError, UsageError: see `Viewer.look` and `HarnessView.answers`.
        """
        texts = [""] * len(requests)
        for view, indices in self._views(requests):
            if view is None:
                continue
            by_generation: dict[Generation, list[int]] = {}
            for index in indices:
                by_generation.setdefault(self._generation(requests[index].args[1]), []).append(index)
            for generation, chosen in by_generation.items():
                answers = self._answers(view, [requests[index].args[0] for index in chosen], generation)
                for index, text in zip(chosen, answers, strict=True):
                    texts[index] = text
        return texts

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """Compute each continuation's mean negative log-likelihood per token, and whether greedy decoding gives it.

        This is not the log-likelihood, since the harness chooses the smallest value: its own models return losses too.
        Each pair is wrapped in a `GenerationResult`, since the harness converts bare pairs to text. The harness cannot
        read such results from its own cache of responses (``--use_cache``), for any model.

        The value is infinite, with a warning, if visuals cannot be read.
        """
        losses = [GenerationResult((math.inf, False))] * len(requests)
        for view, indices in self._views(requests):
            if view is None:
                continue
            by_question: dict[str, list[int]] = {}
            for index in indices:
                by_question.setdefault(requests[index].args[0], []).append(index)
            for question, chosen in by_question.items():
                continuations = [self._continuation(requests[index]) for index in chosen]
                for index, loss in zip(chosen, view.losses(question, continuations), strict=True):
                    losses[index] = GenerationResult(loss)
        return losses

    def generate_until_multi_round(self, requests: list[Instance]) -> list[list[str]]:
        """Answer all rounds of each request; after each round the task says what is shown and asked next."""
        bar = tqdm(requests, desc="voco-video", unit="request", disable=self.rank != 0)
        return [self._rounds(request) for request in bar]

    def _rounds(self, request: Instance) -> list[str]:
        question, settings, doc_to_visual, doc_to_text, *place = request.args
        document, generation = self._document(*place), self._generation(settings)
        shown, texts, info = self._readable(lambda: _flat(doc_to_visual(document))), [], None
        for round_index in count(1):
            view = None if shown is None else self._readable(partial(self.viewer.look, shown))
            texts += [""] if view is None else self._answers(view, [question], generation)
            visuals, question, is_over, texts, info = doc_to_text(
                document, previous_output=texts, round_idx=round_index, previous_round_info=info
            )
            shown, texts = _flat(visuals), list(texts)
            if is_over:
                break
        return texts

    def _answers(self, view: HarnessView, questions: list[str], generation: Generation) -> list[str]:
        texts = view.answers(questions, options=generation.options, batch_size=self.questions_per_batch)
        return [generation.cut(text) for text in texts]

    def _generation(self, settings: dict[str, Any]) -> Generation:
        key = repr(settings)  # most requests have the same settings, and warnings about them come only once
        if key not in self._generations:
            self._generations[key] = Generation.of(settings, max_new_tokens=self.max_new_tokens)
        return self._generations[key]

    def _continuation(self, request: Instance) -> str:
        """Return a continuation without the space before it, which the chat template writes itself."""
        continuation = request.args[1]  # or a function that finds it in the document
        return str(continuation(self._document(*request.args[3:])) if callable(continuation) else continuation).strip()

    def _readable(self, get: Callable[[], _Got]) -> _Got | None:
        """Call a function; return None, with a warning, if a video or image cannot be read."""
        try:
            return get()
        except PICTURE_ERRORS as error:
            self._num_unreadable += 1
            reason = str(error) or type(error).__name__
            logger.warning("%s; its questions count as unanswered (%d like it so far)", reason, self._num_unreadable)
            return None

    def _views(self, requests: list[Instance]) -> Iterator[tuple[HarnessView | None, list[int]]]:
        """Yield everything that is shown, each video once, with the indices of the requests about it.

        Images are compressed as soon as they are loaded, since a task may have more of them than fit in memory.
        """
        by_files: dict[tuple[str, ...], list[int]] = {}
        with tqdm(total=len(requests), desc="voco-video", unit="request", disable=self.rank != 0) as bar:
            for indices, visuals in self._visuals(requests):
                if visuals and all(isinstance(visual, str) for visual in visuals):
                    by_files.setdefault(tuple(visuals), []).extend(indices)
                else:
                    view = None if visuals is None else self._readable(partial(self.viewer.look, visuals))
                    yield view, indices
                    bar.update(len(indices))
            for files, indices in by_files.items():
                yield self._readable(partial(self.viewer.look, files)), indices
                bar.update(len(indices))

    def _visuals(self, requests: list[Instance]) -> Iterator[tuple[list[int], list[Any] | None]]:
        """Yield the requests on each document, with its visuals; None if these cannot be read.

        Unconditional choices have no document.
        """
        by_document: dict[_Place | None, list[int]] = {}
        for index, request in enumerate(requests):
            place = _Place(*request.args[2:]) if len(request.args) > 2 else None
            by_document.setdefault(place, []).append(index)
        for place, indices in by_document.items():
            yield indices, [] if place is None else self._readable(partial(self._shown, place))

    def _shown(self, place: _Place) -> list[Any]:
        return _flat(place.doc_to_visual(self._document(*place.of_document)))

    def _document(self, doc_id: int, task: str, split: str) -> Any:
        return self.task_dict[task][split][doc_id]


@dataclass(frozen=True)
class _Place:
    """The place of a request's document, and the function that makes its visuals."""

    doc_to_visual: Callable[[Any], Any]
    doc_id: int
    task: str
    split: str

    @property
    def of_document(self) -> tuple[int, str, str]:
        """The document's number, task and split."""
        return self.doc_id, self.task, self.split


def _flat(visuals: Any) -> list[Any]:
    """Flatten what tasks return as visuals: None, one visual, or lists in a list."""
    if visuals is None:
        return []
    if not isinstance(visuals, Sequence) or isinstance(visuals, str):
        return [visuals]
    return [inner for visual in visuals for inner in (visual if isinstance(visual, (list, tuple)) else [visual])]


def _questions_per_batch(batch_size: int | str, max_batch_size: int | None) -> int:
    from voco_video.options.answering import MAX_QUESTIONS_PER_BATCH

    size = MAX_QUESTIONS_PER_BATCH if str(batch_size).startswith("auto") else int(batch_size)
    if size < 1:
        raise UsageError(f"batch_size={batch_size}: a batch needs at least 1 question")
    return min(size, MAX_QUESTIONS_PER_BATCH, max_batch_size or MAX_QUESTIONS_PER_BATCH)
