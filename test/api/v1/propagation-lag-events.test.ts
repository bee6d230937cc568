// Over real connections: what a listener is sent, when, and what is left of it once it has gone.
import { request as httpRequest } from 'node:http';
import type { IncomingMessage } from 'node:http';
import { PassThrough } from 'node:stream';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createLagFeed, LISTENERS_MAX } from '../../../api/v1/propagation-lag-events.ts';
import type { Ledger } from '../../../ledger/contract/ledger.ts';
import type { LagReport } from '../../../ledger/contract/propagation-lag.ts';
import { AbideError } from '../../../suppression/errors.ts';
import { eventually, SOON_MS } from '../../harness/eventually.ts';
import { problemOf } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import { KEYS, LAG } from '../stub-ledger.ts';

type Event = { readonly event: string; readonly data: any; readonly atTick: number }; // eslint-disable-line @typescript-eslint/no-explicit-any -- a test says what it expects
type Listening = AsyncDisposable & {
  readonly answer: IncomingMessage;
  readonly text: string;
  readonly events: readonly Event[];
  readonly ended: Promise<void>;
};

/** Time as this process has it: while a busy machine lets it stand still, no server in it can say anything. */
let ticks = 0;
const TICK_MS = 10;
let ticking: NodeJS.Timeout;
beforeAll(() => {
  ticking = setInterval(() => (ticks += 1), TICK_MS);
});
afterAll(() => {
  clearInterval(ticking);
});

async function listenTo(port: number, key = 'shop'): Promise<Listening> {
  const asked = httpRequest({
    port,
    host: '127.0.0.1',
    path: '/v1/propagation-lag/events',
    headers: { authorization: `Bearer ${key}` },
    agent: false,
  });
  asked.on('error', () => undefined);
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    asked.once('response', resolve).once('error', reject).end();
  });
  let text = '';
  const events: Event[] = [];
  let rest = '';
  answer.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
    rest += chunk;
    for (let end = rest.indexOf('\n\n'); end >= 0; end = rest.indexOf('\n\n')) {
      const [, event, data] = /^event: (.*)\ndata: (.*)$/.exec(rest.slice(0, end)) ?? [];
      if (data !== undefined) events.push({ event: event!, data: JSON.parse(data), atTick: ticks });
      rest = rest.slice(end + 2);
    }
  });
  const ended = new Promise<void>((resolve) => answer.once('close', resolve));
  answer.on('error', () => undefined);
  return {
    answer,
    get text() {
      return text;
    },
    events,
    ended,
    [Symbol.asyncDispose]: async () => {
      asked.destroy();
      await ended;
    },
  };
}

const ok: LagReport = { ...LAG, status: 'ok' };

test('a listener hears the lag at once, at a change of status, and never nothing for two seconds', async () => {
  let lag = ok;
  await using api = await serveStub(
    { lag: () => Promise.resolve(lag) },
    // The time limits of requests, shorter than a listener stays.
    { bounds: { headersMs: 2_000, requestMs: 3_000, checkedMs: 50 } },
  );
  const [began, beganAtTick] = [performance.now(), ticks];
  await using listening = await listenTo(api.port);
  expect(listening.answer.headers).toMatchObject({
    'content-type': 'text/event-stream; charset=utf-8',
    'cache-control': 'no-store',
  });
  await eventually(() => expect(listening.events).toHaveLength(1));
  expect(listening.events[0]).toMatchObject({ event: 'lag', data: ok });
  expect(listening.text).toMatch(/^retry: 2000\n\n/);

  lag = { ...ok, stores: [{ ...LAG.stores[0]!, status: 'ok' }] };
  await eventually(() => expect(listening.events.at(-1)!.data).toEqual(lag), SOON_MS);

  await eventually(() => expect(performance.now() - began).toBeGreaterThan(5_000));
  const times = [beganAtTick, ...listening.events.map(({ atTick }) => atTick), ticks];
  const gaps = times.slice(1).map((at, n) => at - times[n]!);
  // One is due every second, so that there is time left for it to come.
  expect(Math.max(...gaps) * TICK_MS).toBeLessThan(1_500);
  expect(listening.text).toContain('\n\n:\n\n');
});

