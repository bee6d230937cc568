import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { AbideError } from '../../../suppression/errors.ts';
import { problemOf } from '../../harness/http.ts';
import { serveStub } from '../serving.ts';
import type { ServedStub } from '../serving.ts';
import { ID, KEYS, SUBJECT_ID } from '../stub-ledger.ts';

let api: ServedStub;
beforeAll(async () => {
  api = await serveStub();
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

/** Every call of v1 with the one scope that opens it; the gate, which two scopes open, and the endless events are below. */
const CALLS = [
  ['POST', '/v1/opt-outs', 'opt_outs:write'],
  ['GET', '/v1/opt-outs', 'opt_outs:read'],
  ['GET', `/v1/opt-outs/${ID}`, 'opt_outs:read'],
  ['GET', `/v1/opt-outs/${ID}/propagation`, 'opt_outs:read'],
  ['POST', '/v1/subjects/lookup', 'subjects:read'],
  ['POST', '/v1/checks', 'checks:read'],
  ['GET', '/v1/propagation-lag', 'lag:read'],
  ['GET', '/v1/stores/crm/quarantine', 'lag:read'],
  ['GET', '/v1/stores/crm/quarantine/7', 'lag:read'],
  ['POST', '/v1/stores/crm/quarantine/retry', 'stores:write'],
  ['POST', '/v1/acknowledgements', 'acknowledgements:write'],
  ['GET', '/v1/stores/crm/outstanding', 'acknowledgements:write'],
  ['GET', `/v1/stores/crm/subjects/${SUBJECT_ID}`, 'acknowledgements:write'],
  ['GET', '/v1/transport-keys/1', 'acknowledgements:write'],
] as const;
const SCOPES = [...new Set(CALLS.map(([, , scope]) => scope))];

describe.each(CALLS)('%s %s', (method, path, scope) => {
  const body = method === 'POST' ? {} : undefined;

  test('without a valid credential is 401 and says how', async () => {
    const attempts = [
      {},
      { Authorization: '' },
      { Authorization: 'Bearer' },
      { Authorization: 'Bearer ' },
      { Authorization: 'Bearer nobody' },
      { Authorization: 'Bearer shop nothing' },
      { Authorization: 'Bearer  shop' },
      { Authorization: 'Basic c2hvcDpzaG9w' },
      { Authorization: 'shop' },
      { Authorization: `Bearer ${'x'.repeat(513)}` },
      { Authorization: 'Bearer constructor' },
      { 'X-Api-Key': 'shop', Cookie: 'key=shop' },
    ];
    for (const headers of attempts) {
      const answer = await api.send(method, path, { body, headers });
      expect(problemOf(answer)).toEqual([401, 'unauthenticated']);
      expect(answer.headers['www-authenticate']).toBe('Bearer realm="abide"');
    }
    expect(problemOf(await api.send(method, `${path}?key=shop&access_token=shop`, { body }))[0]).toBe(401);
  });

  test(`with every scope but ${scope} is 403 and names the scope`, async () => {
    await using strict = await serveStub({
      authenticate: () =>
        Promise.resolve({ ...KEYS['shop']!, store: 'crm', scopes: SCOPES.filter((one) => one !== scope) }),
    });
    const answer = await strict.send(method, path, { key: 'any', body });
    expect(problemOf(answer)).toEqual([403, 'missing-scope']);
    expect(answer.json.detail).toBe(`The key lacks the scope ${scope}.`);
    expect(answer.headers['www-authenticate']).toBeUndefined();
  });

  test(`with ${scope} alone is let in`, async () => {
    await using open = await serveStub({
      authenticate: () => Promise.resolve({ ...KEYS['shop']!, store: 'crm', scopes: [scope] }),
    });
    expect([200, 422]).toContain((await open.send(method, path, { key: 'any', body })).status);
  });

  test('says 503 where the ledger cannot be asked who it is', async () => {
    await using away = await serveStub({
      authenticate: () =>
        Promise.reject(new AbideError('ledger-unavailable', undefined, { retryAfterSeconds: 7 })),
    });
    const answer = await away.send(method, path, { key: 'any', body });
    expect(problemOf(answer)).toEqual([503, 'ledger-unavailable']);
    expect(answer.headers['retry-after']).toBe('7');
  });
});

test.each([['lag:read'], ['checks:read']])('the gate is opened by %s, and by nothing else', async (scope) => {
  const scopes = (key: string): string[] =>
    key === 'one' ? [scope] : SCOPES.filter((one) => !/^(lag|checks):/.test(one));
  await using gate = await serveStub({
    authenticate: (token) => Promise.resolve({ ...KEYS['shop']!, scopes: scopes(token) }),
  });
  expect((await gate.send('GET', '/v1/stores/crm/gate', { key: 'one' })).status).toBe(200);
  const refused = await gate.send('GET', '/v1/stores/crm/gate', { key: 'others' });
  expect(problemOf(refused)).toEqual([403, 'missing-scope']);
  expect(refused.json.detail).toBe('The key lacks the scope lag:read or checks:read.');
});

test('the scheme is read in any spelling', async () => {
  for (const scheme of ['bearer', 'BEARER', 'Bearer'])
    expect(
      (await api.send('GET', '/v1/opt-outs', { headers: { Authorization: `${scheme} shop` } })).status,
    ).toBe(200);
});

test('opt_outs:read_all reads what opt_outs:read reads, and nothing else', async () => {
  const answers = await Promise.all(
    CALLS.map(async ([method, path, scope]) => {
      const { status } = await api.send(method, path, {
        key: 'auditor',
        body: method === 'POST' ? {} : undefined,
      });
      return [scope, status];
    }),
  );
  expect(answers.filter(([, status]) => status !== 403)).toEqual([
    ['opt_outs:read', 200],
    ['opt_outs:read', 200],
    ['opt_outs:read', 200],
  ]);
});

test('what a key may do is decided before its body is read', async () => {
  const answer = await api.send('POST', '/v1/opt-outs', { key: 'nothing', body: '{' });
  expect(problemOf(answer)).toEqual([403, 'missing-scope']);
});

test('who asks goes to the ledger with every opt-out, for the audit log', async () => {
  const answer = await api.send('POST', '/v1/opt-outs', {
    key: 'shop',
    body: { subject: { email: 'a@example.com' } },
  });
  expect(api.ledger.intents.at(-1)!.caller).toEqual({
    client: 'shop',
    keyId: 'key-of-shop',
    address: '127.0.0.1',
    requestId: answer.headers['x-request-id'],
    budgets: { lineage: 'key-of-shop', perDay: { grant: 1_000 } },
  });
});

describe("a worker's key", () => {
  const report = (store: string) => ({
    store,
    generation: 1,
    worker: { id: 'w', incarnation: 'i', source: { kind: 'http', status: 'ok', parked: 0 } },
    acknowledgements: [],
  });

  test('speaks for its own store alone: of others it does not learn whether they exist', async () => {
    for (const store of ['crm', 'mail', 'no-such-store']) {
      const expected = store === 'crm' ? 200 : 404;
      const answers = [
        await api.send('POST', '/v1/acknowledgements', { key: 'crm', body: report(store) }),
        await api.send('GET', `/v1/stores/${store}/outstanding`, { key: 'crm' }),
        await api.send('GET', `/v1/stores/${store}/subjects/${SUBJECT_ID}`, { key: 'crm' }),
      ];
      expect(answers.map(({ status }) => status)).toEqual([expected, expected, expected]);
      if (expected === 404)
        expect(answers.map(({ json }) => json.detail)).toEqual(
          Array(3).fill('The key is not bound to this store.'),
        );
    }
  });

  test('that is bound to no store opens no store and fetches no transport key', async () => {
    const answers = [
      await api.send('POST', '/v1/acknowledgements', { key: 'unbound', body: report('crm') }),
      await api.send('GET', '/v1/stores/crm/outstanding', { key: 'unbound' }),
      await api.send('GET', '/v1/stores/undefined/outstanding', { key: 'unbound' }),
      await api.send('GET', `/v1/stores/crm/subjects/${SUBJECT_ID}`, { key: 'unbound' }),
      await api.send('GET', '/v1/transport-keys/1', { key: 'unbound' }),
    ];
    expect(answers.map(({ status }) => status)).toEqual([404, 404, 404, 404, 403]);
  });
});
