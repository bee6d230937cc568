// docs/client.md is true, and its example runs against Abide as its users run it.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createAbide } from 'abide/client';
import { CLIENT_CODES } from '../../client/problem.ts';
import { startAbide } from '../harness/abide.ts';
import type { AbideProcess } from '../harness/abide.ts';
import { after, blocksOf, readPage, tableOf } from './markdown.ts';

const page = readPage('docs/client.md');

let abide: AbideProcess;
const before = { ...process.env };
beforeAll(async () => {
  abide = await startAbide();
});
afterAll(async () => {
  process.env = before;
  await abide[Symbol.asyncDispose]();
});

test('the example is the one that is run here', () => {
  expect(blocksOf(after(page, 'example: client.ts'), 'ts')[0]).toBe(readPage('docs/examples/client.ts'));
});

test('the example opts somebody out, finds every store abiding by it, and leaves her out afterwards', async () => {
  Object.assign(process.env, { ABIDE_URL: abide.url, ABIDE_KEY: abide.key });
  const { unsubscribe, reachable, pending } = await import('../../docs/examples/client.ts');
  const everybody = ['ada@example.com', 'grace@example.com'];
  expect(await reachable(everybody)).toEqual(everybody);
  expect(await unsubscribe('ada@example.com', 'ticket-4711')).toBe(true);
  expect(await unsubscribe('ada@example.com', 'ticket-4711')).toBe(true);
  expect(await reachable(everybody)).toEqual(['grace@example.com']);
  expect(await pending()).toEqual([]);
});

test('the page names every function, and no other', () => {
  const client = createAbide({ url: abide.url, key: abide.key });
  const functions = Object.entries(client).flatMap(([name, member]) =>
    typeof member === 'function' ? [name] : Object.keys(member).map((one) => `${name}.${one}`),
  );
  const named = tableOf(page.slice(page.indexOf('| function ')))
    .map(([cell]) => /^`([\w.]+)\(/.exec(cell!)?.[1])
    .sort();
  expect(named).toEqual(functions.sort());
});

test("the page names every code of the client's own, and no other", () => {
  const named = tableOf(page.slice(page.indexOf("| the client's own code "))).map(([cell]) => cell);
  expect(named).toEqual(CLIENT_CODES.map((code) => `\`${code}\``));
});
