import { connect } from 'node:net';
import { describe, expect, test } from '@jest/globals';
import { ROOMS } from '../../../api/guard/rooms.ts';
import { eventually } from '../../harness/eventually.ts';
import { parseAnswers, problemOf } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';
import { AT, COMPLETE, ID, LAG } from '../stub-ledger.ts';

const FULL = [503, 'overloaded'];
const optOut = { subject: { email: 'ada@example.com' } };
const PAGE = { generation: 1, targetSince: '2026-11-01T08:00:00.000Z', decisions: [], next: undefined };
const waiting = { Prefer: 'wait=30' };

/** Holds up what the ledger is asked meanwhile, until it is let go. */
function holdUp<T>(answer: T) {
  const held: (() => void)[] = [];
  return {
    ask: () => new Promise<T>((resolve) => held.push(() => resolve(answer))),
    get count() {
      return held.length;
    },
    letGo: () => held.splice(0).forEach((go) => go()),
  };
}

const heldIn = async (api: ServedStub, room: string): Promise<number> => {
  const { text } = await api.sendOps('GET', '/metrics');
  return Number(new RegExp(`^abide_http_requests_held\\{room="${room}"\\} (\\d+)$`, 'm').exec(text)?.[1]);
};
const refusedFor = async (api: ServedStub, of: string): Promise<number> => {
  const { text } = await api.sendOps('GET', '/metrics');
  return Number(new RegExp(`^abide_overloaded_total\\{of="${of}"\\} (\\d+)$`, 'm').exec(text)?.[1] ?? 0);
};

describe('where clients have no room left', () => {
  test('they are told to come again, workers and health are answered, and afterwards so are they', async () => {
    const checks = holdUp({ asOf: AT, items: [] });
    await using api = await serveStub({ checkSendable: checks.ask }, { rooms: { ...ROOMS, clients: 2 } });
    const check = () => api.send('POST', '/v1/checks', { key: 'shop', body: { items: [] } });
    const first = [check(), check()];
    await eventually(() => expect(checks.count).toBe(2));

    const refused = await api.send('POST', '/v1/opt-outs', { key: 'shop', body: optOut });
    expect(problemOf(refused)).toEqual(FULL);
    expect(refused.headers['retry-after']).toBe('1');
    expect(api.ledger.intents).toEqual([]);
    const others = await Promise.all([
      api.send('GET', '/v1/stores/crm/canary', { key: 'crm' }),
      api.send('GET', '/livez'),
      api.send('GET', '/readyz'),
    ]);
    expect(others.map(({ status }) => status)).toEqual([200, 200, 200]);
    expect([await heldIn(api, 'clients'), await refusedFor(api, 'clients')]).toEqual([2, 1]);

    checks.letGo();
    await Promise.all(first);
    expect((await api.send('POST', '/v1/opt-outs', { key: 'shop', body: optOut })).status).toBe(201);
  });

  test('a client that left gives its place back once nothing works on it any more', async () => {
    const lag = holdUp(LAG);
    await using api = await serveStub({ lag: lag.ask }, { rooms: { ...ROOMS, clients: 2 } });
    const socket = connect(api.port, '127.0.0.1');
    const ask = 'GET /v1/propagation-lag HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\n\r\n';
    // The second waits behind the first: it never has its turn to be sent.
    socket.write(ask.repeat(2));
    await eventually(() => expect(lag.count).toBe(2));
    socket.destroy();
    const post = () => api.send('POST', '/v1/opt-outs', { key: 'shop', body: optOut });
    expect(problemOf(await post())).toEqual(FULL);
    lag.letGo();
    await eventually(async () => expect((await post()).status).toBe(201));
  });
});

test('where workers have no room left, clients have', async () => {
  const pages = holdUp(PAGE);
  await using api = await serveStub({ outstanding: pages.ask }, { rooms: { ...ROOMS, workers: 1 } });
  const ask = () => api.send('GET', '/v1/stores/crm/outstanding', { key: 'crm' });
  const first = ask();
  await eventually(() => expect(pages.count).toBe(1));
  expect(problemOf(await ask())).toEqual(FULL);
  expect((await api.send('POST', '/v1/opt-outs', { key: 'shop', body: optOut })).status).toBe(201);
  pages.letGo();
  await first;
});

test('whoever shows no key takes no room from workers', async () => {
  const keys = holdUp(undefined);
  await using api = await serveStub({}, { rooms: { ...ROOMS, door: 1 } });
  const authenticate = api.ledger.authenticate.bind(api.ledger);
  api.ledger.authenticate = (token) => (token === 'made-up' ? keys.ask() : authenticate(token));
  const first = api.send('GET', '/v1/opt-outs', { key: 'made-up' });
  await eventually(() => expect(keys.count).toBe(1));
  expect(problemOf(await api.send('GET', '/v1/opt-outs', { key: 'made-up' }))).toEqual(FULL);
  expect((await api.send('GET', '/v1/stores/crm/canary', { key: 'crm' })).status).toBe(200);
  keys.letGo();
  expect((await first).status).toBe(401);
});

