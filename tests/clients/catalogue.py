"""The clients that are driven: where each comes from, at which version, and what is known not to work."""

from __future__ import annotations

from dataclasses import dataclass

BEFORE = "2026-11-21"
"""Nothing newer is installed beside the versions named here, so that a run next year installs the same packages."""


@dataclass(frozen=True)
class Client:
    """``driver``: the script that drives it. ``packages``: from PyPI for a ``.py``, else or with ``npm`` from npm."""

    name: str
    driver: str
    packages: tuple[str, ...]
    npm: bool = False


CLIENTS = (
    Client("openai-python", "use_openai.py", ("openai[realtime]==3.51.0",)),
    Client("openai-node", "use_openai.mjs", ("openai@7.55.0", "ws@8.23.0", "zod@4.6.7"), npm=True),
    Client("codex", "use_codex.py", ("@openai/codex@0.169.0",), npm=True),
    Client("openai-agents-python", "use_agents.py", ("openai-agents==0.24.0",)),
    Client("openai-agents-node", "use_agents.mjs", ("@openai/agents@0.20.0", "openai@7.55.0", "zod@4.6.7"), npm=True),
    Client("langchain-openai", "use_langchain.py", ("langchain-openai==1.7.3",)),
    Client("pydantic-ai", "use_pydantic_ai.py", ("pydantic-ai-slim[openai]==2.68.0",)),
    Client("ai-sdk-6", "use_ai_sdk.mjs", ("ai@6.0.326", "@ai-sdk/openai@3.0.141", "zod@4.6.7"), npm=True),
    Client("ai-sdk-7", "use_ai_sdk.mjs", ("ai@7.0.173", "@ai-sdk/openai@4.0.118", "zod@4.6.7"), npm=True),
    Client("llama-index", "use_llama_index.py", ("llama-index-llms-openai==0.8.3",)),
    Client("agent-framework", "use_agent_framework.py", ("agent-framework-openai==1.17.0",)),
    Client("semantic-kernel", "use_semantic_kernel.py", ("semantic-kernel==1.45.0",)),
    Client("llama-stack-client", "use_llama_stack.py", ("llama-stack-client==0.2.12", "fire==0.7.1", "requests>=2.32")),
    Client("llm", "use_llm.py", ("llm==0.36",)),
)

LIMITS = {
    "tool_search": (
        "unsupported call: mcp__wx__get_weather",
        "for model names that it knows, Codex hides the tools of MCP servers behind tool_search, which is left out; "
        "under any other name it declares them",
    ),
}
"""By feature: what the failure must say, and the reason in our words. One that works all the same is told as a failure
too, so that this list stays true."""


def verdict(line: dict[str, object]) -> str:
    """What one result means: ``ok``, a limit's reason, or ``failed: …``."""
    told, reason = LIMITS.get(str(line["feature"]), ("", ""))
    if line["ok"]:
        return "failed: it works now and is still listed as a limit" if told else "ok"
    return reason if told and told in str(line["note"]) else f"failed: {line['note']}"
