// A client of the API that looks, at every answer, for what every answer must have, whatever the test is about.
import { connect } from 'node:net';
import { expect } from '@jest/globals';
import { request } from 'undici';
import type { Dispatcher } from 'undici';
import { ERRORS } from '../../suppression/errors.ts';
import type { ErrorCode } from '../../suppression/errors.ts';
import { expectDocumented } from './documented.ts';

export type Answer = {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | undefined>>;
  readonly text: string;
  /** The parsed body; undefined if there is none, or it is not JSON. */
  readonly json: any; // eslint-disable-line @typescript-eslint/no-explicit-any -- a test says what it expects
};

export type Ask = {
  readonly key?: string | undefined;
  /** Text and bytes go as they are, anything else as JSON. */
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string | string[]>>;
  readonly signal?: AbortSignal;
};

/** Answered once every store holds it: the longest wait that the API takes, of which an idle machine needs little. */
export const WHEN_COMPLETE = { prefer: 'wait=30' } as const;

export type Send = (method: Dispatcher.HttpMethod, path: string, ask?: Ask) => Promise<Answer>;

/** Whoever answers, and whatever: nothing is kept on the way, framed, run, guessed or told to another site. */
const ON_EVERY_ANSWER = {
  'cache-control': 'no-store',
  'content-security-policy': expect.stringMatching(/^default-src 'none'; .*frame-ancestors 'none'$/),
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
};

const REQUEST_ID = /^[0-9a-f-]{36}$/;

/** `look` is for listeners that are not the API's. */
export const createSend =
  (url: string, look = expectDocumented): Send =>
  async (method, path, { key, body, headers = {}, signal } = {}) => {
    const isRaw = typeof body === 'string' || body instanceof Uint8Array;
    const to = new URL(path, url);
    const answer = await request(to, {
      method,
      headers: {
        ...(key === undefined ? {} : { authorization: `Bearer ${key}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      body: body === undefined ? null : isRaw ? body : JSON.stringify(body),
      ...(signal === undefined ? {} : { signal }),
    });
    const checked = check({
      status: answer.statusCode,
      headers: Object.fromEntries(
        Object.entries(answer.headers).map(([name, value]) => [name, [value].flat().join(', ')]),
      ),
      text: await answer.body.text(),
    });
    look(method, to, checked);
    return checked;
  };

/** A busy machine may answer that this is too much at once and nothing was recorded: then it is asked again, as clients do. */
export async function answered(ask: () => Promise<Answer>): Promise<Answer> {
  for (;;) {
    const answer = await ask();
    if (answer.json?.code !== 'overloaded') return answer;
  }
}

/** Sends bytes as they are, with `ends` also their end, and reads until the server ends the connection. */
export async function sendRaw(
  { port, ends = false }: { port: number; ends?: boolean },
  ...chunks: string[]
): Promise<Answer[]> {
  const socket = connect(port, '127.0.0.1');
  const received: Buffer[] = [];
  socket.on('data', (chunk) => received.push(chunk as Buffer)).on('error', () => undefined);
  for (const chunk of chunks) socket.write(chunk);
  if (ends) socket.end();
  await new Promise((resolve) => socket.once('close', resolve));
  return parseAnswers(Buffer.concat(received).toString());
}

/** The answers that stand in a connection's text, one after the other. */
export function parseAnswers(text: string): Answer[] {
  const answers: Answer[] = [];
  for (let rest = text; rest !== '';) {
    const end = rest.indexOf('\r\n\r\n');
    const [statusLine = '', ...lines] = rest.slice(0, end).split('\r\n');
    const headers = Object.fromEntries(
      lines.map((line) => [
        line.slice(0, line.indexOf(':')).toLowerCase(),
        line.slice(line.indexOf(':') + 1).trim(),
      ]),
    );
    const body = Buffer.from(rest.slice(end + 4));
    const length = Number(headers['content-length']);
    answers.push(
      check({
        status: Number(statusLine.split(' ')[1]),
        headers,
        text: body.subarray(0, length).toString(),
      }),
    );
    rest = body.subarray(length).toString();
  }
  return answers;
}

function check(answer: Omit<Answer, 'json'>): Answer {
  const { status, headers, text } = answer;
  expect(headers['x-request-id']).toMatch(REQUEST_ID);
  expect(headers).toMatchObject(ON_EVERY_ANSWER);
  const isJson = /^application\/(?:problem\+)?json\b/.test(headers['content-type'] ?? '');
  const json: unknown = isJson && text !== '' ? JSON.parse(text) : undefined;
  // A lag that a pager asked to fail on is an answer of its own kind.
  if (status >= 400 && !(status === 503 && headers['content-type']?.startsWith('application/json'))) {
    expect(headers['content-type']).toMatch(/^application\/problem\+json\b/);
    if (text !== '') expectProblemForm(json, answer);
  }
  return { ...answer, json };
}

const WITH_FAULTS: readonly ErrorCode[] = ['invalid-value', 'grant-not-later', 'erasure-too-early'];

/** RFC 9457, with the members that Abide promises and no other, as the table has them. */
function expectProblemForm(problem: unknown, { status, headers }: Omit<Answer, 'json'>): void {
  const { code } = problem as { code: ErrorCode };
  expect(ERRORS).toHaveProperty([code]);
  expect(problem).toEqual({
    type: `urn:abide:problem:${code}`,
    title: ERRORS[code].title,
    status: ERRORS[code].status,
    detail: expect.stringMatching(/\S/),
    code,
    request_id: headers['x-request-id'],
    retryable: ERRORS[code].retryable,
    ...(WITH_FAULTS.includes(code) ? { errors: expect.any(Array) } : {}),
  });
  expect(status).toBe(ERRORS[code].status);
  if (ERRORS[code].retryable && [409, 429, 503].includes(status))
    expect(headers['retry-after']).toMatch(/^[1-9]\d*$/);
}

/** What a test says of an error, in a row: status, code and, if values are at fault, their pointers. */
export const problemOf = ({ status, json }: Answer): unknown[] => [
  status,
  json?.code,
  ...(json?.errors === undefined ? [] : [json.errors.map((fault: { pointer: string }) => fault.pointer)]),
];