describe('answers that are held', () => {
  const untilAborted = (signal: AbortSignal): Promise<void> =>
    new Promise((resolve) => signal.addEventListener('abort', () => resolve(), { once: true }));

  test('have room of their own, and beyond it an opt-out is answered at once, recorded', async () => {
    let begun = 0;
    await using api = await serveStub(
      {
        waitForPropagation: async (_id, _ms, signal) => {
          begun += 1;
          await untilAborted(signal);
          return COMPLETE;
        },
      },
      { rooms: { ...ROOMS, clients: 1, waits: 2 } },
    );
    const read = () => api.send('GET', `/v1/opt-outs/${ID}/propagation`, { key: 'shop', headers: waiting });
    const held = [read()];
    await eventually(() => expect(begun).toBe(1));
    held.push(read());
    await eventually(() => expect(begun).toBe(2));

    expect(problemOf(await read())).toEqual(FULL);
    const recorded = await api.send('POST', '/v1/opt-outs', { key: 'shop', headers: waiting, body: optOut });
    expect([recorded.status, recorded.headers['preference-applied']]).toEqual([201, undefined]);
    expect(await refusedFor(api, 'waits')).toBe(2);
    await api.listening.close();
    expect((await Promise.all(held)).map(({ status }) => status)).toEqual([200, 200]);
  });

  test('of workers have theirs', async () => {
    let begun = 0;
    await using api = await serveStub(
      {
        outstanding: async (_store, { signal }) => {
          begun += 1;
          await untilAborted(signal);
          return PAGE;
        },
      },
      { rooms: { ...ROOMS, workers: 1, worker_waits: 1 } },
    );
    const poll = () => api.send('GET', '/v1/stores/crm/outstanding', { key: 'crm', headers: waiting });
    const held = poll();
    await eventually(() => expect(begun).toBe(1));
    expect(problemOf(await poll())).toEqual(FULL);
    expect((await api.send('GET', '/v1/stores/crm/canary', { key: 'crm' })).status).toBe(200);
    await api.listening.close();
    expect((await held).status).toBe(200);
  });
});

test('of large bodies no more are kept than there is room for, and small ones need none', async () => {
  const checks = holdUp({ asOf: AT, items: [] });
  await using api = await serveStub({ checkSendable: checks.ask }, { bodyBytes: 100_000 });
  const check = () =>
    api.send('POST', '/v1/checks', { key: 'shop', body: `{"items":[]}${' '.repeat(60_000)}` });
  const first = check();
  await eventually(() => expect(checks.count).toBe(1));
  expect(problemOf(await check())).toEqual(FULL);
  expect((await api.send('POST', '/v1/opt-outs', { key: 'shop', body: optOut })).status).toBe(201);
  expect(await refusedFor(api, 'bodies')).toBe(1);
  checks.letGo();
  await first;
  const next = check();
  await eventually(() => expect(checks.count).toBe(1));
  checks.letGo();
  expect((await next).status).toBe(200);
});

describe('one connection', () => {
  test('has no more than some requests at work, and all are answered in their order', async () => {
    const lag = holdUp(LAG);
    await using api = await serveStub({ lag: lag.ask });
    const socket = connect(api.port, '127.0.0.1');
    let received = '';
    socket.setEncoding('utf8').on('data', (text: string) => (received += text));
    // Each is larger than what Node reads at once: as many are at work as were read.
    const body = `{"items":[]}${' '.repeat(70_000)}`;
    const post = `POST /v1/checks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
    const ask = 'GET /v1/propagation-lag HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\n\r\n';
    for (let n = 0; n < 60; n += 1) socket.write(ask + post);
    await eventually(() => expect(lag.count).toBeGreaterThan(10));
    await eventually(async () => expect((await api.send('GET', '/livez')).status).toBe(200));
    expect(lag.count).toBeLessThan(20);
    const letting = setInterval(() => lag.letGo(), 5);
    await eventually(() => expect(received.match(/HTTP\/1\.1 200/g)).toHaveLength(120));
    clearInterval(letting);
    socket.destroy();
    expect(parseAnswers(received).map(({ status }) => status)).toEqual(Array(120).fill(200));
  });

  test('that takes no answer is cut, after a time, or sooner where too much waits', async () => {
    for (const bounds of [{ unreadMs: 100 }, { unreadBytes: 1_000 }]) {
      const asked: PromiseWithResolvers<void> = Promise.withResolvers();
      const lag = () => {
        asked.resolve();
        return Promise.resolve(LAG);
      };
      await using api = await serveStub({ lag }, { bounds: { checkedMs: 20, ...bounds } });
      const socket = connect(api.port, '127.0.0.1');
      socket.on('error', () => undefined);
      const closed = new Promise((resolve) => socket.once('close', resolve));
      socket.pause();
      const ask = 'GET /v1/propagation-lag HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\n\r\n';
      socket.write(ask + 'GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(100));
      // The others came in the same packet; how long they are held may be over before anybody looks.
      await asked.promise;
      await eventually(async () => expect(await heldIn(api, 'door')).toBe(0));
      socket.resume();
      await closed;
    }
  });
});

test('where there is hardly any room nobody may take long to send a body', async () => {
  await using api = await serveStub(
    {},
    { rooms: { ...ROOMS, clients: 1 }, bounds: { requestMs: 60_000, crowdedMs: 100, checkedMs: 20 } },
  );
  const socket = connect(api.port, '127.0.0.1');
  let received = '';
  socket.setEncoding('utf8').on('data', (text: string) => (received += text));
  const ended = new Promise((resolve) => socket.once('close', resolve));
  socket.write(
    'POST /v1/opt-outs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer shop\r\nContent-Type: application/json\r\nContent-Length: 40\r\n\r\n{',
  );
  await ended;
  expect(problemOf(parseAnswers(received)[0]!)).toEqual([408, 'request-timeout']);
});
