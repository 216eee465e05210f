"""From a saved comment to a job in the queue."""

import logging

from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from . import queue
from .models import Comment, Outgoing

log = logging.getLogger(__name__)


@receiver(post_save, sender=Comment)
def saved(instance, created, **_):
    put("create" if created else "edit", instance)


@receiver(post_delete, sender=Comment)
def deleted(instance, **_):
    put("delete", instance)


def put(kind, comment):
    """Writes the job down in this transaction, and has it put when that is committed."""
    Outgoing.objects.create(
        job={
            "kind": kind,
            # Jobs of one comment stay in order.
            "key": f"post.{comment.pk}",
            "data": {
                "id": comment.pk,
                "forum": comment.forum,
                "thread": comment.thread,
                "user": comment.user,
                "text": comment.text,
                "created": comment.created.isoformat(),
            },
        }
    )
    transaction.on_commit(flush)


def flush():
    """
    Puts everything that is on its way, oldest first. What the queue does not take now goes with the next comment, or with
    `manage.py flush_comments`; a job that is put twice is known by its name.
    """
    rows = list(Outgoing.objects.all()[: queue.JOBS_MAX])
    if not rows:
        return
    try:
        queue.put([{"idempotency_key": str(row.name), **row.job} for row in rows])
    except queue.NotPut as why:
        log.warning("%d comments wait for the queue: %s", len(rows), why)
        return
    Outgoing.objects.filter(pk__in=[row.pk for row in rows]).delete()
