"""langchain-openai: ChatOpenAI over the Responses API."""

from importlib.metadata import version

import openai
import pydantic
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
)
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI


class Person(pydantic.BaseModel):
    """A person."""

    name: str
    age: int


@tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"21 degrees in {city}"


def model(**options):
    return ChatOpenAI(model=MODEL, base_url=URL, api_key="none", use_responses_api=True, max_retries=0, **options)


def loop(asked, llm):
    """One round of tools, streamed; the cities and the last answer."""
    said = None
    for piece in llm.stream(asked):
        said = piece if said is None else said + piece
    told = [ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"]) for call in said.tool_calls]
    return [call["args"]["city"] for call in said.tool_calls], llm.invoke([*asked, said, *told])


def text():
    made = model().invoke("Say hello there")
    has(made.text, "hello there")
    assert made.usage_metadata["total_tokens"] > 0


def streaming():
    said = None
    for piece in model().stream("Count to 5"):
        said = piece if said is None else said + piece
    has(said.text, "1 2 3 4 5")
    assert said.response_metadata["id"].startswith("resp_") and said.usage_metadata["total_tokens"] > 0


def tools():
    cities, last = loop([HumanMessage(WEATHER)], model().bind_tools([get_weather]))
    assert cities == ["Paris"], cities
    has(last.text, "21 degrees in Paris")


def parallel_tools():
    cities, last = loop([HumanMessage(WEATHER_TWICE)], model().bind_tools([get_weather]))
    assert cities == ["Paris", "Rome"], cities
    has(last.text, "21 degrees in Paris; 21 degrees in Rome")


def structured_output():
    for method in ("json_schema", "function_calling"):
        made = model().with_structured_output(Person, method=method).invoke(PERSON)
        assert made == Person(name="Ada", age=36), (method, made)
    made = model().with_structured_output(None, method="json_mode").invoke("Say this as JSON")
    assert list(made) == ["answer"], made


def previous_response_id():
    llm = model(use_previous_response_id=True)
    talk = [HumanMessage("My name is Ada.")]
    talk += [llm.invoke(talk), HumanMessage("What is my name?")]
    has(llm.invoke(talk).text, "Ada")
    _, last = loop([HumanMessage(WEATHER)], llm.bind_tools([get_weather]))
    has(last.text, "21 degrees in Paris")


def replayed_history():
    for shape in ("responses/v1", "v1", "v0"):
        llm = model(output_version=shape)
        talk = [HumanMessage("Say seashell")]
        talk += [llm.invoke(talk), HumanMessage("Repeat what you said")]
        has(llm.invoke(talk).text, "seashell")
        loop([*talk, AIMessage("seashell"), HumanMessage(WEATHER)], llm.bind_tools([get_weather]))


def mcp():
    tool = {"type": "mcp", "server_label": "notes", "server_url": MCP, "require_approval": "never"}
    for shape in ("responses/v1", "v1"):
        llm = model(output_version=shape).bind_tools([tool])
        has(llm.invoke(SEARCH_NOTES).text, "eleven minutes")
        said, again = None, HumanMessage("Repeat what you said")
        for piece in llm.stream(SEARCH_NOTES):
            said = piece if said is None else said + piece
        has(llm.invoke([HumanMessage(SEARCH_NOTES), said, again]).text, "eleven minutes")


def mcp_approval():
    llm = model(output_version="responses/v1").bind_tools([{"type": "mcp", "server_label": "notes", "server_url": MCP}])
    asked = llm.invoke(ADD_NOTE)
    request = asked.content[-1]
    told = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": True}
    answer = HumanMessage([told])
    has(llm.invoke([answer], previous_response_id=asked.response_metadata["id"]).text, "Kept as note")
    has(llm.invoke([HumanMessage(ADD_NOTE), asked, answer]).text, "Kept as note")


def web_search():
    made = model(output_version="responses/v1").bind_tools([{"type": "web_search"}]).invoke(SEARCH_WEB)
    (cited,) = made.content[-1]["annotations"]
    assert (cited["type"], cited["url"]) == ("url_citation", FOUND_URL)


def reasoning():
    talk = [HumanMessage(THINK)]
    llm = model(output_version="responses/v1", reasoning={"summary": "auto"})
    made = llm.invoke(talk)
    has([block["reasoning"] for block in made.content_blocks if block["type"] == "reasoning"], "A hard one.")
    has(llm.invoke([*talk, made, HumanMessage("Repeat what you said")]).text, "42")


def images():
    parts = [{"type": "text", "text": LOOK}, {"type": "image_url", "image_url": {"url": PNG}}]
    has(model().invoke([HumanMessage(parts)]).text, "data:image/png;base64")


async def errors():
    for status, prompt in REFUSED.items():
        await refused(lambda prompt=prompt: model().invoke(prompt), status, openai.APIStatusError)
        await refused(lambda prompt=prompt: list(model().stream(prompt)), status, openai.APIStatusError)


def broken_stream():
    try:
        said = list(model().stream(CUT))
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
    raise AssertionError(f"nobody noticed: {said!r}")


drive(
    "langchain-openai",
    version("langchain-openai"),
    {
        "text": text,
        "streaming": streaming,
        "tools": tools,
        "parallel tools": parallel_tools,
        "structured output": structured_output,
        "previous_response_id": previous_response_id,
        "replayed history": replayed_history,
        "mcp": mcp,
        "mcp approval": mcp_approval,
        "web search": web_search,
        "reasoning": reasoning,
        "images": images,
        "errors": errors,
        "broken stream": broken_stream,
    },
)
