"""LlamaIndex: OpenAIResponses."""

from importlib.metadata import version

import openai
import pydantic
from feature import (
    CUT,
    LOOK,
    MODEL,
    PERSON,
    PNG,
    REFUSED,
    THINK,
    URL,
    WEATHER,
    WEATHER_TWICE,
    drive,
    has,
    refused,
)
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAIResponses


class Person(pydantic.BaseModel):
    """A person."""

    name: str
    age: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"21 degrees in {city}"


TOOL = FunctionTool.from_defaults(get_weather)


def model(**options):
    return OpenAIResponses(model=MODEL, api_base=URL, api_key="none", max_retries=0, context_window=8000, **options)


def user(text):
    return ChatMessage(role="user", content=text)


def answered(llm, asked, made):
    """The cities a reply asked for, and the reply to their weather."""
    calls = llm.get_tool_calls_from_response(made)
    told = [
        ChatMessage(role="tool", content=get_weather(**call.tool_kwargs), additional_kwargs={"call_id": call.tool_id})
        for call in calls
    ]
    return [call.tool_kwargs["city"] for call in calls], llm.chat([user(asked), made.message, *told])


def text():
    has(model(instructions="Be brief.").chat([user("Say hello there")]).message.content, "hello there")


def streaming():
    pieces = list(model().stream_chat([user("Count to 5")]))
    has("".join(piece.delta or "" for piece in pieces), "1 2 3 4 5")


def tools():
    llm = model()
    cities, last = answered(llm, WEATHER, llm.chat_with_tools([TOOL], user_msg=WEATHER))
    assert cities == ["Paris"], cities
    has(last.message.content, "21 degrees in Paris")


def parallel_tools():
    llm = model()
    *_, made = llm.stream_chat_with_tools([TOOL], user_msg=WEATHER_TWICE, allow_parallel_tool_calls=True)
    cities, last = answered(llm, WEATHER_TWICE, made)
    assert cities == ["Paris", "Rome"], cities
    has(last.message.content, "21 degrees in Paris; 21 degrees in Rome")


def structured_output():
    made = model().as_structured_llm(Person).chat([user(PERSON)])
    assert made.raw == Person(name="Ada", age=36), made


def previous_response_id():
    llm = model(track_previous_responses=True)
    llm.chat([user("My name is Ada.")])
    has(llm.chat([user("What is my name?")]).message.content, "Ada")


def replayed_history():
    first = model().chat([user("Say seashell")])
    again = model().chat([user("Say seashell"), first.message, user("Repeat what you said")])
    has(again.message.content, "seashell")


def reasoning():
    made = model().chat([user(THINK)])
    has([block.content for block in made.message.blocks if block.block_type == "thinking"], "A hard one.")
    has(model().chat([user(THINK), made.message, user("Repeat what you said")]).message.content, "42")


def images():
    blocks = [ImageBlock(url=PNG), TextBlock(text=LOOK)]
    has(model().chat([ChatMessage(role="user", blocks=blocks)]).message.content, "data:image/png;base64")


async def errors():
    for status, prompt in REFUSED.items():
        await refused(lambda prompt=prompt: model().chat([user(prompt)]), status, openai.APIStatusError)
        await refused(lambda prompt=prompt: list(model().stream_chat([user(prompt)])), status, openai.APIStatusError)


def broken_stream():
    said = "".join(piece.delta or "" for piece in model().stream_chat([user(CUT)]))
    has(said, "These words came")
    return "But the client does not tell that the stream failed"


drive(
    "llama-index",
    version("llama-index-llms-openai"),
    {
        "text": text,
        "streaming": streaming,
        "tools": tools,
        "parallel tools": parallel_tools,
        "structured output": structured_output,
        "previous_response_id": previous_response_id,
        "replayed history": replayed_history,
        "reasoning": reasoning,
        "images": images,
        "errors": errors,
        "broken stream": broken_stream,
    },
)
