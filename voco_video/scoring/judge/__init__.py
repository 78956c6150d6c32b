"""A chat model as judge: does the predicted answer mean the same as the reference?

    prompt -> asking (one request, retried) -> cache (replies on disk) -> replies (parsed strictly) -> judging

The protocol is that of Video-ChatGPT's scorer and its successors: the judge gets question, reference and prediction,
and replies {'pred': 'yes' or 'no', 'score': 0 to 5}. Four things differ: temperature is 0; any other reply is counted
as a failure and never scored; scores keep their decimals; replies are kept, together with the judge's id.
"""

from voco_video.scoring.judge.judging import Judgement, judge
from voco_video.scoring.judge.prompt import PROMPT, JudgePrompt
from voco_video.scoring.judge.replies import UnparsableReplyError, Verdict, parse_reply

__all__ = [
    "PROMPT",
    "JudgePrompt",
    "Judgement",
    "UnparsableReplyError",
    "Verdict",
    "judge",
    "parse_reply",
]
