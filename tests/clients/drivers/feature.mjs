// What every driver for Node shares; the same as feature.py.
import { readFileSync } from 'node:fs';
import assert from 'node:assert/strict';

export const URL = process.env.DRIVE_URL;
export const MCP = process.env.DRIVE_MCP; // the URL of the MCP server of examples/; statecar may call it
export const MODEL = 'demo';
export const SLOW = 'demo-slow'; // writes 20 words a second
export const WEATHER = 'What is the weather in Paris?';
export const WEATHER_TWICE = 'What is the weather in Paris and in Rome?';
export const SEARCH_NOTES = 'Search the notes: how long does the oven take?';
export const ADD_NOTE = 'Add a note: the lamp is broken.';
export const SEARCH_WEB = 'Search the web for ovens';
export const FOUND_URL = 'https://ovens.example/hot';
export const PERSON = 'I am 36 years old and my name is Ada.';
export const PNG_DATA =
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==';
export const PNG = `data:image/png;base64,${PNG_DATA}`;

// A prompt that tells the scripted server what to do, reply by reply.
export const steps = (...played) => `STEPS ${JSON.stringify(played)}`;
export const LOOK = steps({ look: true });
export const THINK = steps({ think: 'A hard one.', say: 'It is 42.' });
export const STATUSES = [400, 429, 500];
export const refusal = (status) => steps({ refuse: [status, `no ${status}`] });
export const CUT = steps({ cut: 'These words came' });

// Every word stands in the text.
export function has(text, ...words) {
  for (const word of words) {
    assert(String(text).toLowerCase().includes(word.toLowerCase()), `${word} is not in ${JSON.stringify(text)}`);
  }
}

// Waits for the error that the attempt must end in; gives its text, causes included.
export async function failure(attempt) {
  try {
    await attempt();
  } catch (error) {
    return [error, error.cause, error.lastError].filter(Boolean).map((each) => `${each} ${each.responseBody ?? ''}`).join(' ');
  }
  throw new Error('nobody noticed');
}

function patience(seconds) {
  return new Promise((_, reject) => setTimeout(() => reject(new Error(`no end after ${seconds} s`)), seconds * 1000).unref());
}

// The version of a package installed beside the driver.
export function version(name) {
  return JSON.parse(readFileSync(`node_modules/${name}/package.json`, 'utf8')).version;
}

// Tries every feature and prints how it went; what a function returns is a note.
export async function drive(client, installed, features) {
  for (const [feature, attempt] of Object.entries(features)) {
    let ok = true;
    let note = '';
    try {
      note = String((await Promise.race([attempt(), patience(30)])) ?? '');
    } catch (error) {
      ok = false;
      note = String(error).slice(0, 500);
    }
    console.log(JSON.stringify({ client, version: installed, feature, ok, note }));
  }
  process.exit(0);
}
