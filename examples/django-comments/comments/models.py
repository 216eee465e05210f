"""Comments, and what of them has still to be put into the queue."""

import uuid

from django.db import models


class Comment(models.Model):
    """One comment. `forum` and `thread` are what readers subscribe to."""

    forum = models.SlugField(default="books")
    thread = models.SlugField(default="dune")
    user = models.SlugField(max_length=40)
    text = models.TextField(max_length=2000)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]


class Outgoing(models.Model):
    """
    A job that is on its way. The row is written in the transaction that changes the comment, so that the one cannot be
    there without the other, and goes when the queue has acknowledged the job.
    """

    name = models.UUIDField(default=uuid.uuid4, unique=True)
    job = models.JSONField()

    class Meta:
        ordering = ["id"]
