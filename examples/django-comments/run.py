#!/usr/bin/env python3
"""
Starts the whole example: Fanfare with its queue and pipeline, and the Django site whose comments go through it.

    python3 examples/django-comments/run.py

Makes a virtual environment in `data/` and builds Fanfare where they are not there yet. Ctrl-C ends everything. FANFARE
names a binary to use instead, DJANGO_COMMENTS_DATA another folder for what is kept. A port of 0 is any that is free.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("DJANGO_COMMENTS_DATA", HERE / "data"))


def main():
    ports = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ports.add_argument("--site", type=int, default=8000, help="the site's port (%(default)s)")
    ports.add_argument("--fanfare", type=int, default=6001, help="Fanfare's port (%(default)s)")
    ports.add_argument("--admin", type=int, default=9601, help="the port of its admin listener (%(default)s)")
    ports = ports.parse_args()
    DATA.mkdir(parents=True, exist_ok=True)
    python, binary = with_django(), built()
    manage = [python, str(HERE / "manage.py")]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    processes = []
    try:
        fanfare, url = with_queue(binary, ports)
        processes.append(fanfare)
        environment = {**os.environ, "FANFARE_URL": url, "DJANGO_COMMENTS_DATA": str(DATA)}
        subprocess.run([*manage, "migrate", "--verbosity", "0"], env=environment, check=True)
        # What was saved while Fanfare was away.
        subprocess.run([*manage, "flush_comments"], env=environment, check=True)
        site = f"127.0.0.1:{ports.site or free_port()}"
        processes.append(subprocess.Popen([*manage, "runserver", "--noreload", site], env=environment))
        await_answer(f"http://{site}/", processes)
        print(f"\ncomments: http://{site}/  (open it in two tabs)\n", flush=True)
        while all(process.poll() is None for process in processes):
            time.sleep(0.2)
        sys.exit("one of the two has ended")
    except KeyboardInterrupt:
        pass
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait()


def with_django():
    """A Python that has the Django of requirements.txt: this one, or that of a virtual environment made for it."""
    requirements = HERE / "requirements.txt"
    pinned = next(line.split("==")[1] for line in requirements.read_text().split() if line.startswith("Django=="))
    try:
        import django

        if django.get_version() == pinned:
            return sys.executable
    except ImportError:
        pass
    python = DATA / "venv" / "bin" / "python"
    if not python.exists():
        venv.create(DATA / "venv", with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", requirements], check=True)
    return str(python)


def built():
    """The binary."""
    if given := os.environ.get("FANFARE"):
        return given
    root = HERE.parent.parent
    subprocess.run(["cargo", "build", "--release", "--locked"], cwd=root, check=True)
    return str(Path(os.environ.get("CARGO_TARGET_DIR", root / "target")) / "release" / "fanfare")


def with_queue(binary, ports):
    """Fanfare, running, and where it listens."""
    command = [binary, "serve", "--config", HERE / "fanfare.toml", "--data-dir", DATA / "fanfare"]
    command += ["--listen", f"127.0.0.1:{ports.fanfare}", "--admin-listen", f"127.0.0.1:{ports.admin}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        print(line, end="", flush=True)
        if line.startswith("listening http="):
            return process, "http://" + line.strip().removeprefix("listening http=")
    sys.exit(process.wait() or "fanfare has ended")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def await_answer(url, processes):
    """Returns when `url` answers; ends everything if a process ends before."""
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            if any(process.poll() is not None for process in processes):
                sys.exit(f"{url} does not answer")
            time.sleep(0.1)


if __name__ == "__main__":
    main()
