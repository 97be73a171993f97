// Reads streams with the official Node client: node check_node.mjs FOLDER [WHERE]
// FOLDER holds .sse files (python -m tests.replay.cuts FOLDER writes them); WHERE has the node_modules with `openai`.
// Every stream must give the same terminal response to both of the client's readers. Ends with 1 when one does not.

import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, join, resolve } from 'node:path';

const [folder, where = '.'] = process.argv.slice(2);
const require = createRequire(resolve(where, 'here.js'));
const { default: OpenAI } = require('openai');
const { VERSION } = require('openai/version');

const client = (body) =>
  new OpenAI({
    apiKey: 'none',
    maxRetries: 0,
    fetch: async () => new Response(body, { headers: { 'content-type': 'text/event-stream' } }),
  });

const asked = { model: 'm', input: 'Hi' };

async function check(body) {
  const types = [];
  let last;
  for await (last of await client(body).responses.create({ ...asked, stream: true })) types.push(last.type);
  const status = last.response.status;
  if (last.type !== `response.${status}`) throw new Error(`${last.type} tells of ${status}`);
  if (!['completed', 'incomplete', 'failed'].includes(status)) throw new Error(`it ends as ${status}`);

  const helper = client(body).responses.stream(asked);
  const heard = [];
  for await (const event of helper) heard.push(event.type);
  if (heard.join() !== types.join()) throw new Error('the helper heard other events');
  const final = await helper.finalResponse();
  if (JSON.stringify(final.output.map((item) => item.id)) !== JSON.stringify(last.response.output.map((item) => item.id)))
    throw new Error('the helper gathered another output');
}

const files = readdirSync(folder).filter((name) => name.endsWith('.sse'));
let wrong = files.length ? 0 : 1;
for (const name of files) {
  try {
    await check(readFileSync(join(folder, name), 'utf8'));
  } catch (error) {
    wrong += 1;
    console.log(`${basename(name)}: ${error.message}`);
  }
}
console.log(`openai-node ${VERSION}: ${files.length} streams, ${wrong} wrong`);
process.exit(wrong ? 1 : 0);
