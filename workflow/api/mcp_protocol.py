"""What MCP's messages say: tools listed, called and answered. The only room that knows the package `mcp`, which is large.

Which requests get here, and what a tool does, is not known here.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import mcp_types as types
import orjson
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

from workflow.api.mcp_tools import BY_NAME, TOOLS, Tool

# Puts a tool's request to the API, with the scope of the MCP request; gives status and content of the answer.
Ask = Callable[[Mapping[str, Any], Tool, Mapping[str, Any]], Awaitable[tuple[int, Any]]]


def manager(instructions: str, body_limit: int, ask: Ask) -> StreamableHTTPSessionManager:
    """Give what serves requests of MCP, in JSON and without sessions."""

    async def call_tool(context: ServerRequestContext[Any], params: types.CallToolRequestParams) -> types.CallToolResult:
        """Make the request that a tool stands for; what it refuses becomes a sentence that the model can read."""
        tool = BY_NAME.get(params.name)
        if tool is None:
            return _failed(f"There is no tool {params.name}. There are: {', '.join(BY_NAME)}.")
        arguments = dict(params.arguments or {})
        if missing := [name for name in tool.needs if name not in arguments]:
            return _failed(f"Missing: {', '.join(missing)}. Nothing was done.")
        if unknown := sorted(set(arguments) - set(tool.takes)):
            return _failed(
                f"Unknown: {', '.join(unknown)}; {tool.name} takes {', '.join(tool.takes) or 'nothing'}. Nothing was done."
            )
        scope = context.request.scope  # type: ignore[union-attr]
        status, content = await ask(scope, tool, arguments)
        return _told(tool, status, content)

    server: Server[Any] = Server(
        "novawf",
        version="1",
        title="NOVAWF",
        instructions=instructions,
        cache_hints={"tools/list": CacheHint(ttl_ms=300_000, scope="private")},
        on_list_tools=_list_tools,
        on_call_tool=call_tool,
    )
    return StreamableHTTPSessionManager(server, json_response=True, stateless=True, max_request_body_size=body_limit)


async def _list_tools(context: ServerRequestContext[Any], params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    return types.ListToolsResult(tools=[_shown(tool) for tool in TOOLS])


def _shown(tool: Tool) -> types.Tool:
    return types.Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.input_schema,
        output_schema=dict(tool.gives),
        annotations=types.ToolAnnotations(
            title=tool.title,
            read_only_hint=tool.reads,
            destructive_hint=tool.ends,
            idempotent_hint=tool.repeatable,
            open_world_hint=False,
        ),
    )


def _told(tool: Tool, status: int, content: Any) -> types.CallToolResult:
    """Tell the API's answer as a tool's result."""
    if 200 <= status < 300:
        found = {"tasks": []} if content is None and tool.name == "claim_task" else content
        text = types.TextContent(type="text", text=orjson.dumps(found).decode())
        return types.CallToolResult(content=[text], structured_content=found)
    problem = content if isinstance(content, dict) else {}
    words = [str(problem.get("detail") or f"The request was refused ({status}).")]
    words += [f"{error['pointer'] or 'Request'}: {error['detail']}" for error in problem.get("errors", [])]
    words += [f"{name}: {problem[name]}." for name in ("mechanism", "until", "retry_after", "approval_id") if problem.get(name)]
    return _failed(f"{' '.join(words)} ({problem.get('code', status)})")


def _failed(words: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=words)], is_error=True)
