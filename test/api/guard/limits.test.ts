// How often a key may call, and how often an address may fail to show one. Budgets are the ledger's:
// test/ledger/budgets.pg.test.ts.
import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { createBuckets, networkOf } from '../../../api/guard/limits.ts';
import { DEFAULT_LIMITS } from '../../../config/configuration.ts';
import { problemOf } from '../../harness/http.ts';
import type { Answer } from '../../harness/http.ts';
import { serveStub as serve } from '../serving.ts';
import type { ServedStub } from '../serving.ts';
import { KEYS } from '../stub-ledger.ts';

/** Time stands still unless a test moves it. */
let nowMs = 0;
const serveStub = (...[instead, options]: Parameters<typeof serve>): ReturnType<typeof serve> =>
  serve(instead, { now: () => nowMs, ...options });

/** Keys that may make ten calls at once, and one more each second. */
const slowly = (...names: string[]): Parameters<typeof serveStub>[0] => ({
  authenticate: (token) => {
    const key = KEYS[token];
    return Promise.resolve(key && names.includes(token) ? { ...key, ratePerSecond: 1 } : key);
  },
});
const QUOTA = 10;

const read = (api: ServedStub, key: string): Promise<Answer> => api.send('GET', '/v1/opt-outs', { key });
const record = (api: ServedStub, key: string): Promise<Answer> =>
  api.send('POST', '/v1/opt-outs', { key, body: { subject: { email: 'ada@example.com' } } });
const fields = ({ headers }: Answer): unknown[] => [headers['ratelimit-policy'], headers['ratelimit']];
/** Leaves out series at 0: each is there from the start. */
const metricsOf = async (api: ServedStub): Promise<string[]> =>
  (await api.send('GET', '/metrics')).text
    .split('\n')
    .filter((line) => line.startsWith('abide_rate_limited') && !line.endsWith(' 0'));

test('a key that calls more often than it may is told so, and when to come again; another key is not', async () => {
  await using api = await serveStub(slowly('shop'));
  for (let n = 1; n <= QUOTA; n += 1) {
    const answer = await read(api, 'shop');
    expect(answer.status).toBe(200);
    expect(fields(answer)).toEqual([`"reads";q=10;w=10`, `"reads";r=${QUOTA - n};t=1`]);
  }
  const refused = await read(api, 'shop');
  expect(problemOf(refused)).toEqual([429, 'too-many-requests']);
  expect(refused.headers['retry-after']).toBe('1');
  expect(fields(refused)).toEqual(['"reads";q=10;w=10', '"reads";r=0;t=1']);
  expect((await read(api, 'other')).status).toBe(200);
  expect(await metricsOf(api)).toEqual(['abide_rate_limited_total{of="reads"} 1']);

  nowMs += 1_000;
  expect((await read(api, 'shop')).status).toBe(200);
  expect((await read(api, 'shop')).status).toBe(429);
});

test('whoever asks too often may still record an opt-out: each class of call has a rate of its own', async () => {
  await using api = await serveStub(slowly('shop'));
  for (let n = 0; n <= QUOTA; n += 1) await read(api, 'shop');
  expect((await read(api, 'shop')).status).toBe(429);

  const recorded = await record(api, 'shop');
  expect([recorded.status, ...fields(recorded)]).toEqual([201, '"writes";q=10;w=10', '"writes";r=9;t=1']);
  const checked = await api.send('POST', '/v1/checks', { key: 'shop', body: { items: [] } });
  expect([checked.status, ...fields(checked)]).toEqual([200, '"checks";q=10;w=10', '"checks";r=9;t=1']);
  // A lookup tells of a person as a check does.
  const looked = await api.send('POST', '/v1/subjects/lookup', {
    key: 'shop',
    body: { subject: { email: 'ada@example.com' } },
  });
  expect(fields(looked)).toEqual(['"checks";q=10;w=10', '"checks";r=8;t=1']);
});

test('what is answered has the same bytes with a rate and without one', async () => {
  await using limited = await serveStub(slowly('shop'));
  await using free = await serveStub({}, { limits: { ...DEFAULT_LIMITS, readsPerSecond: undefined } });
  const [one, other] = [await read(limited, 'shop'), await read(free, 'shop')];
  expect(one.text).toBe(other.text);
  expect(fields(other)).toEqual([undefined, undefined]);
});

test('by default no rate holds back who records, and nobody who reads or checks meets one by hand', async () => {
  await using api = await serveStub();
  expect(fields(await record(api, 'shop'))).toEqual([undefined, undefined]);
  expect(fields(await read(api, 'shop'))).toEqual(['"reads";q=10000;w=10', '"reads";r=9999;t=1']);
});

test('the configuration may hold back who records, and a key of its own rate goes by that', async () => {
  await using api = await serveStub(slowly('other'), { limits: { ...DEFAULT_LIMITS, writesPerSecond: 2 } });
  expect(fields(await record(api, 'shop'))[0]).toBe('"writes";q=20;w=10');
  expect(fields(await record(api, 'other'))[0]).toBe('"writes";q=10;w=10');
});

