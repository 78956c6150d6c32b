"""A chat model as judge: does the predicted answer mean the same as the reference?

    prompt -> asking (one request, retried) -> cache (what was replied, on disk) -> replies (read strictly) -> judging

The protocol is that of Video-ChatGPT's scorer and those made after it: the judge gets question, reference and
prediction, and replies {'pred': 'yes' or 'no', 'score': 0 to 5}. What differs: temperature is 0; a reply that is not
that is a failure, counted and never scored; scores keep their decimals; replies are kept, with the judge's id.
"""

from voco_video.scoring.judge.asking import AskOptions
from voco_video.scoring.judge.judging import Judgement, JudgeOptions, judge
from voco_video.scoring.judge.prompt import PROMPT, JudgePrompt
from voco_video.scoring.judge.replies import UnparsableReplyError, Verdict, parse_reply

__all__ = [
    "PROMPT",
    "AskOptions",
    "JudgeOptions",
    "JudgePrompt",
    "Judgement",
    "UnparsableReplyError",
    "Verdict",
    "judge",
    "parse_reply",
]
