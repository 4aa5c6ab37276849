"""A memory behind HTTP: one trainer writes it while any number of web workers answer from it.

``app`` is the server, and all that an application needs to copy. The other modules run it beside
a trainer, ask it questions, and check every answer: ``python -m examples.serving.run``.
"""