test('a worker is never held back: its store would be late', async () => {
  await using api = await serveStub(slowly('crm'));
  for (let n = 0; n < 3 * QUOTA; n += 1) {
    const answer = await api.send('GET', '/v1/stores/crm/outstanding', { key: 'crm' });
    expect([answer.status, ...fields(answer)]).toEqual([200, undefined, undefined]);
  }
});

test('every token of an OAuth client shares the rate of the client, and of no other client', async () => {
  const token = (client: string) => ({ ...KEYS['shop']!, id: 'token:login', lineage: 'token:login', client });
  await using api = await serveStub({
    authenticate: (name) => Promise.resolve({ ...token(`login:${name.split('-')[0]}`), ratePerSecond: 1 }),
  });
  for (let n = 0; n < QUOTA; n += 1) await read(api, `shop-${n}`);
  expect((await read(api, 'shop-again')).status).toBe(429);
  expect((await read(api, 'crm-1')).status).toBe(200);
});

describe('an address that shows too many wrong credentials', () => {
  const limits = { ...DEFAULT_LIMITS, failedAuthenticationsPerMinute: 5 };

  test('is answered 429, while a valid key behind it is let in', async () => {
    await using api = await serveStub({}, { limits });
    for (let n = 0; n < 5; n += 1)
      expect(problemOf(await read(api, `guess-${n}`))).toEqual([401, 'unauthenticated']);

    const refused = await read(api, 'guess-5');
    expect(problemOf(refused)).toEqual([429, 'too-many-requests']);
    // One more every twelve seconds.
    expect(refused.headers['retry-after']).toBe('12');
    expect(problemOf(await api.send('GET', '/v1/opt-outs'))).toEqual([429, 'too-many-requests']);
    expect((await read(api, 'shop')).status).toBe(200);
    expect((await record(api, 'shop')).status).toBe(201);

    expect(await metricsOf(api)).toEqual(['abide_rate_limited_total{of="failed_authentications"} 2']);
    // It is logged once, however many there are.
    expect(api.log).toEqual([
      { level: 'warn', fields: { remote: '127.0.0.1' }, message: expect.stringContaining('credential') },
    ]);
    nowMs += 12_000;
    expect(problemOf(await read(api, 'guess-6'))).toEqual([401, 'unauthenticated']);
  });

  test('is never told of a scope: a valid key that lacks it is no failure', async () => {
    await using api = await serveStub({}, { limits });
    for (let n = 0; n < 20; n += 1)
      expect(problemOf(await read(api, 'nothing'))).toEqual([403, 'missing-scope']);
    expect(problemOf(await read(api, 'guess'))).toEqual([401, 'unauthenticated']);
  });

  test.each([
    ['203.0.113.7', '203.0.113.7'],
    ['::ffff:203.0.113.7', '203.0.113.7'],
    ['2001:db8:1:2:3:4:5:6', '2001:db8:1:2'],
    ['2001:db8:1:2::6', '2001:db8:1:2'],
    ['2001:db8::6', '2001:db8:0:0'],
    ['::1', '0:0:0:0'],
    ['fe80::1%eth0', 'fe80:0:0:0'],
    ['', ''],
  ])('%s counts with its network %s', (address, network) => {
    expect(networkOf(address)).toBe(network);
  });
});

describe('a bucket', () => {
  test('never lets through more than its quota and what was refilled since', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 50 }),
        fc.integer({ min: 1, max: 60 }),
        fc.array(fc.integer({ min: 0, max: 20_000 }), { maxLength: 300 }),
        (quota, windowSeconds, pauses) => {
          const buckets = createBuckets(windowSeconds);
          const letIn: number[] = [];
          let now = 1_000_000;
          for (const pause of pauses) {
            now += pause % 3 === 0 ? pause / 10 : 0;
            const { left, retryAfterSeconds } = buckets.take('one', quota, now);
            if (retryAfterSeconds !== undefined) {
              expect(left).toBe(0);
              expect(
                buckets.take('one', quota, now + retryAfterSeconds * 1000 - 1001).retryAfterSeconds,
              ).toBeDefined();
              continue;
            }
            letIn.push(now);
          }
          for (const [n, from] of letIn.entries()) {
            const since = (now - from) / 1000;
            expect(letIn.length - n).toBeLessThanOrEqual(quota + (quota * since) / windowSeconds + 0.01);
          }
        },
      ),
    );
  });

  test('gives the whole quota at once, and one more when it said so', () => {
    const buckets = createBuckets(10);
    for (let n = 0; n < 20; n += 1) expect(buckets.take('one', 20, 0)).toEqual({ left: 19 - n });
    expect(buckets.take('one', 20, 0)).toEqual({ left: 0, retryAfterSeconds: 1 });
    expect(buckets.take('one', 20, 499)).toEqual({ left: 0, retryAfterSeconds: 1 });
    expect(buckets.take('one', 20, 500)).toEqual({ left: 0 });
    expect(buckets.take('one', 20, 10_500)).toEqual({ left: 19 });
  });

  test('that was used least recently is forgotten, so that names without end take no memory without end', () => {
    const buckets = createBuckets(10, 2);
    for (const name of ['a', 'b', 'a', 'c']) buckets.take(name, 3, 0);
    expect(buckets.take('a', 3, 0)).toEqual({ left: 0 });
    // b was forgotten, and is full again.
    expect(buckets.take('b', 3, 0)).toEqual({ left: 2 });
  });
});
