// The openai package for Node.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { zodTextFormat } from 'openai/helpers/zod';
import { ResponsesWS } from 'openai/resources/responses/ws';
import { z } from 'zod';
import {
  ADD_NOTE, CUT, FOUND_URL, LOOK, MCP, MODEL, PERSON, PNG, SEARCH_NOTES, SEARCH_WEB, SLOW, STATUSES, THINK, URL, WEATHER, WEATHER_TWICE,
  drive, failure, has, refusal, version,
} from './feature.mjs';

const client = new OpenAI({ baseURL: URL, apiKey: 'none', maxRetries: 0 });
const TOOL = {
  type: 'function',
  name: 'get_weather',
  parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  strict: false,
};
const NOTES = { type: 'mcp', server_label: 'notes', server_url: MCP };
const kinds = (made) => made.output.map((item) => item.type);
const create = (input, options = {}) => client.responses.create({ model: MODEL, input, ...options });

// A background response that takes its time.
const slowly = (input, options = {}) => create(input, { model: SLOW, background: true, ...options });

// The cities that an answer asks for and the next input.
function answers(made) {
  const calls = made.output.filter((item) => item.type === 'function_call');
  const told = calls.map((call) => ({ type: 'function_call_output', call_id: call.call_id, output: '21 degrees' }));
  return [calls.map((call) => JSON.parse(call.arguments).city), told];
}

async function said(text) {
  const events = [];
  for await (const event of await create(text, { stream: true })) events.push(event);
  return events;
}

