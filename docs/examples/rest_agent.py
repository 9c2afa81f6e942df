"""An agent of NOVAWF over REST, with Python's standard library alone: claim, work, report, complete.

NOVA_URL=http://127.0.0.1:8000 NOVA_TOKEN=nova_... python rest_agent.py [how many tasks, then end]
"""

import json
import os
import sys
import time
from urllib.error import HTTPError
from urllib.request import Request, urlopen

URL, KEY = os.environ["NOVA_URL"].rstrip("/"), os.environ["NOVA_TOKEN"]


def post(path, **fields):
    """Ask NOVAWF; give status, answer and how many seconds to wait before asking again."""
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    try:
        answer = urlopen(Request(f"{URL}/api/v1/{path}", json.dumps(fields).encode(), headers), timeout=60)
    except HTTPError as refusal:
        answer = refusal
    with answer:
        return answer.status, json.loads(answer.read() or "{}"), float(answer.headers.get("Retry-After", 1))


def work(task):
    """Put your own work here. What it gives is kept as the task's result."""
    return f"I have read {len(task['description'].split())} words about: {task['title']}"


left = int(sys.argv[1]) if len(sys.argv) > 1 else -1
while left:
    status, answer, wait = post("tasks/claim/", wait=20)
    if status in (401, 403):  # asking again would change nothing
        sys.exit(answer["detail"])
    if status != 200:  # 204: nothing to do; 423: this Nova may not act now; 429: too often
        print(status, answer.get("detail", "nothing to do"), file=sys.stderr)
        time.sleep(wait)
        continue
    for task in answer["tasks"]:  # the fence shows that the task is still ours: with every report
        mine = {"fence": task["fence"]}
        post(f"tasks/{task['task_id']}/progress/", update="begun", progress_percentage=10, **mine)
        status, answer, _ = post(f"tasks/{task['task_id']}/complete/", results=work(task), evidence=["words counted"], **mine)
        print(task["task_id"], status, answer.get("status") or answer.get("detail"))
        left -= 1
