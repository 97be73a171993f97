"""What a tool's result says to a model, as text; its images as URLs."""

from __future__ import annotations

from mcp_types import (
    AudioContent,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
)

from proxy import codec


def text_of(result: CallToolResult) -> str:
    """The text of a result: its blocks, one after the other; its JSON where it has no blocks.

    An mcp_call's output is text: of what is none, its kind and size are said.
    """
    if not result.content and result.structured_content is not None:
        return codec.dumps(result.structured_content).decode()
    return "\n".join(map(_block, result.content))


def images_of(result: CallToolResult) -> tuple[str, ...]:
    """The images of a result as data URLs."""
    return tuple(
        f"data:{block.mime_type};base64,{block.data}" for block in result.content if isinstance(block, ImageContent)
    )


def _block(block: ContentBlock) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            return f"[{block.type}, {block.mime_type}: {len(block.data) * 3 // 4} bytes, not shown]"
        case EmbeddedResource(resource=TextResourceContents() as resource):
            return resource.text
        case EmbeddedResource(resource=resource):
            return f"[resource {resource.uri}: not text, not shown]"
        case ResourceLink():
            return f"[link to {block.name}: {block.uri}]"
