// Request smuggling: bytes that a proxy before us could take apart otherwise than we do, so that a request of one client would be
// read as the beginning of another's. Such a request has one answer, 400, and is the last of its connection; nobody reads what
// follows it.
import { afterAll, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { problemOf, sendRaw } from '../harness/http.ts';
import { countRows } from './unchanged.ts';

let api: ServedToClients;
let before: Record<string, number>;
beforeAll(async () => {
  api = await serveToClients();
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});
beforeEach(async () => {
  before = await countRows(api.t);
});

const body = JSON.stringify({ subject: { email: 'ada@example.com' } });

/** The head of a POST with these lines besides those that it needs. */
const head = (...lines: string[]): string =>
  [
    'POST /v1/opt-outs HTTP/1.1',
    'Host: abide.test',
    `Authorization: Bearer ${api.key}`,
    'Content-Type: application/json',
    ...lines,
    '',
    '',
  ].join('\r\n');

/** What the attacker would have taken for a request of its own. */
const hidden = (): string => `${head(`Content-Length: ${body.length}`)}${body}`;
const chunk = (text: string, extension = ''): string =>
  `${text.length.toString(16)}${extension}\r\n${text}\r\n`;
const END = '0\r\n\r\n';

const SHAPES: Record<string, () => string> = {
  'a length and chunks': () => `${head('Content-Length: 5', 'Transfer-Encoding: chunked')}${END}${hidden()}`,
  'chunks and a length': () =>
    `${head('Transfer-Encoding: chunked', `Content-Length: ${body.length}`)}${chunk(body)}${END}`,
  'two lengths': () => `${head('Content-Length: 0', `Content-Length: ${body.length}`)}${body}${hidden()}`,
  'the same length twice': () =>
    `${head(`Content-Length: ${body.length}`, `Content-Length: ${body.length}`)}${body}`,
  'a list of lengths': () => `${head(`Content-Length: ${body.length}, ${body.length}`)}${body}`,
  'a length with a sign': () => `${head(`Content-Length: +${body.length}`)}${body}`,
  'a negative length': () => `${head('Content-Length: -1')}${hidden()}`,
  'a length in hexadecimal': () => `${head(`Content-Length: 0x${body.length.toString(16)}`)}${body}`,
  'a length with a space in it': () => `${head('Content-Length: 1 0')}${hidden()}`,
  'an empty length': () => `${head('Content-Length: ')}${hidden()}`,
  'a length beyond any number': () => `${head(`Content-Length: ${'9'.repeat(40)}`)}${hidden()}`,
  'a coding that is not known': () => `${head('Transfer-Encoding: xchunked')}${chunk(body)}${END}${hidden()}`,
  'no coding at all': () => `${head('Transfer-Encoding: identity')}${hidden()}`,
  'chunks not last': () => `${head('Transfer-Encoding: chunked, identity')}${chunk(body)}${END}${hidden()}`,
  'chunks twice': () => `${head('Transfer-Encoding: chunked, chunked')}${chunk(body)}${END}${hidden()}`,
  'two codings in two lines': () =>
    `${head('Transfer-Encoding: chunked', 'Transfer-Encoding: identity')}${chunk(body)}${END}${hidden()}`,
  'a coding behind a tab': () =>
    `${head('Transfer-Encoding:\tchunked', 'Content-Length: 4')}${END}${hidden()}`,
  'a coding behind a vertical tab': () => `${head('Transfer-Encoding: \x0bchunked')}${chunk(body)}${END}`,
  'a space before the colon': () => `${head('Transfer-Encoding : chunked')}${chunk(body)}${END}${hidden()}`,
  'a space before the name': () => `${head(' Transfer-Encoding: chunked')}${chunk(body)}${END}${hidden()}`,
  'a folded line': () => `${head('X-A: b', '\tTransfer-Encoding: chunked')}${chunk(body)}${END}${hidden()}`,
  'a folded length': () => `${head('Content-Length:', ` ${body.length}`)}${body}`,
  'a header without a colon': () => `${head('Transfer-Encoding chunked')}${hidden()}`,
  'a NUL in a header': () => `${head('X-A: b\0c')}${hidden()}`,
  'a return within a header': () => `${head('X-A: b\rContent-Length: 5')}${hidden()}`,
  'lines that end without a return': () =>
    `${head(`Content-Length: ${body.length}`).replaceAll('\r\n', '\n')}${body}`,
  'one line that ends without a return': () =>
    `${head('X-A: b\nTransfer-Encoding: chunked')}${chunk(body)}${END}${hidden()}`,
  'a chunk longer than it says': () => `${head('Transfer-Encoding: chunked')}1\r\n${body}\r\n${END}`,
  'a chunk of no number': () => `${head('Transfer-Encoding: chunked')}z\r\n${body}\r\n${END}`,
  'a chunk of a negative length': () => `${head('Transfer-Encoding: chunked')}-1\r\n${body}\r\n${END}`,
  'a chunk with 0x before its length': () =>
    `${head('Transfer-Encoding: chunked')}0x${chunk(body)}${END}${hidden()}`,
  'a chunk whose length does not fit': () =>
    `${head('Transfer-Encoding: chunked')}${'f'.repeat(17)}\r\n${body}\r\n${END}`,
  'a chunk that ends without a return': () =>
    `${head('Transfer-Encoding: chunked')}${body.length.toString(16)}\n${body}\r\n${END}${hidden()}`,
  'a chunk extension that ends without a return': () =>
    `${head('Transfer-Encoding: chunked')}${body.length.toString(16)};\n${body}\r\n${END}${hidden()}`,
  'a chunk extension with a return in it': () =>
    `${head('Transfer-Encoding: chunked')}${chunk(body, ';a=\rb')}${END}${hidden()}`,
  'chunk extensions without end': () =>
    `${head('Transfer-Encoding: chunked')}${chunk(body, `;${'x'.repeat(40_000)}`)}${END}${hidden()}`,
  'two hosts': () => `${head('Host: evil.test', `Content-Length: ${body.length}`)}${body}`,
  'two hosts with thousands of headers between them': () =>
    `${head(...Array<string>(2_500).fill('a:'), 'Host: evil.test', `Content-Length: ${body.length}`)}${body}`,
  'two credentials': () => `${head('Authorization: Bearer other', `Content-Length: ${body.length}`)}${body}`,
  'two types': () => `${head('Content-Type: text/plain', `Content-Length: ${body.length}`)}${body}`,
  'a version that is not HTTP': () => hidden().replace('HTTP/1.1', 'HTTP/9.9'),
  'a tab in the first line': () => hidden().replace('POST /', 'POST\t/'),
  'a line without a version': () => hidden().replace(' HTTP/1.1', ''),
};

describe('is refused once, closes its connection and records nothing', () => {
  test.each(Object.keys(SHAPES))('%s', async (name) => {
    const answers = await sendRaw(api, SHAPES[name]!());
    expect(answers.map((answer) => [...problemOf(answer), answer.headers.connection])).toEqual([
      [400, 'invalid-request', 'close'],
    ]);
    expect(await countRows(api.t)).toEqual(before);
  });
});

test('what these are made of is taken where nothing is doubtful, or they would show nothing', async () => {
  const sound = [
    `${head(`Content-Length: ${body.length}`)}${body}`,
    `${head('Transfer-Encoding: chunked')}${chunk(body, ';name="value"')}${END}`,
    `${head('Connection: close', 'Transfer-Encoding: chunked')}${chunk(body.slice(0, 9))}${chunk(body.slice(9))}${END}`,
  ];
  const answers = await sendRaw(api, ...sound);
  expect(answers.map(({ status }) => status)).toEqual([201, 200, 200]);
});

test.each([
  '/v1/%6fpt-outs',
  '/v1/checks/%2e%2e/opt-outs',
  '/v1/checks/..%2fopt-outs',
  '/v1/opt-outs;a=b',
  '/v1\\opt-outs',
  '//v1/opt-outs',
  '/v1/opt-outs%3flimit=1',
])('a path in disguise is no path of ours: %s', async (path) => {
  const [answer] = await sendRaw(
    api,
    `${head('Connection: close', `Content-Length: ${body.length}`).replace('/v1/opt-outs', path)}${body}`,
  );
  expect(answer!.status).toBe(404);
  expect(await countRows(api.t)).toEqual(before);
});
