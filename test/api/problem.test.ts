// Every error that leaves is a problem: ours, the framework's and Node's own. The client of these tests (test/harness/http.ts)
// checks that each answer has its X-Request-Id, and each problem its form.
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { toProblem } from '../../api/problem.ts';
import { AbideError, ERRORS } from '../../suppression/errors.ts';
import type { ErrorCode } from '../../suppression/errors.ts';
import { problemOf, sendRaw } from '../harness/http.ts';
import { serveStub } from './serving.ts';
import type { ServedStub } from './serving.ts';
import { ID } from './stub-ledger.ts';

let api: ServedStub;
beforeAll(async () => {
  api = await serveStub();
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const optOut = '{"subject":{"email":"ada@example.com"}}';
const head = (...lines: string[]): string => `${lines.join('\r\n')}\r\n\r\n`;

test.each(Object.keys(ERRORS) as ErrorCode[])('%s is a problem as the table has it', (code) => {
  const plain = toProblem(new AbideError(code), 'id');
  const { status, title, retryable, help } = ERRORS[code];
  expect(plain).toEqual({
    type: `urn:abide:problem:${code}`,
    title,
    status,
    detail: help,
    code,
    request_id: 'id',
    retryable,
  });
  expect(toProblem(new AbideError(code, 'More.'), 'id').detail).toBe('More.');
});

describe('a path that is not there', () => {
  test.each([
    '/index.html',
    '/v1',
    '/v3/opt-outs',
    '/V1/opt-outs',
    '/v1/Opt-Outs',
    '/v1/opt-outs/a/b',
    `/v1/opt-outs/${ID}/propagation/more`,
    '/v1/transport-keys',
    '/v1//opt-outs',
    '/v1/../admin',
    '/favicon.ico',
    '/v1/opt-outs%00',
  ])('%s is 404', async (path) => {
    for (const method of ['GET', 'POST', 'DELETE'] as const)
      expect(problemOf(await api.send(method, path, { key: 'shop' }))).toEqual([404, 'not-found']);
  });

  test.each(['/v1/opt-outs/%', '/v1/opt-outs/%E0%A4%A', '/v1/stores/%ff/outstanding'])(
    '%s, which cannot be decoded, is no failure of ours',
    async (path) => {
      const [answer] = await sendRaw(
        api,
        head(`GET ${path} HTTP/1.1`, 'Host: x', 'Authorization: Bearer shop', 'Connection: close'),
      );
      expect(answer!.status).toBeGreaterThanOrEqual(400);
      expect(answer!.status).toBeLessThan(500);
    },
  );

  test.each([
    'not-an-id',
    ID.toUpperCase(),
    `${ID}0`,
    '0199aaaa-0000-7000-8000-000000000009',
    '%00',
    "'; drop table opt_outs; --",
    'x'.repeat(8_000),
  ])('an opt-out that is not there, or not an id, is 404: %s', async (id) => {
    for (const rest of ['', '/propagation'])
      expect(
        problemOf(await api.send('GET', `/v1/opt-outs/${encodeURIComponent(id)}${rest}`, { key: 'shop' })),
      ).toEqual([404, 'not-found']);
  });
});

describe('another method', () => {
  test.each([
    ['/v1/opt-outs', 'POST, HEAD, GET'],
    [`/v1/opt-outs/${ID}`, 'HEAD, GET'],
    [`/v1/opt-outs/${ID}/propagation`, 'HEAD, GET'],
  ])(
    'of DELETE, PUT, PATCH on %s is 405: opt-outs are irreversible, for whoever asks',
    async (path, allow) => {
      for (const method of ['DELETE', 'PUT', 'PATCH'] as const)
        for (const key of ['shop', undefined]) {
          const answer = await api.send(method, path, { key, body: {} });
          expect(problemOf(answer)).toEqual([405, 'opt-outs-are-irreversible']);
          expect(answer.headers.allow).toBe(allow);
          expect(answer.json.detail).toBe(
            'Only the person can take an opt-out back, by a later consent with evidence.',
          );
        }
    },
  );

  test.each([
    ['POST', `/v1/opt-outs/${ID}`, 'HEAD, GET'],
    ['OPTIONS', '/v1/opt-outs', 'POST, HEAD, GET'],
    ['GET', '/v1/checks', 'POST'],
    ['DELETE', '/v1/checks', 'POST'],
    ['GET', '/v1/subjects/lookup', 'POST'],
    ['POST', '/v1/propagation-lag', 'HEAD, GET'],
    ['GET', '/v1/acknowledgements', 'POST'],
    ['DELETE', '/v1/stores/crm/outstanding', 'HEAD, GET'],
    ['PUT', '/v1/transport-keys/1', 'HEAD, GET'],
    ['POST', '/metrics', 'HEAD, GET'],
    ['TRACE', '/livez', 'HEAD, GET'],
  ] as const)('%s %s is 405 and says which are allowed', async (method, path, allow) => {
    const answer = await api.send(method, path, { key: 'shop' });
    expect(problemOf(answer)).toEqual([405, 'method-not-allowed']);
    expect(answer.headers.allow).toBe(allow);
  });

  test('of HEAD is GET without a body, also where it fails', async () => {
    const found = await api.send('HEAD', `/v1/opt-outs/${ID}`, { key: 'shop' });
    const missing = await api.send('HEAD', '/v1/opt-outs/nothing', { key: 'shop' });
    expect([found.status, found.text, missing.status, missing.text]).toEqual([200, '', 404, '']);
  });
});

describe('what Node refuses by itself', () => {
  test.each([
    [
      'headers too large',
      431,
      'headers-too-large',
      head('GET /livez HTTP/1.1', 'Host: x', `X: ${'x'.repeat(17_000)}`),
    ],
    ['a path too long', 431, 'headers-too-large', head(`GET /${'x'.repeat(17_000)} HTTP/1.1`, 'Host: x')],
    ['no HTTP at all', 400, 'invalid-request', 'hello\r\n\r\n'],
    ['a TLS hello', 400, 'invalid-request', '\x16\x03\x01\x02\x00\x01'],
    ['an unknown method', 400, 'invalid-request', head('BREW / HTTP/1.1', 'Host: x')],
    ['HTTP/2 by surprise', 400, 'invalid-request', 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n'],
    ['a tunnel', 400, 'invalid-request', head('CONNECT x:1 HTTP/1.1', 'Host: x')],
  ])('%s is %i %s', async (_what, status, code, text) => {
    const [answer] = await sendRaw(api, text);
    expect(problemOf(answer!)).toEqual([status, code]);
    expect(answer!.headers.connection).toBe('close');
  });

  test('a request without Host is 400, and HTTP/1.0 needs none', async () => {
    const [refused] = await sendRaw(api, head('GET /livez HTTP/1.1', 'Connection: close'));
    expect(problemOf(refused!)).toEqual([400, 'invalid-request']);
    expect(refused!.json.detail).toBe('HTTP/1.1 needs a Host header.');
    const [old] = await sendRaw(api, head('GET /livez HTTP/1.0'));
    expect(old!.status).toBe(200);
  });

  test('an expectation of anything but 100-continue is not met and not refused', async () => {
    const [answer] = await sendRaw(
      api,
      head('GET /livez HTTP/1.1', 'Host: x', 'Expect: miracles', 'Connection: close'),
    );
    expect(answer!.status).toBe(200);
  });

  test('an upgrade is not made: the request is answered as it is', async () => {
    const [answer] = await sendRaw(
      api,
      head('GET /livez HTTP/1.1', 'Host: x', 'Connection: upgrade, close', 'Upgrade: websocket'),
    );
    expect(answer!.status).toBe(200);
  });

  test('rubbish behind a request does not become the answer of that request', async () => {
    const request = head(
      'POST /v1/opt-outs HTTP/1.1',
      'Host: x',
      'Authorization: Bearer shop',
      'Content-Type: application/json',
      `Content-Length: ${optOut.length}`,
    );
    const answers = await sendRaw(api, `${request}${optOut}hello\r\n\r\n`);
    expect(answers.map(({ status }) => status)).toEqual([201]);
  });

  test('a client that resets its connection leaves the server as it was', async () => {
    const socket = connect(api.port, '127.0.0.1');
    await new Promise<void>((resolve) => socket.once('connect', resolve));
    socket.write('POST /v1/opt-outs HTTP/1.1\r\nHost: x\r\nContent-Le');
    socket.resetAndDestroy();
    await new Promise((resolve) => socket.once('close', resolve));
    expect((await api.send('GET', '/livez')).status).toBe(200);
  });
});

describe('a failure of ours', () => {
  test('says nothing of itself to the client, and everything to the log, under one id', async () => {
    const cause = new Error('relation "decisions" does not exist: ada@example.com');
    await using broken = await serveStub({ findOptOut: () => Promise.reject(cause) });
    const answer = await broken.send('GET', `/v1/opt-outs/${ID}`, { key: 'shop' });
    expect(problemOf(answer)).toEqual([500, 'internal-error']);
    expect(answer.json.detail).toBe('Quote `request_id` when you report it.');
    expect(broken.log).toEqual([
      {
        level: 'error',
        fields: { error: cause, requestId: answer.headers['x-request-id'] },
        message: 'a request failed',
      },
    ]);
  });

  // Seen: a row sealed under a key that the ring had lost was answered 500 KEYS_MISSING, and the log had no line about it.
  test.each(['KEYS_MISSING', 'SEALED_UNREADABLE'] as const)(
    '%s in a request is logged as well',
    async (code) => {
      await using broken = await serveStub({ findOptOut: () => Promise.reject(new AbideError(code)) });
      const answer = await broken.send('GET', `/v1/opt-outs/${ID}`, { key: 'shop' });
      expect(problemOf(answer)).toEqual([500, code]);
      expect(broken.log).toEqual([
        {
          level: 'error',
          fields: { error: expect.objectContaining({ code }), requestId: answer.headers['x-request-id'] },
          message: 'a request failed',
        },
      ]);
    },
  );

  test.each([
    [
      'an error with a status and exposed',
      Object.assign(new Error('x'), { status: 400, expose: true }),
      400,
      'invalid-request',
    ],
    [
      'an error with a status and hidden',
      Object.assign(new Error('x'), { status: 400 }),
      500,
      'internal-error',
    ],
    [
      'an error that claims a 5xx',
      Object.assign(new Error('x'), { status: 502, expose: true }),
      500,
      'internal-error',
    ],
    ['no error at all', null, 500, 'internal-error'],
    ['a text', 'oh', 500, 'internal-error'],
  ])('%s becomes %i', async (_what, thrown, status, code) => {
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- whatever a library may throw
    await using broken = await serveStub({ lag: () => Promise.reject(thrown) });
    expect(problemOf(await broken.send('GET', '/v1/propagation-lag', { key: 'shop' }))).toEqual([
      status,
      code,
    ]);
  });

  test.each([
    ['idempotency-key-in-use', 409],
    ['overloaded', 503],
    ['ledger-unavailable', 503],
    ['too-many-requests', 429],
  ] as const)('%s says when to come again', async (code, status) => {
    await using busy = await serveStub({
      record: (intent) =>
        Promise.reject(
          new AbideError(code, undefined, intent.note === undefined ? {} : { retryAfterSeconds: 9 }),
        ),
    });
    const ask = (note?: string) =>
      busy.send('POST', '/v1/opt-outs', { key: 'shop', body: { subject: { email: 'a@example.com' }, note } });
    const [plain, told] = [await ask(), await ask('said')];
    expect([plain.status, plain.json.retryable]).toEqual([status, true]);
    expect([plain.headers['retry-after'], told.headers['retry-after']]).toEqual(['1', '9']);
  });
});

test('every answer has a request id of its own, whatever the client sends', async () => {
  const answers = await Promise.all(
    Array.from({ length: 20 }, () => api.send('GET', '/livez', { headers: { 'X-Request-Id': 'mine' } })),
  );
  expect(new Set(answers.map(({ headers }) => headers['x-request-id'])).size).toBe(20);
});
