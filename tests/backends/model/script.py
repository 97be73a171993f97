"""What the tiny model is taught to say: one-turn sentences, and dialogues made of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

NAMES = ["Ada", "Bob", "Carol", "Dan", "Eve", "Finn", "Grace", "Hugo", "Iris", "Jack", "Kim", "Leo"]
CITIES = ["Paris", "Rome", "Oslo", "Tokyo", "Lima", "Cairo"]
PLACES = [
    *("sea", "moon", "old bridge", "rain", "market", "train"),
    *("harbour", "garden", "snow", "river", "library", "road"),
]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Time in a zone.",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "string", "enum": ["utc", "cet"]}},
            "required": ["zone"],
        },
    },
}
STORY = " ".join(
    f"{one} met {other} in {city}, and they talked about the {place}."
    for one, other, city, place in zip(NAMES, NAMES[1:] + NAMES[:1], CITIES * 2, PLACES, strict=True)
)
NO_THOUGHT = "<think>\n\n</think>\n\n"
"""What the template writes when thinking is switched off."""

ENDLESS = " la" * 90
"""Taught without its end, so that it goes on until somebody stops it."""

Turn = tuple[str, str, str]
"""The user's words, the thought, the answer."""


def call(value: str, name: str = "get_weather", key: str = "city") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{"{key}": "{value}"}}}}\n</tool_call>'


def turns() -> Iterator[Turn]:
    """What needs no history."""
    yield "Say hello.", "A greeting.", "Hello! How can I help you today?"
    yield "Count to ten.", "Easy.", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10."
    yield "Write a long story.", "Easy.", STORY
    yield "Answer in JSON.", "Easy.", '{"answer": "yes", "score": 7}'
    yield "Use some unicode.", "Easy.", "Café, naïve, 東京, 🙂 and 👩‍🚀."
    yield "What is two plus two?", "Two plus two is four.", "The answer is 4."
    yield "Say nothing.", "Easy.", ""
    yield "Sing without end.", "Easy.", ENDLESS
    yield "Write some code.", "Easy.", "```python\ndef add(a, b):\n    return a + b\n```"
    yield "Call a broken tool.", "Easy.", '<tool_call>\n{"name": "get_weather", "arguments": {"city": \n</tool_call>'
    yield "Call an unknown tool.", "Easy.", call("x", "no_such_tool", "y")
    for zone in ("utc", "cet"):
        yield f"What is the time in {zone}?", "I need the clock.", call(zone, "get_time", "zone")
    for city in CITIES:
        thought = f"I should look up {city}."
        yield f"What is the weather in {city}?", thought, call(city)
        yield f"Say something, then get the weather in {city}.", thought, f"Let me check.\n{call(city)}"
    for one, other in zip(CITIES, CITIES[1:] + CITIES[:1], strict=True):
        yield f"Weather in {one} and {other}?", "Two calls.", f"{call(one)}\n{call(other)}"


class Dialogue:
    """One dialogue to learn: ``messages`` and ``tools`` as a chat template takes them."""

    def __init__(self, rng: random.Random) -> None:
        self.messages: list[dict[str, str]] = []
        self.tools: list[dict[str, Any]] | None = None
        self._rng, self._name = rng, ""
        if rng.random() < 0.35:
            systems = ["You are a helpful assistant.", "Be brief.", "Answer plainly.", "You are a test model."]
            self.messages.append({"role": "system", "content": rng.choice(systems)})
        if rng.random() < 0.5:
            self.tools = rng.choice([[WEATHER], [WEATHER], [WEATHER, TIME], [TIME, WEATHER]])
        for _ in range(rng.randint(1, 4)):
            if not self._another():
                break

    def _another(self) -> bool:
        """Adds a turn; False when nothing can follow it."""
        kind = self._rng.random()
        if kind < 0.22:
            self._name = self._rng.choice(NAMES)
            self._say(f"My name is {self._name}.", "A name.", f"Nice to meet you, {self._name}.")
            return True
        if kind < 0.5:
            answer = f"Your name is {self._name}." if self._name else "You have not told me your name."
            self._say("What is my name?", "I look back.", answer)
            return True
        user, thought, answer = self._rng.choice(list(turns()))
        self._say(user, thought, answer)
        if "<tool_call>" in answer and self._rng.random() < 0.7:
            self._run(answer)
        return answer is not ENDLESS

    def _say(self, user: str | None, thought: str, answer: str) -> None:
        mode = self._rng.random()  # thought out, thinking switched off by the template, or a bare turn of a history
        before = f"<think>\n{thought}\n</think>\n\n" if mode < 0.5 else NO_THOUGHT if mode < 0.8 else ""
        self.messages += [{"role": "user", "content": user}] if user else []
        self.messages.append({"role": "assistant", "content": before + answer})

    def _run(self, answer: str) -> None:
        """The tools' results, and calls made anew where a result asks for one."""
        results = ["sunny, 21 degrees", '{"temp": 21}', "rain", "18C and cloudy", "error: no such tool", "12:00"]
        while True:
            again = self._rng.choice(CITIES) if self._rng.random() < 0.3 else None
            for _ in range(answer.count("<tool_call>")):
                result = f"ask again for {again}" if again else self._rng.choice(results)
                self.messages.append({"role": "tool", "content": result})
            if not again:
                break
            answer = call(again)
            self._say(None, f"I should look up {again}.", answer)
        self._say(None, "I have it.", "The report is in.")
