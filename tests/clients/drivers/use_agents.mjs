// @openai/agents: its loop, its sessions on our conversations, handoffs.
import assert from 'node:assert/strict';
import {
  Agent, OpenAIConversationsSession, OpenAIResponsesModel, OpenAIResponsesWSModel, hostedMcpTool, run, setTracingDisabled, tool,
  webSearchTool,
} from '@openai/agents';
import OpenAI from 'openai';
import { z } from 'zod';
import {
  ADD_NOTE, CUT, FOUND_URL, LOOK, MCP, MODEL, PERSON, PNG, SEARCH_NOTES, SEARCH_WEB, STATUSES, THINK, URL, WEATHER, WEATHER_TWICE,
  drive, failure, has, refusal, steps, version,
} from './feature.mjs';

setTracingDisabled(true);
const client = new OpenAI({ baseURL: URL, apiKey: 'none', maxRetries: 0 });
const asked = [];
const weather = tool({
  name: 'get_weather',
  description: 'The weather in a city.',
  parameters: z.object({ city: z.string() }),
  execute: ({ city }) => {
    asked.push(city);
    return `21 degrees in ${city}`;
  },
});

function agent(options = {}) {
  const model = new OpenAIResponsesModel(client, MODEL);
  return new Agent({ name: 'Assistant', instructions: 'Be brief.', model, ...options });
}

const notes = (options) => [hostedMcpTool({ serverLabel: 'notes', serverUrl: MCP, ...options })];
const play = (text, options = {}, rest = {}) => run(agent(options), text, { maxTurns: 5, ...rest });

async function streamed(text, options = {}, rest = {}) {
  const result = await run(agent(options), text, { maxTurns: 5, stream: true, ...rest });
  let said = '';
  for await (const piece of result.toTextStream()) said += piece;
  await result.completed;
  return [said, result];
}

await drive('openai-agents-node', version('@openai/agents'), {
  async text() {
    has((await play('Say hello there')).finalOutput, 'hello there');
  },
  async streaming() {
    const [said, result] = await streamed('Count to 5');
    has(said, '1 2 3 4 5');
    assert.equal(result.finalOutput, said);
  },
  async tools() {
    has((await play(WEATHER, { tools: [weather] })).finalOutput, '21 degrees in Paris');
    has((await streamed(WEATHER, { tools: [weather] }))[0], '21 degrees in Paris');
  },
  async 'parallel tools'() {
    asked.length = 0;
    has((await play(WEATHER_TWICE, { tools: [weather] })).finalOutput, '21 degrees in Paris; 21 degrees in Rome');
    assert.deepEqual(asked.sort(), ['Paris', 'Rome']);
  },
  async 'structured output'() {
    const outputType = z.object({ name: z.string(), age: z.number() });
    assert.deepEqual((await play(PERSON, { outputType })).finalOutput, { name: 'Ada', age: 36 });
  },
  async previous_response_id() {
    const first = await play('My name is Ada.');
    has((await play('What is my name?', {}, { previousResponseId: first.lastResponseId })).finalOutput, 'Ada');
  },
  async conversation() {
    const { id } = await client.conversations.create();
    await play('My name is Ada.', {}, { conversationId: id });
    has((await play(WEATHER, { tools: [weather] }, { conversationId: id })).finalOutput, '21 degrees in Paris');
    has((await play('What is my name?', {}, { conversationId: id })).finalOutput, 'Ada');
  },
  async session() {
    const session = new OpenAIConversationsSession({ client });
    await play('My name is Ada.', {}, { session });
    await streamed(WEATHER, { tools: [weather] }, { session });
    has((await play('What is my name?', {}, { session })).finalOutput, 'Ada');
    assert.equal((await session.getItems()).length, 8);
    assert.equal((await session.popItem()).role, 'assistant');
    assert.equal((await session.getItems()).length, 7);
    await session.clearSession();
  },
  async websocket() {
    const model = new OpenAIResponsesWSModel(client, MODEL);
    try {
      const [said, result] = await streamed(WEATHER, { model, tools: [weather] });
      has(said, '21 degrees in Paris');
      await play('My name is Ada.', { model }, { previousResponseId: result.lastResponseId });
      has((await play(WEATHER_TWICE, { model, tools: [weather] })).finalOutput, '21 degrees in Paris; 21 degrees in Rome');
    } finally {
      await model.close();
    }
  },
  async mcp() {
    has((await play(SEARCH_NOTES, { tools: notes() })).finalOutput, 'eleven minutes');
    const [said, first] = await streamed(SEARCH_NOTES, { tools: notes() });
    has(said, 'eleven minutes');
    const again = [...first.history, { role: 'user', content: 'Repeat what you said' }];
    has((await play(again, { tools: notes() })).finalOutput, 'eleven minutes');
  },
  async 'mcp approval'() {
    const asked = [];
    const onApproval = async (context, { name }) => {
      asked.push(name);
      return { approve: true };
    };
    const tools = notes({ requireApproval: 'always', onApproval });
    has((await play(ADD_NOTE, { tools })).finalOutput, 'Kept as note');
    has((await streamed(ADD_NOTE, { tools }))[0], 'Kept as note');
    assert.equal(asked.length, 2);
  },
  async 'web search'() {
    const made = await play(SEARCH_WEB, { tools: [webSearchTool()] });
    has(JSON.stringify(made.newItems.at(-1).rawItem), 'url_citation', FOUND_URL);
  },
  async handoff() {
    const other = agent({ name: 'Weather', tools: [weather] });
    const program = steps(
      { calls: [['transfer_to_Weather', {}]] },
      { calls: [['get_weather', { city: 'Oslo' }]] },
      { say: 'Done.' },
    );
    const result = await play(program, { handoffs: [other] });
    assert.deepEqual([result.lastAgent.name, result.finalOutput], ['Weather', 'Done.']);
  },
  async reasoning() {
    const first = await play(THINK, { modelSettings: { reasoning: { summary: 'auto' } } });
    has(JSON.stringify(first.newItems[0].rawItem), 'A hard one.');
    assert.deepEqual(first.newItems.map((item) => item.type), ['reasoning_item', 'message_output_item']);
    const again = [...first.history, { role: 'user', content: 'Repeat what you said' }];
    has((await play(again)).finalOutput, '42');
  },
  async images() {
    const content = [
      { type: 'input_image', image: PNG },
      { type: 'input_text', text: LOOK },
    ];
    has((await play([{ role: 'user', content }])).finalOutput, 'data:image/png;base64');
  },
  async errors() {
    for (const status of STATUSES) {
      has(await failure(() => play(refusal(status))), `no ${status}`, `${status}`);
      has(await failure(() => streamed(refusal(status))), `no ${status}`, `${status}`);
    }
  },
  async 'broken stream'() {
    return failure(() => streamed(CUT));
  },
});
