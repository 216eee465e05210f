#!/usr/bin/env python3
"""A worker in Python: claims the jobs of a queue over HTTP, and publishes what it makes of them.

    python3 examples/worker.py comments

It needs nothing but Python, and runs anywhere that reaches the server; any number of them share a queue's jobs. What it does
is in `work`; all else is what a worker in any language has to do:

- it waits for jobs in the request itself (`wait_ms`), so it neither polls nor sleeps;
- it extends the leases of what it works on, so a job may take longer than its lease;
- a job that fails is given back and tried again later; one that can never succeed is stalled, for a person to look at;
- it publishes under the job's own idempotency key, so a repeat soon after a crash (`idempotency_s` of the app) is seen by
  nobody;
- on SIGTERM it ends what it has begun, and leaves.
"""

import hashlib
import hmac
import html
import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from urllib.parse import urlencode, urlsplit

URL = urlsplit(os.environ.get("FANFARE_URL", "http://127.0.0.1:6001"))
APP_ID = os.environ.get("FANFARE_APP_ID", "1")
KEY = os.environ.get("FANFARE_KEY", "fanfare-key")
SECRET = os.environ.get("FANFARE_SECRET", "fanfare-secret")

LEASE_S = 30
WAIT_S = 5
RETRY_S_MAX = 300


class Poison(Exception):
    """No other attempt would end better."""


def work(job):
    """A comment, cleaned once for all of its readers."""
    try:
        comment = json.loads(job["data"])
        channel, text = f"thread.{comment['thread']}", html.escape(comment["text"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Poison(f"no comment: {error!r}") from error
    post("/events", {
        "name": job["kind"],
        "channels": [channel],
        "data": json.dumps({**comment, "text": text}),
        "idempotency_key": job.get("idempotency_key", f"{QUEUE}:{job['id']}"),
    })
    return {"channel": channel}


# The server's side.

class Refused(Exception):
    def __init__(self, status, answer):
        super().__init__(f"{status}: {answer}")
        self.status = status


def post(path, body):
    """One request, signed as all of the API's are."""
    path, body = f"/apps/{APP_ID}{path}", json.dumps(body).encode()
    query = urlencode({
        "auth_key": KEY,
        "auth_timestamp": int(time.time()),
        "auth_version": "1.0",
        "body_md5": hashlib.md5(body).hexdigest(),
    })
    signature = hmac.new(SECRET.encode(), f"POST\n{path}\n{query}".encode(), hashlib.sha256).hexdigest()
    connect = http.client.HTTPSConnection if URL.scheme == "https" else http.client.HTTPConnection
    connection = connect(URL.netloc, timeout=WAIT_S + 30)
    try:
        target = f"{URL.path.rstrip('/')}{path}?{query}&auth_signature={signature}"
        connection.request("POST", target, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status >= 300:
        raise Refused(response.status, answer.decode(errors="replace").strip())
    return json.loads(answer)


def about(job, verb, **more):
    return post(f"/queues/{QUEUE}/jobs/{job['id']}/{verb}", {"lease": job["lease"], **more})


# The worker's side.

def keep(job, done):
    """Holds on to a job until it is done, or somebody else's."""
    while not done.wait(LEASE_S / 3):
        try:
            about(job, "extend", lease_ms=LEASE_S * 1000)
        except Refused as refused:
            if refused.status == 409:
                return
        except (OSError, http.client.HTTPException):
            continue


def do(job):
    done = threading.Event()
    threading.Thread(target=keep, args=(job, done), daemon=True).start()
    try:
        result = work(job)
        about(job, "finish", result=result)
    except Poison as poison:
        about(job, "stall", reason=str(poison))
    except Refused as refused:
        # 409: the lease has ended, so the job is somebody else's.
        if refused.status != 409:
            give_back(job, refused)
    except Exception as error:
        # Whatever it is: this job is tried again later, and the next one now.
        give_back(job, error)
    finally:
        done.set()


def give_back(job, error):
    delay_s = min(2 ** job["attempt"], RETRY_S_MAX)
    about(job, "cancel", reason=repr(error)[:1000], delay_ms=delay_s * 1000)


def main():
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    me = f"{socket.gethostname()}:{os.getpid()}"
    print(f"working on {QUEUE}", flush=True)
    while not stopping.is_set():
        try:
            ask = {"jobs": 1, "wait_ms": WAIT_S * 1000, "lease_ms": LEASE_S * 1000, "worker": me}
            for job in post(f"/queues/{QUEUE}/claim", ask)["jobs"]:
                do(job)
        except (OSError, http.client.HTTPException) as error:
            print(f"the server is away: {error}", file=sys.stderr)
            stopping.wait(1)
        except Refused as refused:
            # 409: a job that ours no longer is. 503: the queue cannot be written just now.
            if refused.status not in (409, 503):
                sys.exit(f"refused: {refused}")
            stopping.wait(1)


if __name__ == "__main__":
    QUEUE = sys.argv[1] if len(sys.argv) > 1 else "comments"
    main()