test('a ledger that cannot be asked is said to be unknown, and so is one that does not answer', async () => {
  let lag: Ledger['lag'] = () => Promise.resolve(ok);
  await using api = await serveStub({ lag: () => lag() });
  await using listening = await listenTo(api.port);
  await eventually(() => expect(listening.events).toHaveLength(1));

  lag = () => Promise.reject(new AbideError('ledger-unavailable'));
  await eventually(() => expect(listening.events.at(-1)!.event).toBe('unknown'), SOON_MS);
  expect(listening.events.at(-1)!.data).toMatchObject({
    type: 'urn:abide:problem:ledger-unavailable',
    status: 503,
    request_id: listening.answer.headers['x-request-id'],
  });

  lag = () => Promise.resolve(ok);
  await eventually(() => expect(listening.events.at(-1)!.event).toBe('lag'), SOON_MS);

  let hangs = 0;
  lag = () => {
    hangs += 1;
    return new Promise(() => undefined);
  };
  await eventually(() => expect(listening.events.at(-1)!.event).toBe('unknown'), SOON_MS);
  const before = listening.events.length;
  await eventually(() => expect(listening.events.length).toBeGreaterThan(before), SOON_MS);
  expect(listening.events.at(-1)!.event).toBe('unknown');
  // The ledger is not asked again and again on top of a question that hangs.
  expect(hangs).toBe(1);
});

test('however many listen the ledger is asked by one, and by nobody once they have gone', async () => {
  let asked = 0;
  await using api = await serveStub({
    lag: () => {
      asked += 1;
      return Promise.resolve(ok);
    },
  });
  const all = await Promise.all(Array.from({ length: LISTENERS_MAX }, () => listenTo(api.port)));
  const tooMany = await api.send('GET', '/v1/propagation-lag/events', { key: 'shop' });
  expect(problemOf(tooMany)).toEqual([429, 'too-many-requests']);
  await eventually(() => {
    for (const { events } of all) expect(events.length).toBeGreaterThan(1);
  });
  expect(asked).toBeLessThan(LISTENERS_MAX);

  await Promise.all(all.map((one) => one[Symbol.asyncDispose]()));
  // Their places are free again, as soon as the server has seen that they went.
  await eventually(async () => {
    await using again = await listenTo(api.port);
    expect(again.answer.statusCode).toBe(200);
  });
  await eventually(async () => {
    const before = asked;
    await new Promise((resolve) => setTimeout(resolve, 700));
    expect(asked).toBe(before);
  });
});

test('listeners end when the server stops, at once', async () => {
  await using api = await serveStub({ lag: () => Promise.resolve(ok) });
  await using listening = await listenTo(api.port);
  await eventually(() => expect(listening.events).toHaveLength(1));
  const began = performance.now();
  await Promise.all([api.listening.close(), listening.ended]);
  expect(performance.now() - began).toBeLessThan(8_000);
  expect(listening.answer.complete).toBe(true);
});

test('a key that was revoked hears no more; a ledger that cannot be asked revokes none', async () => {
  let key: Ledger['authenticate'] = (token) => Promise.resolve(KEYS[token]);
  await using api = await serveStub({ lag: () => Promise.resolve(ok), authenticate: (token) => key(token) });
  await using listening = await listenTo(api.port);
  key = () => Promise.reject(new AbideError('ledger-unavailable'));
  await eventually(() => expect(listening.events.length).toBeGreaterThan(2));
  key = () => Promise.resolve(undefined);
  await eventually(() => expect(listening.answer.complete).toBe(true), SOON_MS);
});

test('HEAD leaves no listener behind, and a query is refused', async () => {
  let asked = 0;
  await using api = await serveStub({
    lag: () => {
      asked += 1;
      return Promise.resolve(ok);
    },
  });
  expect((await api.send('HEAD', '/v1/propagation-lag/events', { key: 'shop' })).status).toBe(200);
  await eventually(async () => {
    const before = asked;
    await new Promise((resolve) => setTimeout(resolve, 700));
    expect(asked).toBe(before);
  });
  expect(
    problemOf(await api.send('GET', '/v1/propagation-lag/events?fail_on=late', { key: 'shop' })),
  ).toEqual([422, 'invalid-value', ['/fail_on']]);
});

test('who reads nothing is sent no more than fits, and is let go', async () => {
  const stores = Array.from({ length: 200 }, () => LAG.stores[0]!);
  const feed = createLagFeed({
    lag: () => Promise.resolve({ ...ok, stores }),
    log: { warn: () => undefined, error: () => undefined },
    stuckMsMax: 1_000,
  });
  const stream = new PassThrough();
  stream.on('error', () => undefined);
  feed.add({ stream, requestId: 'r', isStillValid: () => Promise.resolve(true) });
  let most = 0;
  await eventually(() => {
    most = Math.max(most, stream.writableLength + stream.readableLength);
    expect(stream.destroyed).toBe(true);
  });
  expect(most).toBeGreaterThan(0);
  expect(most).toBeLessThan(500_000);
});
