"""Semantic Kernel: OpenAIResponsesAgent."""

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
    URL,
    WEATHER,
    WEATHER_TWICE,
    drive,
    has,
    refused,
)
from semantic_kernel.agents import OpenAIResponsesAgent
from semantic_kernel.contents import ChatMessageContent, ImageContent, TextContent
from semantic_kernel.exceptions import KernelException
from semantic_kernel.functions import kernel_function


class Person(pydantic.BaseModel):
    name: str
    age: int


asked = []
client = openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0)


class Weather:
    @kernel_function(name="get_weather", description="The weather in a city.")
    def get_weather(self, city: str) -> str:
        asked.append(city)
        return f"21 degrees in {city}"


def agent(**options):
    return OpenAIResponsesAgent(ai_model_id=MODEL, client=client, name="Assistant", **options)


async def streamed(text, **options):
    said = ""
    async for piece in agent(**options).invoke_stream(text):
        said += str(piece.message)
    return said


async def text():
    has(await agent(instructions="Be brief.").get_response("Say hello there"), "hello there")


async def streaming():
    has(await streamed("Count to 5"), "1 2 3 4 5")


async def tools():
    has(await agent(plugins=[Weather()]).get_response(WEATHER), "21 degrees in Paris")
    has(await streamed(WEATHER, plugins=[Weather()]), "21 degrees in Paris")


async def parallel_tools():
    asked.clear()
    has(await agent(plugins=[Weather()]).get_response(WEATHER_TWICE), "21 degrees in Paris; 21 degrees in Rome")
    assert sorted(asked) == ["Paris", "Rome"], asked


async def structured_output():
    made = await agent(text=OpenAIResponsesAgent.configure_response_format(Person)).get_response(PERSON)
    assert Person.model_validate_json(str(made)) == Person(name="Ada", age=36), made


async def previous_response_id():
    one = agent(plugins=[Weather()])
    made = await one.get_response("My name is Ada.")
    made = await one.get_response(WEATHER, thread=made.thread)
    has(made, "21 degrees in Paris")
    has(await one.get_response("What is my name?", thread=made.thread), "Ada")


async def images():
    parts = [TextContent(text=LOOK), ImageContent(uri=PNG)]
    has(await agent().get_response(ChatMessageContent(role="user", items=parts)), "data:image/png;base64")


async def errors():
    for status, prompt in REFUSED.items():
        await refused(lambda prompt=prompt: agent().get_response(prompt), status, KernelException)
        await refused(lambda prompt=prompt: streamed(prompt), status, KernelException)


async def broken_stream():
    has(await streamed(CUT), "These words came")
    return "But the client does not tell that the stream failed"


drive(
    "semantic-kernel",
    version("semantic-kernel"),
    {
        "text": text,
        "streaming": streaming,
        "tools": tools,
        "parallel tools": parallel_tools,
        "structured output": structured_output,
        "previous_response_id": previous_response_id,
        "images": images,
        "errors": errors,
        "broken stream": broken_stream,
    },
)
