#!/usr/bin/env python3
"""Asks NOVAWF about one hook call: stdin to NOVA_URL, its answer to stdout. Needs nothing but Python 3.

Fails closed: on anything unexpected it exits with 2, which blocks where the event can be blocked, and says why on stderr.
"""

import http.client
import json
import os
import sys
import threading
from typing import NoReturn
from urllib.parse import urlsplit

PATH = "/api/v1/hooks/claude-code"
ANSWER_WITHIN = 3.0  # seconds for each step of the request
END_AFTER = 4.0  # seconds for everything; below the hook's timeout, since a hook that times out blocks nothing


def refuse(why: str) -> NoReturn:
    """Block the call."""
    sys.stderr.write(f"NOVAWF could not be asked, so this may not go on: {why}\n")
    sys.stderr.flush()
    os._exit(2)  # also from the watch's thread, and without waiting for anything


def ask(body: bytes, url: str, token: str) -> str:
    """Send the call and give the answer's text; it must be 200 and a JSON object."""
    parts = urlsplit(url)
    kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
    connection = kinds[parts.scheme](parts.hostname, parts.port, timeout=ANSWER_WITHIN)
    headers = {"Content-Type": "application/json", "Authorization": "Bearer " + token}
    connection.request("POST", parts.path.rstrip("/") + PATH, body, headers)
    answer = connection.getresponse()
    text: str = answer.read().decode()
    if answer.status != 200:
        raise ValueError(f"it answered {answer.status}")
    if not isinstance(json.loads(text), dict):
        raise ValueError("its answer is no JSON object")
    return text


def main() -> None:
    watch = threading.Timer(END_AFTER, refuse, ["it did not answer in time"])
    watch.daemon = True
    watch.start()
    try:
        url, token = os.environ["NOVA_URL"], os.environ["NOVA_TOKEN"]
        text = ask(sys.stdin.buffer.read(), url, token)
        sys.stdout.write(text)
        sys.stdout.flush()
    except KeyError as missing:
        refuse(f"{missing} is not set or not understood")
    except BaseException as error:
        refuse(f"{type(error).__name__}: {error}")
    os._exit(0)


if __name__ == "__main__":
    main()
