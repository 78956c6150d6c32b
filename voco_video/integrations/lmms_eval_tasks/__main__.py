"""Print the folder of the task files, for lmms-eval's ``--include_path``."""

from voco_video.integrations.lmms_eval_tasks import FOLDER

print(FOLDER)  # noqa: T201
