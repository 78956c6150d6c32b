"""What a checkpoint has for the library's own processor, kept as it came, to be there where a model is saved."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from voco_video.files.settings import has_file, read_bytes

PROCESSOR_SETTINGS = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
CHAT_TEMPLATE_TEXT, CHAT_TEMPLATE_JSON = "chat_template.jinja", "chat_template.json"


@dataclass(frozen=True)
class ProcessorFiles:
    """The settings of a checkpoint's processors and its chat template.

    Attributes:
        content: of the files, by their names.
        chat_template: that the tokenizer had with them.
    """

    content: dict[str, bytes] = field(default_factory=dict)
    chat_template: Any = None

    @staticmethod
    def read(folder: Path, chat_template: Any) -> ProcessorFiles:
        """Read those that a folder has.

        Raises:
            ModelError: one of them cannot be read.
        """
        names = [*PROCESSOR_SETTINGS, CHAT_TEMPLATE_TEXT, CHAT_TEMPLATE_JSON]
        return ProcessorFiles({n: read_bytes(folder / n) for n in names if has_file(folder, n)}, chat_template)

    def write(self, folder: Path, tokenizer: Any) -> None:
        """Write them beside a model, and its tokenizer; a chat template that was changed since goes with the latter.

        Args:
            tokenizer: None for a model without one.
        """
        is_same = tokenizer is None or tokenizer.chat_template == self.chat_template
        templates = (CHAT_TEMPLATE_TEXT, CHAT_TEMPLATE_JSON)
        if tokenizer is not None:
            # Processors take a template in text before one in JSON, and the two may differ.
            in_text = not (is_same and CHAT_TEMPLATE_JSON in self.content and CHAT_TEMPLATE_TEXT not in self.content)
            tokenizer.save_pretrained(folder, save_jinja_files=in_text)
        for name, data in self.content.items():
            if is_same or name not in templates:
                (folder / name).write_bytes(data)