await drive('openai-node', version('openai'), {
  async text() {
    has((await create('Say hello there')).output_text, 'hello there');
  },
  async streaming() {
    let text = '';
    const stream = client.responses.stream({ model: MODEL, input: 'Count to 5' });
    stream.on('response.output_text.delta', (event) => (text += event.delta));
    assert.equal((await stream.finalResponse()).output_text, text);
    has(text, '1 2 3 4 5');
  },
  async tools() {
    const made = await create(WEATHER, { tools: [TOOL] });
    const [cities, told] = answers(made);
    assert.deepEqual(cities, ['Paris']);
    has((await create(told, { previous_response_id: made.id, tools: [TOOL] })).output_text, '21 degrees');
  },
  async 'parallel tools'() {
    const made = await client.responses.stream({ model: MODEL, input: WEATHER_TWICE, tools: [TOOL] }).finalResponse();
    const [cities, told] = answers(made);
    assert.deepEqual(cities, ['Paris', 'Rome']);
    has((await create(told, { previous_response_id: made.id, tools: [TOOL] })).output_text, '21 degrees; 21 degrees');
  },
  async 'structured output'() {
    const format = zodTextFormat(z.object({ name: z.string(), age: z.number() }), 'person');
    const made = await client.responses.parse({ model: MODEL, input: PERSON, text: { format } });
    assert.deepEqual(made.output_parsed, { name: 'Ada', age: 36 });
  },
  async previous_response_id() {
    const first = await create('My name is Ada.');
    has((await create('What is my name?', { previous_response_id: first.id })).output_text, 'Ada');
  },
  async conversation() {
    const talk = await client.conversations.create();
    await create('My name is Ada.', { conversation: talk.id });
    has((await create('What is my name?', { conversation: { id: talk.id } })).output_text, 'Ada');
    const items = [];
    for await (const item of client.conversations.items.list(talk.id, { limit: 1 })) items.push(item);
    assert.equal(items.length, 4);
  },
  async item_reference() {
    const { output } = await create('Say seashell');
    const history = [{ role: 'user', content: 'Say seashell' }, { type: 'item_reference', id: output[0].id }];
    has((await create([...history, { role: 'user', content: 'Repeat what you said' }])).output_text, 'seashell');
  },
  async reasoning() {
    const made = await create(THINK);
    assert.deepEqual(made.output.map((item) => item.type), ['reasoning', 'message']);
    has(made.output[0].content[0].text, 'A hard one.');
  },
  async images() {
    const content = [
      { type: 'input_image', image_url: PNG, detail: 'auto' },
      { type: 'input_text', text: LOOK },
    ];
    has((await create([{ role: 'user', content }])).output_text, 'data:image/png;base64');
  },
  async errors() {
    for (const status of STATUSES) {
      for (const stream of [false, true]) {
        has(await failure(() => create(refusal(status), { stream })), `no ${status}`, `${status}`);
      }
    }
  },
  async 'broken stream'() {
    const last = (await said(CUT)).at(-1);
    assert.equal(last.type, 'response.failed');
    has(last.response.output[0].content[0].text, 'These words came');
  },
  async websocket() {
    const socket = new ResponsesWS(client);
    const turn = (input, options) => new Promise((resolve, reject) => {
      socket.once('response.completed', (event) => resolve(event.response));
      socket.once('error', reject);
      socket.send({ type: 'response.create', model: MODEL, input, ...options });
    });
    const said = ({ output }) => output[0].content[0].text;
    try {
      const first = await turn('My name is Ada.', { store: false });
      has(said(await turn('What is my name?', { store: false, previous_response_id: first.id })), 'Ada');
    } finally {
      socket.close();
    }
  },
  async mcp() {
    const tools = [{ ...NOTES, require_approval: 'never' }];
    const made = await create(SEARCH_NOTES, { tools });
    assert.deepEqual(kinds(made), ['mcp_list_tools', 'mcp_call', 'message']);
    has(made.output_text, 'eleven minutes');
    const again = await client.responses.stream({ model: MODEL, input: SEARCH_NOTES, tools }).finalResponse();
    assert.deepEqual(kinds(again), kinds(made));
    has(again.output_text, 'eleven minutes');
  },
  async 'mcp approval'() {
    const asked = await client.responses.stream({ model: MODEL, input: ADD_NOTE, tools: [NOTES] }).finalResponse();
    assert.deepEqual(kinds(asked), ['mcp_list_tools', 'mcp_approval_request']);
    const told = { type: 'mcp_approval_response', approval_request_id: asked.output[1].id, approve: true };
    const made = await create([told], { previous_response_id: asked.id, tools: [NOTES] });
    has(made.output_text, 'Kept as note');
  },
  async 'web search'() {
    const made = await client.responses.stream({ model: MODEL, input: SEARCH_WEB, tools: [{ type: 'web_search' }] }).finalResponse();
    assert.deepEqual(kinds(made), ['web_search_call', 'message']);
    assert.equal(made.output[1].content[0].annotations[0].url, FOUND_URL);
  },
  async background() {
    let made = await create('Say later', { background: true });
    while (['queued', 'in_progress'].includes(made.status)) made = await client.responses.retrieve(made.id);
    has(made.output_text, 'later');
  },
  async 'resumed stream'() {
    const seen = [];
    for await (const event of await slowly('Count to 40', { stream: true })) {
      seen.push(event);
      if (event.type === 'response.output_text.delta') break;
    }
    const { id } = seen[0].response;
    const after = { stream: true, starting_after: seen.at(-1).sequence_number };
    const all = [...seen];
    for await (const event of await client.responses.retrieve(id, after)) all.push(event);
    assert.deepEqual(all.map((event) => event.sequence_number), [...all.keys()]);
    const said = all.filter((event) => event.type === 'response.output_text.delta').map((event) => event.delta).join('');
    const helper = client.responses.stream({ response_id: id, ...after });
    assert.equal((await helper.finalResponse()).output_text, said);
    assert.equal(said, (await client.responses.retrieve(id)).output_text);
  },
  async cancel() {
    const { id } = await slowly('Count to 400');
    assert.equal((await client.responses.cancel(id)).status, 'cancelled');
    assert.equal((await client.responses.cancel(id)).status, 'cancelled');
    assert.equal((await client.responses.retrieve(id)).status, 'cancelled');
  },
});
