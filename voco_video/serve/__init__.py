"""A server of OpenAI's protocol and of the library of videos: one model, one frame cache, many clients.

    request -> guard (host, key, size) -> route -> queue -> the thread that owns the model -> answer, streamed or whole

Needs the extra ``serve``. `voco_video.serve.app.create_app` makes the application, ``voco-video serve`` runs it.
"""
