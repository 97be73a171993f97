"""pydantic-ai: OpenAIResponsesModel."""

from importlib.metadata import version

import openai
import pydantic
from feature import (
    CUT,
    LOOK,
    MCP,
    MODEL,
    PERSON,
    PNG,
    REFUSED,
    SEARCH_NOTES,
    SEARCH_WEB,
    THINK,
    URL,
    WEATHER,
    WEATHER_TWICE,
    drive,
    has,
    refused,
)
from pydantic_ai import Agent, BinaryContent, ModelHTTPError, NativeOutput, ThinkingPart
from pydantic_ai.capabilities import NativeTool
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.native_tools import MCPServerTool, WebSearchTool
from pydantic_ai.providers.openai import OpenAIProvider


class Person(pydantic.BaseModel):
    name: str
    age: int


asked = []
client = openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0)


def get_weather(city: str) -> str:
    """The weather in a city."""
    asked.append(city)
    return f"21 degrees in {city}"


def agent(**options):
    return Agent(OpenAIResponsesModel(MODEL, provider=OpenAIProvider(openai_client=client)), **options)


async def text():
    has((await agent(instructions="Be brief.").run("Say hello there")).output, "hello there")


async def streaming():
    async with agent().run_stream("Count to 5") as result:
        said = "".join([piece async for piece in result.stream_text(delta=True)])
    has(said, "1 2 3 4 5")


async def tools():
    has((await agent(tools=[get_weather]).run(WEATHER)).output, "21 degrees in Paris")
    async with agent(tools=[get_weather]).run_stream(WEATHER) as result:
        has(await result.get_output(), "21 degrees in Paris")


async def parallel_tools():
    asked.clear()
    has((await agent(tools=[get_weather]).run(WEATHER_TWICE)).output, "21 degrees in Paris; 21 degrees in Rome")
    assert sorted(asked) == ["Paris", "Rome"], asked


async def structured_output():
    for kind in (Person, NativeOutput(Person)):
        made = (await agent(output_type=kind).run(PERSON)).output
        assert made == Person(name="Ada", age=36), made


async def previous_response_id():
    settings = OpenAIResponsesModelSettings(openai_previous_response_id="auto")
    first = await agent().run("My name is Ada.")
    again = await agent().run("What is my name?", message_history=first.all_messages(), model_settings=settings)
    has(again.output, "Ada")
    has((await agent(tools=[get_weather]).run(WEATHER, model_settings=settings)).output, "21 degrees in Paris")


async def replayed_history():
    first = await agent(tools=[get_weather]).run(WEATHER)
    again = await agent().run("Repeat what you said", message_history=first.all_messages())
    has(again.output, "21 degrees in Paris")


async def mcp():
    notes = [NativeTool(MCPServerTool(id="notes", url=MCP))]
    first = await agent(capabilities=notes).run(SEARCH_NOTES)
    has(first.output, "eleven minutes")
    async with agent(capabilities=notes).run_stream(SEARCH_NOTES) as result:
        has(await result.get_output(), "eleven minutes")
    for with_ids in (False, True):  # with them the items of tools go along, without what they hold
        settings = OpenAIResponsesModelSettings(openai_send_reasoning_ids=with_ids)
        history = {"message_history": first.all_messages(), "model_settings": settings}
        again = await agent(capabilities=notes).run(SEARCH_NOTES, **history)
        has(again.output, "The tool answered", "eleven minutes")


async def web_search():
    async with agent(capabilities=[NativeTool(WebSearchTool())]).run_stream(SEARCH_WEB) as result:
        has(await result.get_output(), "ovens get hot")
        has(result.all_messages(), "web_search")


async def reasoning():
    settings = OpenAIResponsesModelSettings(openai_reasoning_summary="auto")
    first = await agent().run(THINK, model_settings=settings)
    thoughts = [part.content for part in first.new_messages()[-1].parts if isinstance(part, ThinkingPart)]
    has(thoughts, "A hard one.")
    has((await agent().run("Repeat what you said", message_history=first.all_messages())).output, "42")


async def images():
    image = BinaryContent.from_data_uri(PNG)
    has((await agent().run([image, LOOK])).output, "data:image/png;base64")


async def errors():
    for status, prompt in REFUSED.items():
        await refused(lambda prompt=prompt: agent().run(prompt), status, ModelHTTPError)


async def broken_stream():
    try:
        async with agent().run_stream(CUT) as result:
            said = [piece async for piece in result.stream_text(delta=True)]
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
    raise AssertionError(f"nobody noticed: {said!r}")


drive(
    "pydantic-ai",
    version("pydantic-ai-slim"),
    {
        "text": text,
        "streaming": streaming,
        "tools": tools,
        "parallel tools": parallel_tools,
        "structured output": structured_output,
        "previous_response_id": previous_response_id,
        "replayed history": replayed_history,
        "mcp": mcp,
        "web search": web_search,
        "reasoning": reasoning,
        "images": images,
        "errors": errors,
        "broken stream": broken_stream,
    },
)
