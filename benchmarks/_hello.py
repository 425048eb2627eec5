"""The floor of `benchmarks.load`: what Flask and gunicorn cost when the application does nothing."""

from __future__ import annotations

from flask import Flask

app = Flask("hello", static_folder=None)


@app.get("/")
def hello() -> str:
    """The shortest answer."""
    return "hello"
