"""Puts jobs into a queue of Fanfare's: one signed POST, with nothing but the standard library."""

import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request

from django.conf import settings

# Jobs in one request. JSON may make twelve bytes of a character, and a server takes a megabyte unless it is told otherwise.
JOBS_MAX = 20
TIMEOUT_S = 5


class NotPut(Exception):
    """The queue did not acknowledge the jobs. They may be put again."""


def put(jobs):
    """Returns the numbers of the jobs once they are on disk, or raises `NotPut`."""
    fanfare = settings.FANFARE
    path = f"/apps/{fanfare['app_id']}/queues/{fanfare['queue']}/jobs"
    body = json.dumps({"jobs": jobs}).encode()
    request = urllib.request.Request(
        f"{fanfare['url']}{path}?{signed('POST', path, body)}",
        data=body,
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)["ids"]
    except urllib.error.HTTPError as refused:
        raise NotPut(f"{refused.code} {refused.read().decode(errors='replace')}") from refused
    except OSError as away:
        raise NotPut(str(away)) from away


def signed(method, path, body):
    """The query of a signed request, as Pusher's HTTP API has it: sorted, and signed with the app's secret."""
    query = "&".join(
        [
            f"auth_key={settings.FANFARE['key']}",
            f"auth_timestamp={int(time.time())}",
            "auth_version=1.0",
            f"body_md5={hashlib.md5(body).hexdigest()}",
        ]
    )
    text = f"{method}\n{path}\n{query}"
    signature = hmac.new(settings.FANFARE["secret"].encode(), text.encode(), hashlib.sha256)
    return f"{query}&auth_signature={signature.hexdigest()}"
