"""Connects the signals once Django has read the models."""

from django.apps import AppConfig


class Comments(AppConfig):
    name = "comments"

    def ready(self):
        from . import signals  # noqa: F401  (importing it connects the receivers)
