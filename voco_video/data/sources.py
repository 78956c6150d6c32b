"""Where the public sets can be downloaded. Nothing is fetched here; `voco-video data check` prints the addresses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from voco_video.data.files import Tree
from voco_video.data.sets import SETS
from voco_video.data.video_sets import Origin
from voco_video.errors import DataError
from voco_video.shapes.write_dataset import SETTINGS_NAME

_MLVU = "https://huggingface.co/datasets/MLVU/MVLU (test: https://huggingface.co/datasets/MLVU/MLVU_Test)"
_VISUAL_GENOME = "https://cs.stanford.edu/people/rak248/VG_100K_2"

SOURCES = {
    "msvd": Origin(
        "https://github.com/xudejing/video-question-answering",
        "https://www.cs.utexas.edu/users/ml/clamp/videoDescription/YouTubeClips.tar",
    ),
    "msrvtt": Origin(
        "https://github.com/xudejing/video-question-answering",
        "https://www.robots.ox.ac.uk/~maxbain/frozen-in-time/data/MSRVTT.zip",
    ),
    "activitynet": Origin(
        "https://github.com/MILVLG/activitynet-qa/tree/master/dataset", "http://activity-net.org/download.html"
    ),
    "egoschema": Origin("https://github.com/egoschema/EgoSchema", "https://github.com/egoschema/EgoSchema#readme"),
    "nextqa": Origin(  # VidOR's own page lacks the videos of test
        "https://github.com/doc-doc/NExT-QA/tree/main/dataset/nextqa",
        "https://github.com/doc-doc/NExT-QA#data-preparation",
    ),
    "videomme": Origin(
        "https://huggingface.co/datasets/lmms-lab/Video-MME", "https://huggingface.co/datasets/lmms-lab/Video-MME"
    ),
    "mlvu": Origin(_MLVU, _MLVU),
    "llava-mix665k": Origin(
        "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K/blob/main/llava_v1_5_mix665k.json",
        folders={
            "coco/train2017": "http://images.cocodataset.org/zips/train2017.zip",
            "gqa/images": "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip",
            "ocr_vqa/images": "https://drive.google.com/drive/folders/1_GYPY5UkUy7HIcR0zq3ZCFgeZN7BAfm_",
            "textvqa/train_images": "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
            "vg/VG_100K": f"{_VISUAL_GENOME}/images.zip",
            "vg/VG_100K_2": f"{_VISUAL_GENOME}/images2.zip",
        },
    ),
    **{name: one.origin for name, one in SETS.items()},
}
"""Addresses by the set's name."""


_BY_YOUTUBE_ID = ("activitynet", "videomme", "lvbench", "activitynet-captions")


def clip_origin(dataset: str, clip: str, urls: dict[str, str]) -> str:
    """Return where a clip was cut from, if its name (or MSR-VTT's list, see `msrvtt_urls`) says so; else "".

    >>> clip_origin("msvd", "-4wsuPCjDBc_5_15", {})
    'https://www.youtube.com/watch?v=-4wsuPCjDBc, seconds 5 to 15'
    """
    if dataset in _BY_YOUTUBE_ID and re.fullmatch(r"[\w-]{11}", clip):
        return f"https://www.youtube.com/watch?v={clip}"
    window = re.fullmatch(r"([\w-]{11})_(\d+)(?:\.0)?_(\d+)(?:\.0)?", clip)
    if dataset in ("msvd", "qvhighlights") and window is not None:
        video, start, end = window.groups()
        return f"https://www.youtube.com/watch?v={video}, seconds {start} to {end}"
    return urls.get(clip, "")


def msrvtt_urls(tree: Tree) -> dict[str, str]:
    """Read origins by clip from MSR-VTT's *videodatainfo.json, if it is with the clips.

    Raises:
        DataError: such a file is there, but has another content.
    """
    urls: dict[str, str] = {}
    for path in tree.annotations:
        if not path.name.endswith("videodatainfo.json"):
            continue
        try:
            for video in json.loads(path.read_bytes())["videos"]:
                seconds = f"seconds {video['start time']:g} to {video['end time']:g}"
                urls[video["video_id"]] = f"{video['url']}, {seconds}"
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DataError(f"{path}: not MSR-VTT's list of videos ({type(error).__name__}: {error})") from error
    return urls


def synthetic_origin(root: Path) -> str:
    """Return the command that writes a folder's MovingShapes set again, or "" if the folder holds no such set."""
    try:
        settings: dict[str, Any] = json.loads((root / SETTINGS_NAME).read_bytes())
        options = {
            "format": settings["layout"],
            "num-videos": settings["num_videos"],
            "seed": settings["seed"],
            "questions-per-video": settings["questions_per_video"],
            "size": settings["size"][0],
            "media": settings["media"],
        }
    except (OSError, ValueError, LookupError, TypeError):
        return ""
    return " ".join(["voco-video data synth --out DIR", *(f"--{name} {value}" for name, value in options.items())])
