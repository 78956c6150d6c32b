"""A video file, or a source that is still being made, as frames with their times."""
