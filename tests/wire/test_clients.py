"""One request of each shape that real clients were seen to send; none may be refused or lose what it says."""

from proxy import wire


def create(**body):
    return wire.create_response({"model": "m", **body})


def said(text, **keys):
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "status": "completed", "role": "assistant", "content": [part], **keys}


def asked(text, role="user", **keys):
    part = {"type": "input_text", "text": text}
    return {"type": "message", "status": "completed", "role": role, "content": [part], **keys}


def test_openai_agents_with_untyped_messages_and_an_empty_list_of_tools():
    request = create(input=[{"role": "user", "content": "hi"}], tools=[], include=[], instructions="be brief")
    assert request["input"] == [asked("hi")]
    assert request["tools"] == request["include"] == []


def test_llm_and_pydantic_ai_replay_answers_as_plain_strings():
    request = create(input=[{"role": "system", "content": "s"}, {"role": "assistant", "content": "a"}], store=False)
    assert request["input"] == [asked("s", role="system"), said("a")]


def test_semantic_kernel_replays_output_text_without_annotations_among_nulls_and_empty_objects():
    history = [{"role": "assistant", "content": [{"type": "output_text", "text": "a"}]}]
    request = create(input=history, previous_response_id=None, metadata={}, text={}, tools=[])
    assert request == {"model": "m", "input": [said("a")], "metadata": {}, "text": {}, "tools": []}


def test_langchain_replays_messages_with_or_without_id_and_status():
    part = {"type": "output_text", "text": "a", "annotations": []}
    bare = {"type": "message", "role": "assistant", "content": [part]}
    assert create(input=[bare, {**bare, "id": "msg_1", "status": "completed"}])["input"] == [
        said("a"),
        said("a", id="msg_1"),
    ]


def test_the_sdk_replays_whole_dumps_with_their_nulls():
    dumped = {**said("a", id="msg_1"), "phase": None}
    call = {"id": "fc_1", "type": "function_call", "status": None, "call_id": "c", "name": "f", "arguments": "{}"}
    dumps = [dumped, {**call, "namespace": None, "caller": None}]
    assert create(input=dumps)["input"] == [said("a", id="msg_1"), {**call, "status": "completed"}]


def test_the_ai_sdk_sends_references_instead_of_answers():
    reference = {"type": "item_reference", "id": "msg_1"}
    assert create(input=[asked("hi"), reference])["input"] == [asked("hi"), reference]


def test_agents_js_sends_tool_outputs_with_a_status_and_without_an_id():
    output = {"call_id": "c", "output": "sunny", "status": "completed", "type": "function_call_output"}
    assert create(input=[output])["input"] == [output]


def test_codex_sends_tool_outputs_as_lists_of_texts():
    parts = [{"type": "input_text", "text": "Wall time: 1s"}, {"type": "input_text", "text": "sunny"}]
    output = {"type": "function_call_output", "call_id": "c", "output": parts}
    assert create(input=[output])["input"] == [{**output, "status": "completed"}]


def test_codex_replays_reasoning_with_both_contents_null():
    item = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "a"}]}
    assert create(input=[{**item, "content": None, "encrypted_content": None}])["input"] == [item]


def test_agents_replay_reasoning_with_and_without_the_null():
    item = {"id": "rs_1", "summary": [], "type": "reasoning"}
    assert create(input=[{"encrypted_content": None, **item}, item])["input"] == [item, item]


def test_llama_index_sends_nulls_for_all_it_does_not_use_and_a_choice_without_tools():
    nulls = ("include", "instructions", "max_output_tokens", "metadata", "previous_response_id", "user")
    request = create(input="hi", tool_choice="none", truncation="disabled", **dict.fromkeys(nulls))
    assert request == {"model": "m", "input": [asked("hi")], "tool_choice": "none", "truncation": "disabled"}


def test_pydantic_ai_and_llm_send_a_null_description_in_tools():
    tool = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": False}
    assert create(input="hi", tools=[{**tool, "description": None}])["tools"] == [tool]


def test_codex_compacts_with_a_choice_and_no_tools():
    request = create(input="hi", tools=[], tool_choice="auto", parallel_tool_calls=False)
    assert (request["tools"], request["tool_choice"], request["parallel_tool_calls"]) == ([], "auto", False)


def test_codex_turns_pass_with_every_key_and_tool_they_bring():
    tools = [
        {"type": "function", "name": "exec_command", "parameters": {}, "strict": False},
        {"type": "namespace", "name": "agents", "description": "", "tools": [{"type": "function", "name": "spawn"}]},
        {"type": "web_search", "external_web_access": False},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
    ]
    body = {
        "stream": True,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "019a",
        "client_metadata": {"a": "b"},
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto", "context": "all_turns"},
        "text": {"verbosity": "low"},
        "tools": tools,
    }
    request = create(input=[asked("rules", role="developer", id="msg_1"), asked("hi", id="msg_2")], **body)
    assert {key: request[key] for key in body} == body


def test_newer_codex_models_bring_their_tools_as_an_input_item():
    tools = [{"type": "namespace", "name": "functions", "tools": [{"type": "custom", "name": "exec"}]}]
    item = {"type": "additional_tools", "role": "developer", "tools": tools}
    assert create(input=[item, {"role": "user", "content": "hi"}])["input"] == [item, asked("hi")]


def test_codex_images_keep_their_original_detail():
    parts = [
        {"type": "input_text", "text": "<image name=[Image #1]>"},
        {"type": "input_image", "image_url": "data:image/png;base64,aQ==", "detail": "original"},
    ]
    assert create(input=[{"role": "user", "content": parts}])["input"][0]["content"] == parts


def test_sdk_users_name_a_conversation_by_object():
    assert create(input="hi", conversation={"id": "conv_1"})["conversation"] == "conv_1"


def test_agents_sdk_begins_a_conversation_with_an_empty_list():
    assert wire.create_conversation({"items": []}) == {"items": [], "metadata": {}}


def test_agents_sdk_posts_items_without_ids_and_reads_them_back_as_typed_parts():
    items = [{"role": "user", "content": "hi"}, {"type": "function_call_output", "call_id": "c", "output": "x"}]
    assert wire.create_items({"items": items}) == [
        asked("hi"),
        {"type": "function_call_output", "status": "completed", "call_id": "c", "output": "x"},
    ]


def test_the_compliance_suite_sends_phases_and_files():
    phased = {"type": "message", "role": "assistant", "content": "a", "phase": "commentary"}
    file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}
    request = create(input=[phased, {"type": "message", "role": "user", "content": [file]}])
    assert request["input"][0] == said("a", phase="commentary")
    assert request["input"][1]["content"] == [file]
