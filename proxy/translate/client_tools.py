"""Tools that a client runs and chat backends know only as functions: shell, local_shell, apply_patch (wire §6.2, §6.6).

One row says all of such a tool: how it is declared, which arguments are a valid call, and what a call item holds. What
is no valid call becomes the row's ``empty`` form, which nothing can run: part of a command is another command.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxy import codec

Item = dict[str, Any]
Fields = dict[str, Callable[[Any], bool]]


@dataclass(frozen=True)
class ClientTool:
    """``type``: of the tool, and its chat name. ``item``: of its calls, which hold what to do under ``key``.

    ``fields``: a call's arguments and what they must be, null aside; the ``needed`` must be there. ``empty``: a call
    that does nothing. ``shape``: arguments that fit to what stands under ``key``.
    """

    type: str
    item: str
    key: str
    description: str
    properties: dict[str, Any]
    fields: Fields
    needed: tuple[str, ...]
    empty: Item
    shape: Callable[[Item], Item]

    @property
    def declaration(self) -> dict[str, Any]:
        """The function that stands for the tool."""
        parameters = {
            "type": "object",
            "properties": self.properties,
            "required": list(self.needed),
            "additionalProperties": False,
        }
        return {"name": self.type, "description": self.description, "parameters": parameters}

    def read(self, arguments: str) -> Item:
        """What the model's arguments ask for; ``empty`` when they are no valid call, an unknown key included."""
        try:
            given = codec.loads(arguments)
        except ValueError:
            return self.empty
        if not isinstance(given, dict) or given.keys() - self.fields.keys():
            return self.empty
        told = {key: _meant(key, value) for key, value in given.items() if value is not None}
        fits = all(self.fields[key](value) for key, value in told.items()) and told.keys() >= set(self.needed)
        return self.shape(told) if fits else self.empty

    def write(self, item: Item) -> str:
        """The arguments that a call item of the history stands for."""
        held = item.get(self.key)
        known = held if isinstance(held, dict) else {}
        told = {key: known[key] for key in self.fields if key in known and self.fields[key](known[key])}
        return codec.dumps({key: value for key, value in told.items() if value != {}}).decode()


def _meant(key: str, value: Any) -> Any:
    """An argument in its own form, where models write another that can mean nothing else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return [value] if key == "commands" and _is_named(value) else value


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_named(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) for word in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_environment(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(word, str) for word in value.values())


def _is_operation(value: Any) -> bool:
    return value in ("create_file", "update_file", "delete_file")


def _local_shell(told: Item) -> Item:
    return {"type": "exec", "env": {}, **told}


def _shell(told: Item) -> Item:
    return {"commands": told["commands"], **{key: told.get(key) for key in ("timeout_ms", "max_output_length")}}


def _apply_patch(told: Item) -> Item:
    if told["type"] == "delete_file":
        return {"type": told["type"], "path": told["path"]}
    if told["type"] == "create_file":
        return {**told, "diff": told.get("diff", "")}
    return told if "diff" in told else _NO_PATCH


_NO_PATCH = {"type": "update_file", "path": "", "diff": ""}
_TIMEOUT = {"type": "integer", "description": "Milliseconds after which to give up."}

LOCAL_SHELL = ClientTool(
    type="local_shell",
    item="local_shell_call",
    key="action",
    description="Runs one command on the user's machine, without a shell around it, and returns its output.",
    properties={
        "command": {
            "type": "array",
            "items": {"type": "string"},
            "description": 'The program and its arguments, e.g. ["ls", "-l"]; ["bash", "-lc", "…"] for shell syntax.',
        },
        "working_directory": {"type": "string", "description": "Where to run it."},
        "env": {
            "type": "object",
            "additionalProperties": {"type": "string"},
            "description": "Environment variables to set.",
        },
        "timeout_ms": _TIMEOUT,
        "user": {"type": "string", "description": "The user to run it as."},
    },
    fields={
        "command": _is_words,
        "env": _is_environment,
        "timeout_ms": _is_count,
        "user": _is_text,
        "working_directory": _is_text,
    },
    needed=("command",),
    empty={"type": "exec", "command": [], "env": {}},
    shape=_local_shell,
)

SHELL = ClientTool(
    type="shell",
    item="shell_call",
    key="action",
    description="Runs shell commands on the user's machine and returns the output and exit code of each.",
    properties={
        "commands": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Shell commands. Each runs by itself and may run beside the others.",
        },
        "timeout_ms": _TIMEOUT,
        "max_output_length": {"type": "integer", "description": "Most characters of output to return per command."},
    },
    fields={"commands": _is_words, "timeout_ms": _is_count, "max_output_length": _is_count},
    needed=("commands",),
    empty={"commands": [], "timeout_ms": None, "max_output_length": None},
    shape=_shell,
)

APPLY_PATCH = ClientTool(
    type="apply_patch",
    item="apply_patch_call",
    key="operation",
    description=(
        "Creates, changes or deletes one file of the user's workspace. In `diff`, each line of a new file begins with"
        " '+'. A change of a file is given as hunks: each begins with a line '@@', which may go on with a nearby line"
        " that says where it belongs, such as '@@ def main():'; then come the lines, with ' ' in front of those that"
        " stay, '-' of those that go and '+' of those that are new, and about three unchanged lines around a change."
        " No line numbers and no file headers."
    ),
    properties={
        "type": {"type": "string", "enum": ["create_file", "update_file", "delete_file"]},
        "path": {"type": "string", "description": "The file, relative to the root of the workspace."},
        "diff": {"type": "string", "description": "The lines of the file or of its change; none for delete_file."},
    },
    fields={"type": _is_operation, "path": _is_named, "diff": _is_text},
    needed=("type", "path"),
    empty=_NO_PATCH,
    shape=_apply_patch,
)

BY_TYPE = {tool.type: tool for tool in (LOCAL_SHELL, SHELL, APPLY_PATCH)}
BY_ITEM = {tool.item: tool for tool in BY_TYPE.values()}


def output_text(item: Item) -> str:
    """What the model reads of a call's output item."""
    output = item.get("output")
    if item["type"] == "apply_patch_call_output":
        told = output if isinstance(output, str) else ""
        if item.get("status") == "failed":
            return f"failed: {told}" if told else "failed"
        return told or "completed"
    if isinstance(output, list):
        return "\n".join(_ran(entry) for entry in output if isinstance(entry, dict))
    return output if isinstance(output, str) else ""


def _ran(entry: Item) -> str:
    """One command's output, with its end as the last line."""
    outcome = entry["outcome"] if isinstance(entry.get("outcome"), dict) else {}
    ended = "[timed out]" if outcome.get("type") == "timeout" else f"[exit code {outcome.get('exit_code')}]"
    stdout, stderr = (str(entry.get(key) or "") for key in ("stdout", "stderr"))
    told = [stdout.rstrip("\n"), f"[stderr]\n{stderr}".rstrip("\n") if stderr.strip() else "", ended]
    return "\n".join(line for line in told if line)
