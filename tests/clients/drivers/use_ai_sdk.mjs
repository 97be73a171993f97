// The AI SDK (ai with @ai-sdk/openai): earlier messages go out as item references.
import assert from 'node:assert/strict';
import { createOpenAI } from '@ai-sdk/openai';
import { Output, generateText, jsonSchema, stepCountIs, streamText, tool } from 'ai';
import {
  ADD_NOTE, CUT, FOUND_URL, LOOK, MCP, MODEL, PERSON, PNG_DATA, SEARCH_NOTES, SEARCH_WEB, STATUSES, THINK, URL, WEATHER, WEATHER_TWICE,
  drive, failure, has, refusal, steps, version,
} from './feature.mjs';

const sent = [];
const openai = createOpenAI({
  baseURL: URL,
  apiKey: 'none',
  fetch: (url, options) => {
    sent.push(options.body);
    return fetch(url, options);
  },
});
const asked = [];
const tools = {
  get_weather: tool({
    description: 'The weather in a city.',
    inputSchema: jsonSchema({ type: 'object', properties: { city: { type: 'string' } }, required: ['city'] }),
    execute: async ({ city }) => {
      asked.push(city);
      return `21 degrees in ${city}`;
    },
  }),
};
const common = { model: openai(MODEL), maxRetries: 0, stopWhen: stepCountIs(5) };
const play = (options) => generateText({ ...common, ...(typeof options === 'string' ? { prompt: options } : options) });

// The whole text of a stream, its result and the errors it told of.
async function streamed(options) {
  const errors = [];
  const onError = ({ error }) => errors.push(error);
  const result = streamText({ ...common, onError, ...(typeof options === 'string' ? { prompt: options } : options) });
  let said = '';
  for await (const piece of result.textStream) said += piece;
  return [said, result, errors];
}

const notes = (requireApproval) => ({ notes: openai.tools.mcp({ serverLabel: 'notes', serverUrl: MCP, requireApproval }) });
const user = (content) => ({ role: 'user', content });
const stored = (openai) => ({ providerOptions: { openai } });
const major = version('ai').split('.')[0];

