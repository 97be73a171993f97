"""openai-agents for Python: its loop, its sessions on our conversations, handoffs."""

import os
from importlib.metadata import version

os.environ["OPENAI_AGENTS_DISABLE_TRACING"] = "1"

import agents
import openai
import pydantic
from agents.memory import OpenAIConversationsSession, OpenAIResponsesCompactionSession
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
    THINK,
    URL,
    WEATHER,
    WEATHER_TWICE,
    drive,
    has,
    refused,
    steps,
)
from openai.types.shared import Reasoning


class Person(pydantic.BaseModel):
    name: str
    age: int


asked = []


@agents.function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    asked.append(city)
    return f"21 degrees in {city}"


client = openai.AsyncOpenAI(base_url=URL, api_key="none", max_retries=0)


def agent(**options):
    model = agents.OpenAIResponsesModel(model=MODEL, openai_client=client)
    return agents.Agent(**{"name": "Assistant", "instructions": "Be brief.", "model": model} | options)


async def run(text, who=None, **options):
    return await agents.Runner.run(who or agent(), text, max_turns=5, **options)


async def streamed(text, who=None, **options):
    run = agents.Runner.run_streamed(who or agent(), text, max_turns=5, **options)
    said = ""
    async for event in run.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            said += event.data.delta
    return said, run


async def text():
    has((await run("Say hello there")).final_output, "hello there")


async def streaming():
    said, run = await streamed("Count to 5")
    has(said, "1 2 3 4 5")
    assert run.final_output == said


async def tools():
    has((await run(WEATHER, agent(tools=[get_weather]))).final_output, "21 degrees in Paris")
    said, _ = await streamed(WEATHER, agent(tools=[get_weather]))
    has(said, "21 degrees in Paris")


async def parallel_tools():
    asked.clear()
    made = await run(WEATHER_TWICE, agent(tools=[get_weather]))
    has(made.final_output, "21 degrees in Paris; 21 degrees in Rome")
    assert sorted(asked) == ["Paris", "Rome"], asked


async def structured_output():
    made = await run(PERSON, agent(output_type=Person))
    assert made.final_output == Person(name="Ada", age=36), made.final_output


async def previous_response_id():
    first = await run("My name is Ada.")
    has((await run("What is my name?", previous_response_id=first.last_response_id)).final_output, "Ada")
    made = await run(WEATHER, agent(tools=[get_weather]), auto_previous_response_id=True)
    has(made.final_output, "21 degrees in Paris")
    assert len(made.raw_responses) == 2


async def conversation():
    talk = await client.conversations.create()
    await run("My name is Ada.", conversation_id=talk.id)
    made = await run(WEATHER, agent(tools=[get_weather]), conversation_id=talk.id)
    has(made.final_output, "21 degrees in Paris")
    has((await run("What is my name?", conversation_id=talk.id)).final_output, "Ada")


async def session():
    session = OpenAIConversationsSession(openai_client=client)
    await run("My name is Ada.", session=session)
    await streamed(WEATHER, agent(tools=[get_weather]), session=session)
    has((await run("What is my name?", session=session)).final_output, "Ada")
    items = await session.get_items()
    assert len(items) == 8, items
    program = steps(
        {"think": "One.", "say": "First this.", "calls": [["get_weather", {"city": "Oslo"}]]},
        {"calls": [["get_weather", {"city": "Rome"}], ["get_weather", {"city": "Paris"}]]},
        {"say": "Done."},
    )
    said, _ = await streamed(program, agent(tools=[get_weather]), session=session)
    has(said, "First this.", "Done.")
    has(
        (await run(WEATHER_TWICE, agent(tools=[get_weather]), session=session)).final_output,
        "Paris; 21 degrees in Rome",
    )
    assert len(await session.get_items()) == 8 + 10 + 6
    assert (await session.pop_item())["role"] == "assistant"
    assert len(await session.get_items(limit=3)) == 3
    await session.add_items([{"role": "user", "content": f"Line {n}"} for n in range(45)])
    assert [item["content"][0]["text"] for item in (await session.get_items())[23:]] == [f"Line {n}" for n in range(45)]
    await session.clear_session()
    assert await session.get_items() == []


async def compact():
    for mode in ("previous_response_id", "input"):
        session = OpenAIResponsesCompactionSession(
            mode,
            agents.SQLiteSession(mode),
            client=client,
            compaction_mode=mode,
            should_trigger_compaction=lambda context: True,
        )
        await run("My name is Ada.", session=session)
        await run(WEATHER, agent(tools=[get_weather]), session=session)
        assert "compaction" in [item["type"] for item in await session.get_items()], await session.get_items()
        has((await run("What is my name?", session=session)).final_output, "Ada")


