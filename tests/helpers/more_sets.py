"""Small samples of public sets in the layouts in which these are published, made by hand, without clips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers.choice_sets import write_json


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def lvbench_qa(uid: str, question: str, answer: str, *types: str) -> dict[str, Any]:
    return {
        "uid": uid,
        "question": question,
        "answer": answer,
        "question_type": list(types),
        "time_reference": "00:15-00:19",
    }


def write_lvbench(root: Path) -> None:
    info = {"duration_minutes": 63.4, "fps": 30.0, "resolution": {"width": 1280, "height": 720}}
    first = [
        lvbench_qa(
            "55",
            "What year appears in the opening caption of the video?\n(A) 1636\n(B) 1366\n(C) 1363\n(D) 1633",
            "D",
            "key information retrieval",
        ),
        lvbench_qa(
            "56",
            "Why does (A) man leave?\n(A) He is\ntired\n(B) He is late\n(C) It rains\n(D) None",
            "B",
            "event understanding",
            "reasoning",
        ),
    ]
    second = [lvbench_qa("1201", "Who wins?\n(A) Ann\n(B) Bob\n(C) Cem\n(D) Dee", "A", "entity recognition")]
    rows = [
        {"key": "Cm73ma6Ibcs", "type": "cartoon", "qa": first, "video_info": info},
        {"key": "-t8rH1w_2Ek", "type": "sport", "qa": second, "video_info": info},
    ]
    write_lines(root / "data/video_info.meta.jsonl", rows)


def longvideobench_rows() -> list[dict[str, Any]]:
    shared = {
        "question_wo_referring_query": "Which subtitles appear at the same time?",
        "position": [854, 948, 1373],
        "topic_category": "NP-News-Programs",
        "level": "L2-Relation",
        "view_count": 259852,
    }
    return [
        {
            "video_id": "86CxyhFV9MI",
            "question": "Which subtitles appear at the same time as the man with black hair?",
            "candidates": ["run away", "front of our crown", "three three", "la la"],
            "correct_choice": 1,
            "question_category": "TOS",
            "id": "86CxyhFV9MI_0",
            "video_path": "86CxyhFV9MI.mp4",
            "subtitle_path": "86CxyhFV9MI_en.json",
            "duration_group": 600,
            "starting_timestamp_for_subtitles": 0,
            "duration": 190.16,
            **shared,
        },
        {
            "video_id": "@chef-7304267354",
            "question": "What is on the table?",
            "candidates": ["bread", "rice", "soup", "tea", "milk"],
            "correct_choice": 4,
            "question_category": "S2O",
            "id": "@chef-7304267354_1",
            "video_path": "@chef-7304267354.mp4",
            "subtitle_path": "@chef-7304267354.json",
            "duration_group": 15,
            "starting_timestamp_for_subtitles": 120.5,
            "duration": 12.0,
            **shared,
        },
    ]


def write_longvideobench(root: Path) -> None:
    rows = longvideobench_rows()
    write_json(root / "lvb_val.json", rows)
    secret = [{name: value for name, value in row.items() if name != "correct_choice"} for row in rows[:1]]
    write_json(root / "lvb_test_wo_gt.json", secret)
    spoken = [
        {"start": "00:00:01.000", "end": "00:00:03.500", "line": "[Music]"},
        {"start": "00:01:00.000", "end": "00:01:02.000", "line": "front of our crown"},
    ]
    write_json(root / "subtitles/86CxyhFV9MI_en.json", spoken)
    write_json(root / "subtitles/@chef-7304267354.json", [{"timestamp": [121.0, 124.0], "text": " Now the milk."}])


def write_mvbench(root: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {
        "action_sequence": [
            {
                "video": "ZS9XR.mp4",
                "question": "What happened after the person took the food?",
                "candidates": ["Ate the medicine.", "Tidied up the blanket.", "Put down the cup.", "Took the box."],
                "answer": "Ate the medicine.",
                "start": 11.1,
                "end": 19.6,
                "accurate_start": 11.1,
                "accurate_end": 19.6,
            }
        ],
        "object_shuffle": [
            {
                "video": "video_10017.mp4",
                "question": "Where is the hidden object at the end?",
                "candidates": ["Under the first object.", "Under the third object.", "Under the second object."],
                "answer": "Under the second object.",
            }
        ],
        "moving_count": [
            {
                "video": "video_10017.mp4",
                "question": "How many metal objects are moving?",
                "candidates": ["3", "0", "1", "2"],
                "answer": "1",
            }
        ],
        "fine_grained_action": [
            {
                "video": "yelling/getty-crowd-yelling_7.mp4",
                "question": "What is done here?",
                "candidates": ["yelling", "singing", "calling", "laughing"],
                "answer": "yelling",
            }
        ],
    }
    for task, of_task in rows.items():
        write_json(root / "json" / f"{task}.json", of_task)
    for place in (
        "star/Charades_v1_480/ZS9XR",
        "perception/videos/video_10017",
        "clevrer/video_validation/video_10017",
    ):
        touch(root / "video" / f"{place}.mp4")
    touch(root / "video/Moments_in_Time_Raw/videos/yelling/getty-crowd-yelling_7.mp4")


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"not opened here")


def write_tempcompass(root: Path) -> None:
    def asked(*pairs: tuple[str, str]) -> list[dict[str, str]]:
        return [{"question": question, "answer": answer} for question, answer in pairs]

    choice = asked(("What is the man doing in the video?\nA. dunking a ball\nB. dribbling a ball", "A. dunking a ball"))
    order = asked(("What is first?\nA. walking\nB. sitting\nC. both at once\nD. running", "D. running"))
    facts = "Information A: {'subject': 'man', 'action': 'dribbling'}\nInformation B: {'subject': 'man'}"
    forms = {
        "multi-choice": {"1034419625": {"action": choice, "attribute_change": order}},
        "yes_no": {"1034419625": {"action": asked(("Is the man dunking?", "yes"), ("Is he dribbling?", "no"))}},
        "caption_matching": {
            "1034419625": {
                "action": asked(
                    (
                        "Which description fits?\nOption 1: The man is dribbling.\nOption 2: A man is dunking.",
                        "Option 2: A man is dunking.",
                    ),
                    (
                        "Which sentence fits?\nSentence A: A man is dunking.\nSentence B: A man sits.",
                        "Sentence A: A man is dunking.",
                    ),
                )
            }
        },
        "captioning": {
            "1034419625": {"action": asked((f"Identify it.\n{facts}\nGenerated Caption:", "B. dunking a ball"))}
        },
    }
    for name, content in forms.items():
        write_json(root / "questions" / f"{name}.json", content)


def timescope_rows() -> list[dict[str, Any]]:
    instruction = (
        "Answer the question based on the given video. Only give me the answer and do not output any other words."
    )
    question = "What does the golden retriever do after getting out of the box?"
    options = "A: lies on the ground\nB: kisses the man\nC: eats the food\nD: follows the baby\nE: plays\nF: gets back"
    return [
        {
            "id": place,
            "video": f"videos/{length}_{place}.mp4",
            "length": length,
            "type": kind,
            "input": f"{instruction}\nQuestion: {question}\n{options}",
            "answer": "E",
        }
        for place, (length, kind) in enumerate(((10800, "OCR"), (60, "QA"), (300, "temporal")))
    ]


def write_timescope(root: Path) -> None:
    write_lines(root / "timescope.jsonl", timescope_rows())


def write_charades_sta(root: Path) -> None:
    lines = ["3MSZA 24.3 30.4##person turn a light on.", "AMT7R 4.3 12.5##a person is putting a picture on the wall."]
    write_lines(root / "Charades_anno/charades_sta_test.txt", [*lines, "3MSZA 31.0 29.5##person laughs."])


def write_activitynet_captions(root: Path) -> None:
    first = {
        "duration": 82.73,
        "timestamps": [[0.83, 19.86], [17.37, 60.81]],
        "sentences": ["A young woman is seen standing in a room.", " She dances around."],
    }
    second = {"duration": 55.15, "timestamps": [[0.28, 55.15]], "sentences": ["A weight lifting tutorial is given."]}
    write_json(root / "captions/val_2.json", {"v_bXdq2zI1Ms0": first, "v_-cAcA8dO7kA": second})
    write_json(root / "captions/val_1.json", {"v_bXdq2zI1Ms0": first})


def write_qvhighlights(root: Path) -> None:
    row = {
        "qid": 2579,
        "query": "A girl and her mother cooked while talking with each other on facetime.",
        "duration": 150,
        "vid": "NUsG9BgSes0_210.0_360.0",
        "relevant_clip_ids": [41, 42],
        "saliency_scores": [[1, 1, 2], [1, 1, 3]],
        "relevant_windows": [[82, 86], [100, 150]],
    }
    write_lines(root / "highlight_val_release.jsonl", [row])
    hidden = {name: row[name] for name in ("qid", "query", "duration", "vid")}
    write_lines(root / "highlight_test_release.jsonl", [hidden])
    write_lines(root / "highlight_test_with_gt.jsonl", [row | {"qid": 7}])


WRITERS: dict[str, Callable[[Path], None]] = {
    "lvbench": write_lvbench,
    "longvideobench": write_longvideobench,
    "mvbench": write_mvbench,
    **dict.fromkeys(("tempcompass-mc", "tempcompass-yes-no", "tempcompass-matching"), write_tempcompass),
    "tempcompass-captioning": write_tempcompass,
    "timescope": write_timescope,
    "charades-sta": write_charades_sta,
    "activitynet-captions": write_activitynet_captions,
    "qvhighlights": write_qvhighlights,
}
