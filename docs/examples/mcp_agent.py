"""An agent of NOVAWF over MCP, with the official client (`pip install mcp`): claim, work, report, complete.

NOVA_URL=http://127.0.0.1:8000 NOVA_TOKEN=nova_... python mcp_agent.py [how many tasks, then end]
"""

import asyncio
import os
import sys

import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

URL, KEY = os.environ["NOVA_URL"].rstrip("/"), os.environ["NOVA_TOKEN"]


def work(task):
    """Put your own work here. What it gives is kept as the task's result."""
    return f"I have read {len(task['description'].split())} words about: {task['title']}"


async def main(left):
    headers = {"Authorization": f"Bearer {KEY}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as line,
        Client(streamable_http_client(f"{URL}/mcp", http_client=line)) as nova,
    ):
        while left:
            answer = await nova.call_tool("claim_task", {"wait": 20})
            if answer.is_error:  # this Nova may not act now, or asked too often: the text says why
                print(answer.content[0].text, file=sys.stderr)
                await asyncio.sleep(5)
                continue
            for task in answer.structured_content["tasks"]:  # the fence shows that the task is still ours: with every report
                mine = {"task_id": task["task_id"], "fence": task["fence"]}
                await nova.call_tool("update_progress", {**mine, "update": "begun", "progress_percentage": 10})
                ended = await nova.call_tool("complete_task", {**mine, "results": work(task), "evidence": ["words counted"]})
                print(task["task_id"], ended.content[0].text)
                left -= 1


asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else -1))
