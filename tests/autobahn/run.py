"""Runs the Autobahn cases against a server's echo route and prints the verdicts as JSON: {"1.1.1": ["OK", "OK"], …}.

usage: run.py ws://127.0.0.1:PORT/echo [CASE …]

Each verdict is a pair: that of the exchange, and that of the closing handshake. Cases run in parallel only as far as the
machine has cores, as some measure time. Exits with 0 even if cases fail: what is right is known by expected.json.
"""

import asyncio
import json
import os
import sys

import kosoku


async def verdicts(url, cases):
    try:
        results = await kosoku.run_fuzzingclient(url, cases or None, concurrency=os.cpu_count() or 1)
    except kosoku.FailureError as failure:
        results = failure.results
    return {result.case_id: [result.behavior.value, result.behavior_close.value] for result in results}


if __name__ == "__main__":
    found = asyncio.run(verdicts(sys.argv[1], sys.argv[2:]))
    print(json.dumps(found, indent=0), flush=True)
    # Everything has been said. On a busy machine kosoku's threads may abort an interpreter that shuts down in the usual way.
    os._exit(0)
