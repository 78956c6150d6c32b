"""What users can set: every option once, as a field with its name, type, default, help and check.

    fields         what an option is, and the checks and tables that follow from it
    sampling       which frames are taken: `Sampling`
    compression    how frames are compressed: `CompressOptions`, `StreamOptions`
    answering      how questions are answered: `ViewOptions`, `AnswerOptions`
    loading        where weights go: `LoadOptions`
    judging        which chat model judges answers: `Judging`

Those of an evaluation are in `voco_video.evaluate.options`, those of a training run in `voco_video.training.config`.
Nothing here imports torch or NumPy, so that the command line's help needs neither.
"""