async def websocket():
    model = agents.OpenAIResponsesWSModel(model=MODEL, openai_client=client)
    try:
        who = agent(model=model, tools=[get_weather])
        said, run = await streamed(WEATHER, who)
        has(said, "21 degrees in Paris")
        made = await agents.Runner.run(who, "What is my name?", previous_response_id=run.last_response_id)
        assert made.final_output
        settings = agents.ModelSettings(store=False)
        who = agent(model=model, tools=[get_weather], model_settings=settings)
        made = await agents.Runner.run(who, WEATHER_TWICE, auto_previous_response_id=True)
        has(made.final_output, "21 degrees in Paris; 21 degrees in Rome")
        assert len(made.raw_responses) == 2
        await refused(
            lambda: agents.Runner.run(who, REFUSED[400]), 400, agents.models.openai_responses.ResponsesWebSocketError
        )
    finally:
        await model.close()


def notes(approval, **options):
    config = {"type": "mcp", "server_label": "notes", "server_url": MCP, "require_approval": approval}
    return agent(tools=[agents.HostedMCPTool(tool_config=config, **options)])


async def mcp():
    has((await run(SEARCH_NOTES, notes("never"))).final_output, "eleven minutes")
    said, first = await streamed(SEARCH_NOTES, notes("never"))
    has(said, "eleven minutes")
    again = [*first.to_input_list(), {"role": "user", "content": "Repeat what you said"}]
    has((await run(again, notes("never"))).final_output, "eleven minutes")
    session = OpenAIConversationsSession(openai_client=client)
    await run(SEARCH_NOTES, notes("never"), session=session)
    has((await run("Repeat what you said", notes("never"), session=session)).final_output, "eleven minutes")


async def mcp_approval():
    """Answered by a callback, whose answer travels with the whole history; then by a user, between two runs."""
    for verdict, told in (({"approve": True}, "Kept as note"), ({"approve": False, "reason": "no"}, "did not approve")):
        for play in (run, streamed):
            requests = []
            who = notes("always", on_approval_request=lambda request, v=verdict, r=requests: r.append(request) or v)
            made = await play(ADD_NOTE, who)
            has(made.final_output if play is run else made[0], told)
            assert [request.data.name for request in requests] == ["add_note"]
    stopped = await run(ADD_NOTE, notes("always"))
    state = stopped.to_state()
    state.approve(stopped.interruptions[0])
    has((await agents.Runner.run(notes("always"), state)).final_output, "Kept as note")


async def web_search():
    made = await run(SEARCH_WEB, agent(tools=[agents.WebSearchTool()]))
    (cited,) = made.new_items[-1].raw_item.content[0].annotations
    assert (cited.type, cited.url) == ("url_citation", FOUND_URL)


async def handoff():
    other = agent(name="Weather", tools=[get_weather])
    made = await run(
        steps(
            {"calls": [["transfer_to_weather", {}]]}, {"calls": [["get_weather", {"city": "Oslo"}]]}, {"say": "Done."}
        ),
        agent(handoffs=[other]),
    )
    assert (made.last_agent.name, made.final_output) == ("Weather", "Done."), made


async def reasoning():
    settings = agents.ModelSettings(reasoning=Reasoning(summary="auto"))
    made = await run(THINK, agent(model_settings=settings))
    assert [item.type for item in made.new_items] == ["reasoning_item", "message_output_item"]
    has(made.new_items[0].raw_item.summary[0].text, "A hard one.")
    again = [*made.to_input_list(), {"role": "user", "content": "Repeat what you said"}]
    has((await run(again)).final_output, "42")


async def images():
    parts = [{"type": "input_image", "image_url": PNG, "detail": "auto"}, {"type": "input_text", "text": LOOK}]
    has((await run([{"role": "user", "content": parts}])).final_output, "data:image/png;base64")


async def errors():
    for status, prompt in REFUSED.items():
        await refused(lambda prompt=prompt: run(prompt), status, openai.APIStatusError)
        await refused(lambda prompt=prompt: streamed(prompt), status, openai.APIStatusError)


async def broken_stream():
    try:
        said, run = await streamed(CUT)
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
    raise AssertionError(f"nobody noticed: {said!r} {run.final_output!r}")


drive(
    "openai-agents-python",
    version("openai-agents"),
    {
        "text": text,
        "streaming": streaming,
        "tools": tools,
        "parallel tools": parallel_tools,
        "structured output": structured_output,
        "previous_response_id": previous_response_id,
        "conversation": conversation,
        "session": session,
        "compact": compact,
        "websocket": websocket,
        "handoff": handoff,
        "mcp": mcp,
        "mcp approval": mcp_approval,
        "web search": web_search,
        "reasoning": reasoning,
        "images": images,
        "errors": errors,
        "broken stream": broken_stream,
    },
)
