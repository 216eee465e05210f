"""`manage.py flush_comments`: puts what is still on its way, after the queue was away."""

from django.core.management.base import BaseCommand, CommandError

from comments.models import Outgoing
from comments.signals import flush


class Command(BaseCommand):
    help = __doc__

    def handle(self, **_):
        while waiting := Outgoing.objects.count():
            flush()
            if Outgoing.objects.count() == waiting:
                raise CommandError(f"{waiting} comments still wait")
