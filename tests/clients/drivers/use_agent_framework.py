"""Microsoft's agent-framework: OpenAIChatClient, which is the Responses API."""

from importlib.metadata import version

import openai
import pydantic
from agent_framework import Agent, Content, Message
from agent_framework.exceptions import AgentFrameworkException
from agent_framework.openai import OpenAIChatClient
from feature import (
    ADD_NOTE,
    CUT,
    FOUND_URL,
    LOOK,
    MCP,
    MODEL,
    PERSON,
    PNG,
    REFUSED,
    SEARCH_NOTES,
    SEARCH_WEB,
    SLOW,
    THINK,
    URL,
    WEATHER,
    WEATHER_TWICE,
    drive,
    has,
    refused,
)


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
    return Agent(OpenAIChatClient(MODEL, async_client=client), **options)


async def streamed(text, **options):
    stream = agent(**options).run(text, stream=True)
    said = "".join([update.text async for update in stream])
    return said, await stream.get_final_response()


async def text():
    has((await agent(instructions="Be brief.").run("Say hello there")).text, "hello there")


async def streaming():
    said, _ = await streamed("Count to 5")
    has(said, "1 2 3 4 5")


async def tools():
    has((await agent(tools=[get_weather]).run(WEATHER)).text, "21 degrees in Paris")
    said, _ = await streamed(WEATHER, tools=[get_weather])
    has(said, "21 degrees in Paris")


async def parallel_tools():
    asked.clear()
    has((await agent(tools=[get_weather]).run(WEATHER_TWICE)).text, "21 degrees in Paris; 21 degrees in Rome")
    assert sorted(asked) == ["Paris", "Rome"], asked


async def structured_output():
    made = await agent(default_options={"response_format": Person}).run(PERSON)
    assert made.value == Person(name="Ada", age=36), made


async def previous_response_id():
    one = agent(tools=[get_weather])
    session = one.create_session()
    await one.run("My name is Ada.", session=session)
    assert session.service_session_id.startswith("resp_"), session.service_session_id
    has((await one.run(WEATHER, session=session)).text, "21 degrees in Paris")
    has((await one.run("What is my name?", session=session)).text, "Ada")


async def conversation():
    talk = await client.conversations.create()
    one = agent(tools=[get_weather])
    session = one.get_session(talk.id)
    await one.run("My name is Ada.", session=session)
    has((await one.run(WEATHER, session=session)).text, "21 degrees in Paris")
    has((await one.run("What is my name?", session=session)).text, "Ada")
    assert len([item async for item in client.conversations.items.list(talk.id)]) == 8


async def mcp():
    notes = OpenAIChatClient.get_mcp_tool(name="notes", url=MCP, approval_mode="never_require")
    has((await agent(tools=[notes]).run(SEARCH_NOTES)).text, "eleven minutes")
    one = agent(tools=[notes])
    session = one.create_session()
    said = "".join([update.text async for update in one.run(SEARCH_NOTES, stream=True, session=session)])
    has(said, "eleven minutes")
    has((await one.run("Repeat what you said", session=session)).text, "eleven minutes")


async def mcp_approval():
    one = agent(tools=[OpenAIChatClient.get_mcp_tool(name="notes", url=MCP, approval_mode="always_require")])
    session = one.create_session()
    asked = await one.run(ADD_NOTE, session=session)
    (request,) = asked.user_input_requests
    answer = Message("user", [request.to_function_approval_response(approved=True)])
    has((await one.run(answer, session=session)).text, "Kept as note")


async def web_search():
    made = await agent(tools=[OpenAIChatClient.get_web_search_tool()]).run(SEARCH_WEB)
    notes = [note for content in made.messages[-1].contents for note in content.annotations or ()]
    assert [note["url"] for note in notes] == [FOUND_URL], notes


async def reasoning():
    made = await agent(default_options={"reasoning": {"summary": "auto"}}).run(THINK)
    contents = [content for message in made.messages for content in message.contents]
    has([content.text for content in contents if content.type == "text_reasoning"], "A hard one.")


async def images():
    message = Message("user", [Content.from_uri(PNG, media_type="image/png"), Content.from_text(LOOK)])
    has((await agent().run(message)).text, "data:image/png;base64")


async def errors():
    for status, prompt in REFUSED.items():
        await refused(lambda prompt=prompt: agent().run(prompt), status, AgentFrameworkException)
        await refused(lambda prompt=prompt: streamed(prompt), status, AgentFrameworkException)


async def broken_stream():
    said, _ = await streamed(CUT)
    has(said, "These words came")
    return "But the client does not tell that the stream failed"


async def background():
    one = agent(default_options={"background": True})
    made = await one.run("Say later")
    while made.continuation_token:
        made = await one.run(options={"continuation_token": made.continuation_token})
    has(made.text, "later")


async def resumed_stream():
    """A stream that is left and gone on with: this client asks for all of it once more."""
    one = Agent(OpenAIChatClient(SLOW, async_client=client), default_options={"background": True})
    token = None
    async for update in one.run("Count to 30", stream=True):
        token = update.continuation_token or token
        if update.text:
            break
    rest = one.run(stream=True, options={"continuation_token": token})
    has("".join([update.text async for update in rest]), "28 29 30")
    return "But the client tells a resumed text twice"


drive(
    "agent-framework",
    version("agent-framework-openai"),
    {
        "text": text,
        "streaming": streaming,
        "tools": tools,
        "parallel tools": parallel_tools,
        "structured output": structured_output,
        "previous_response_id": previous_response_id,
        "conversation": conversation,
        "mcp": mcp,
        "mcp approval": mcp_approval,
        "web search": web_search,
        "reasoning": reasoning,
        "images": images,
        "errors": errors,
        "broken stream": broken_stream,
        "background": background,
        "resumed stream": resumed_stream,
    },
)