await drive(`ai-sdk-${major}`, `${version('ai')} (@ai-sdk/openai ${version('@ai-sdk/openai')})`, {
  async text() {
    has((await play('Say hello there')).text, 'hello there');
  },
  async streaming() {
    const [said, result] = await streamed('Count to 5');
    has(said, '1 2 3 4 5');
    assert.equal(await result.finishReason, 'stop');
  },
  async tools() {
    has((await play({ prompt: WEATHER, tools })).text, '21 degrees in Paris');
    has((await streamed({ prompt: WEATHER, tools }))[0], '21 degrees in Paris');
  },
  async 'parallel tools'() {
    asked.length = 0;
    has((await streamed({ prompt: WEATHER_TWICE, tools }))[0], '21 degrees in Paris; 21 degrees in Rome');
    assert.deepEqual(asked.sort(), ['Paris', 'Rome']);
  },
  async 'structured output'() {
    const schema = jsonSchema({
      type: 'object',
      properties: { name: { type: 'string' }, age: { type: 'number' } },
      required: ['name', 'age'],
      additionalProperties: false,
    });
    const made = await play({ prompt: PERSON, output: Output.object({ schema }) });
    assert.deepEqual(made.output, { name: 'Ada', age: 36 });
  },
  async previous_response_id() {
    const first = await play('My name is Ada.');
    const previousResponseId = first.providerMetadata.openai.responseId;
    has((await play({ prompt: 'What is my name?', ...stored({ previousResponseId }) })).text, 'Ada');
  },
  async conversation() {
    const made = await fetch(`${URL}/conversations`, {
      method: 'POST',
      body: '{}',
      headers: { 'content-type': 'application/json', authorization: 'Bearer none' },
    });
    const conversation = (await made.json()).id;
    await play({ prompt: 'My name is Ada.', ...stored({ conversation }) });
    has((await play({ prompt: 'What is my name?', ...stored({ conversation }) })).text, 'Ada');
  },
  async item_reference() {
    const messages = [user('Say seashell')];
    const [, result] = await streamed({ messages });
    messages.push(...(await result.response).messages, user('Repeat what you said'));
    has((await play({ messages })).text, 'seashell');
    has(sent.at(-1), '"item_reference"');
    const program = steps(
      { think: 'One.', say: 'First this.', calls: [['get_weather', { city: 'Oslo' }]] },
      { think: 'Two.', calls: [['get_weather', { city: 'Rome' }], ['get_weather', { city: 'Paris' }]] },
      { say: 'Done.' },
    );
    const talk = [user(program)];
    const options = { tools, ...stored({ reasoningSummary: 'auto', forceReasoning: true }) };
    const [said, looped] = await streamed({ messages: talk, ...options });
    has(said, 'Done.');
    talk.push(...(await looped.response).messages, user(WEATHER_TWICE));
    has((await play({ messages: talk, ...options })).text, '21 degrees in Paris; 21 degrees in Rome');
  },
  async 'replayed history'() {
    const messages = [user(WEATHER)];
    messages.push(...(await play({ messages, tools, ...stored({ store: false }) })).response.messages);
    messages.push(user('Repeat what you said'));
    has((await play({ messages, ...stored({ store: false }) })).text, '21 degrees in Paris');
  },
  async mcp() {
    const tools = notes('never');
    has((await play({ prompt: SEARCH_NOTES, tools })).text, 'eleven minutes');
    for (const store of [true, false]) {
      const messages = [user(SEARCH_NOTES)];
      const [said, result] = await streamed({ messages, tools, ...stored({ store }) });
      has(said, 'eleven minutes');
      messages.push(...(await result.response).messages, user('Repeat what you said'));
      has((await play({ messages, tools, ...stored({ store }) })).text, 'eleven minutes');
    }
  },
  async 'mcp approval'() {
    const tools = notes('always');
    const messages = [user(ADD_NOTE)];
    const asked = await play({ messages, tools });
    const { approvalId } = asked.content.find((part) => part.type === 'tool-approval-request');
    const approval = { type: 'tool-approval-response', approvalId, approved: true, providerExecuted: true };
    messages.push(...asked.response.messages, { role: 'tool', content: [approval] });
    has((await streamed({ messages, tools }))[0], 'Kept as note');
  },
  async 'web search'() {
    const tools = { web_search: openai.tools.webSearch({}) };
    const made = await play({ prompt: SEARCH_WEB, tools });
    assert(made.sources.some((source) => source.url === FOUND_URL), JSON.stringify(made.sources));
    const [, result] = await streamed({ prompt: SEARCH_WEB, tools });
    assert((await result.sources).some((source) => source.url === FOUND_URL));
  },
  async reasoning() {
    for (const store of [true, false]) {
      const options = stored({ store, reasoningSummary: 'auto', forceReasoning: true });
      const messages = [user(THINK)];
      const first = await play({ messages, ...options });
      has(first.reasoningText, 'A hard one.');
      messages.push(...first.response.messages, user('Repeat what you said'));
      has((await play({ messages, ...options })).text, '42');
    }
  },
  async images() {
    const content = [
      { type: 'text', text: LOOK },
      { type: 'image', image: PNG_DATA, mediaType: 'image/png' },
    ];
    has((await play({ messages: [user(content)] })).text, 'data:image/png;base64');
  },
  async errors() {
    for (const status of STATUSES) {
      has(await failure(() => play(refusal(status))), `no ${status}`);
      has(JSON.stringify((await streamed(refusal(status)))[2]), `no ${status}`);
    }
  },
  async 'broken stream'() {
    const [said, result, errors] = await streamed(CUT);
    has(said, 'These words came');
    const reason = await result.finishReason.catch((error) => String(error));
    assert(errors.length || reason !== 'stop', 'nobody noticed');
    return `finish reason ${reason}, errors ${JSON.stringify(errors).slice(0, 200)}`;
  },
});
