import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { Server } from 'node:http';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { describe, expect, test } from '@jest/globals';
import { eventually } from '../harness/eventually.ts';
import { parseAnswers, problemOf, sendRaw } from '../harness/http.ts';
import { serveStub } from './serving.ts';
import { COMPLETE, ID, PENDING } from './stub-ledger.ts';

/** A connection that a test holds open, with what has come over it. */
async function open(
  port: number,
): Promise<{ socket: Socket; received: () => string; ended: Promise<unknown> }> {
  const socket = connect(port, '127.0.0.1');
  let text = '';
  socket.setEncoding('utf8').on('data', (more: string) => (text += more));
  socket.on('error', () => undefined);
  const ended = new Promise((resolve) => socket.once('close', resolve));
  await new Promise<void>((resolve) => socket.once('connect', resolve));
  return { socket, received: () => text, ended };
}

describe('a request that takes too long to arrive', () => {
  const bounds = { headersMs: 5_000, requestMs: 300, checkedMs: 20 };

  test('with its headers is 408', async () => {
    await using api = await serveStub({}, { bounds: { ...bounds, headersMs: 150 } });
    const [answer] = await sendRaw(api, 'GET /livez HTTP/1.1\r\nHost: x\r\n');
    expect(problemOf(answer!)).toEqual([408, 'request-timeout']);
  });

  test('with its body is 408 and records nothing', async () => {
    await using api = await serveStub({}, { bounds });
    const [answer] = await sendRaw(
      api,
      'POST /v1/opt-outs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\nContent-Type: application/json\r\n',
      'Content-Length: 39\r\n\r\n{"subject":{"email":"ada@example.com"}',
    );
    expect(problemOf(answer!)).toEqual([408, 'request-timeout']);
    expect(api.ledger.intents).toEqual([]);
  });

  test('with a body that keeps coming is waited for', async () => {
    // Each 64 KiB is worth a second: these bytes come over more than twice the time that a request has. The first of them came with
    // the headers and are worth nothing.
    const chunk = ' '.repeat(65_536);
    await using api = await serveStub({}, { bounds });
    const { socket, received } = await open(api.port);
    socket.write(
      `POST /v1/checks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\nContent-Type: application/json\r\n` +
        `Content-Length: ${11 * chunk.length + 12}\r\n\r\n{"items":[]${chunk}`,
    );
    for (let n = 0; n < 10; n += 1) {
      socket.write(chunk);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    socket.write('}');
    await eventually(() => expect(parseAnswers(received())).toMatchObject([{ status: 200 }]));
    socket.destroy();
  });

  test('holds up nobody else', async () => {
    await using api = await serveStub({}, { bounds: { ...bounds, requestMs: 5_000 } });
    const slow = await Promise.all(Array.from({ length: 50 }, () => open(api.port)));
    for (const { socket } of slow) socket.write('POST /v1/opt-outs HTTP/1.1\r\nHost: x\r\n');
    expect((await api.send('GET', '/livez')).status).toBe(200);
    for (const { socket } of slow) socket.destroy();
  });

  test('is not confused with an answer that takes long', async () => {
    await using api = await serveStub(
      {
        waitForPropagation: (_id, waitMs) =>
          new Promise((resolve) => setTimeout(() => resolve(COMPLETE), waitMs)),
      },
      { bounds },
    );
    const answer = await api.send('GET', `/v1/opt-outs/${ID}/propagation`, {
      key: 'shop',
      headers: { Prefer: 'wait=1' },
    });
    expect([answer.status, answer.json.state]).toEqual([200, 'complete']);
  });
});

describe('closing', () => {
  test('answers every long poll with what is known now, and accepts nobody new', async () => {
    let waiting = 0;
    const untilAborted = (signal: AbortSignal): Promise<void> => {
      waiting += 1;
      return new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));
    };
    await using api = await serveStub({
      waitForPropagation: async (_id, _ms, signal) => {
        await untilAborted(signal);
        return PENDING;
      },
      outstanding: async (_store, { signal }) => {
        await untilAborted(signal);
        return { generation: 1, targetSince: '2026-11-01T08:00:00.000Z', decisions: [], next: undefined };
      },
    });
    const headers = { Prefer: 'wait=30' };
    const calls = [
      api.send('POST', '/v1/opt-outs', {
        key: 'shop',
        headers,
        body: { subject: { email: 'a@example.com' } },
      }),
      api.send('GET', `/v1/opt-outs/${ID}/propagation`, { key: 'shop', headers }),
      api.send('GET', '/v1/stores/crm/outstanding', { key: 'crm', headers }),
    ];
    await eventually(() => expect(waiting).toBe(3));
    await api.listening.close();
    const answers = await Promise.all(calls);
    expect(answers.map(({ status }) => status)).toEqual([201, 200, 200]);
    expect(answers.map(({ headers: { connection } }) => connection)).toEqual(Array(3).fill('keep-alive'));
    await expect(api.send('GET', '/livez')).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  test('ends connections that idle, and lets a running request have its answer', async () => {
    let answer: (() => void) | undefined;
    await using api = await serveStub(
      { lag: () => new Promise((_resolve, reject) => (answer = () => reject(new Error('any answer')))) },
      // Longer than the test may take: a connection kept alive by its client must not wait for it.
      { bounds: { closeMs: 60_000 } },
    );
    const idle = await open(api.port);
    const running = await open(api.port);
    running.socket.write('GET /v1/propagation-lag HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\n\r\n');
    await eventually(() => expect(answer).toBeDefined());
    const closed = api.listening.close();
    await idle.ended;
    expect(running.received()).toBe('');
    answer!();
    await Promise.all([closed, running.ended]);
    expect(parseAnswers(running.received()).map(problemOf)).toEqual([[500, 'internal-error']]);
  });

  test('waits for nobody for ever', async () => {
    await using api = await serveStub(
      { lag: () => new Promise(() => undefined) },
      { bounds: { closeMs: 50 } },
    );
    const running = await open(api.port);
    running.socket.write('GET /v1/propagation-lag HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\n\r\n');
    await eventually(async () => expect((await api.send('GET', '/livez')).status).toBe(200));
    await api.listening.close();
    await running.ended;
    expect(running.received()).toBe('');
  });

  test('a request that comes on an open connection meanwhile is answered, and is the last one there', async () => {
    let answer: (() => void) | undefined;
    let came = false;
    await using api = await serveStub(
      { lag: () => new Promise((_resolve, reject) => (answer = () => reject(new Error('any answer')))) },
      { isReady: () => (came = true) },
    );
    const one = await open(api.port);
    one.socket.write('GET /v1/propagation-lag HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\n\r\n');
    await eventually(() => expect(answer).toBeDefined());
    const closed = api.listening.close();
    one.socket.write('GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n');
    await eventually(() => expect(came).toBe(true));
    answer!();
    await Promise.all([closed, one.ended]);
    const answers = parseAnswers(one.received());
    expect(answers.map(({ status, headers }) => [status, headers.connection])).toEqual([
      [500, 'keep-alive'],
      [200, 'close'],
    ]);
  });
});

// The first one was lost without a word, and the second one ended the process.
test('what the listener cannot do is logged every time, and it goes on', async () => {
  await using api = await serveStub();
  let server: Server | undefined;
  const find = (message: unknown): void => {
    ({ server } = message as { server: Server });
  };
  subscribe('http.server.request.start', find);
  await api.send('GET', '/livez');
  unsubscribe('http.server.request.start', find);

  for (const n of [1, 2]) server!.emit('error', Object.assign(new Error(`accept ${n}`), { code: 'EMFILE' }));

  const message = 'the listener could not do something, and goes on';
  expect(api.log).toMatchObject([
    { level: 'error', fields: { error: { code: 'EMFILE', message: 'accept 1' } }, message },
    { level: 'error', fields: { error: { code: 'EMFILE', message: 'accept 2' } }, message },
  ]);
  expect((await api.send('GET', '/livez')).status).toBe(200);
});
