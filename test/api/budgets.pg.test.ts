// Daily budgets, through the front door.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { limitKey, rotateKey } from '../../ledger/api-keys.ts';
import type { KeyLimits } from '../../ledger/contract/api-keys.ts';
import { eventually, SOON_MS } from '../harness/eventually.ts';
import { problemOf } from '../harness/http.ts';
import { awayFromMidnight } from '../harness/midnight.ts';
import { serveToClients } from './serving.ts';
import type { ServedToClients } from './serving.ts';

let api: ServedToClients;
beforeAll(async () => {
  await awayFromMidnight();
  api = await serveToClients();
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const limited = (limits: KeyLimits) => api.makeKey({ client: 'shop', limits });
const email = (n: number) => ({ email: `p${n}@example.com` });
const check = (key: string, items: object[]) => api.send('POST', '/v1/checks', { key, body: { items } });
const lookUp = (key: string) => api.send('POST', '/v1/subjects/lookup', { key, body: { subject: email(1) } });
const spent = async (keyId: string) =>
  (
    await api.t.pool.query<{ direction: string; spent: number }>(
      'select direction, spent from budget_usage where key_id = $1 order by 1',
      [keyId],
    )
  ).rows;

test('every person asked for is counted, however they are put into items and calls', async () => {
  const { id, token } = await limited({ checksPerDay: 10 });
  expect((await check(token, [{ subject: email(1), channel: 'email' }])).status).toBe(200);
  const several = { subjects: [email(1), email(2), email(3)], channel: 'email' };
  expect((await check(token, [several, several])).status).toBe(200);
  expect((await lookUp(token)).status).toBe(200);
  // What cannot be read tells of nobody.
  expect((await check(token, [{ subject: { email: 'nobody' }, channel: 'email' }])).status).toBe(200);
  expect(await spent(id)).toEqual([{ direction: 'check', spent: 8 }]);

  const refused = await check(token, [several]);
  expect(problemOf(refused)).toEqual([429, 'budget-exhausted']);
  expect(Number(refused.headers['retry-after'])).toBeLessThanOrEqual(86_400);
  expect(refused.json.detail).toBe("The key has spent today's budget of 10 checks.");
  expect((await lookUp(token)).status).toBe(200);
  expect((await check(token, [{ subject: email(2), channel: 'email' }])).status).toBe(200);
  expect(problemOf(await lookUp(token))).toEqual([429, 'budget-exhausted']);
});

test('a key without a budget pays nothing for it', async () => {
  const { id, token } = await api.makeKey({ client: 'shop' });
  expect((await check(token, [{ subject: email(1), channel: 'email' }])).status).toBe(200);
  expect((await lookUp(token)).status).toBe(200);
  expect(await spent(id)).toEqual([]);
});

test('a key that was rotated goes on with what is left of the day', async () => {
  const { id, token } = await limited({ checksPerDay: 3 });
  expect(
    (
      await check(
        token,
        [email(1), email(2)].map((subject) => ({ subject, channel: 'email' })),
      )
    ).status,
  ).toBe(200);
  const rotated = await rotateKey(api.t.pool, { id, overlapSeconds: 60, caller: undefined });
  expect((await lookUp(rotated!.token)).status).toBe(200);
  expect(problemOf(await lookUp(rotated!.token))).toEqual([429, 'budget-exhausted']);
  expect(problemOf(await lookUp(token))).toEqual([429, 'budget-exhausted']);
});

test('every version of the API spends of the same budget', async () => {
  const { id, token } = await limited({ checksPerDay: 3, optOutsPerDay: 3 });
  const scope = 'email';
  const asked = await api.send('POST', '/v2/checks', {
    key: token,
    body: { items: [{ identifiers: [email(1), email(2)], scope }] },
  });
  expect(asked.status).toBe(200);
  const looked = (version: string) =>
    api.send('POST', `/${version}/subjects/lookup`, {
      key: token,
      body: version === 'v1' ? { subject: email(1) } : { identifier: email(1) },
    });
  expect([(await looked('v2')).status, problemOf(await looked('v1'))]).toEqual([
    200,
    [429, 'budget-exhausted'],
  ]);
  expect(problemOf(await looked('v2'))).toEqual([429, 'budget-exhausted']);

  const optOut = (version: string, ...people: number[]) =>
    api.send('POST', `/${version}/opt-outs`, {
      key: token,
      body:
        version === 'v1'
          ? { subject: email(people[0]!) }
          : { identifiers: people.map(email), scopes: ['email', 'sms', 'push'] },
    });
  expect((await optOut('v2', 11, 12)).status).toBe(201);
  // Two of the three identifiers are suppressed already.
  expect((await optOut('v2', 11, 12, 13)).status).toBe(201);
  expect(problemOf(await optOut('v1', 14))).toEqual([429, 'budget-exhausted']);
  expect((await optOut('v1', 12)).status).toBe(200);
  expect(await spent(id)).toEqual([
    { direction: 'check', spent: 3 },
    { direction: 'opt_out', spent: 3 },
  ]);
});

test('an opt-out that a budget refuses is not recorded, says until when, and is recorded once the budget is raised', async () => {
  const { id, token } = await limited({ optOutsPerDay: 1 });
  const post = (n: number) =>
    api.send('POST', '/v1/opt-outs', {
      key: token,
      body: { subject: email(n), idempotency_key: `raised-${n}` },
    });
  expect((await post(21)).status).toBe(201);
  const refused = await post(22);
  expect(problemOf(refused)).toEqual([429, 'budget-exhausted']);
  expect(refused.json.detail).toBe("The key has spent today's budget of 1 opt-outs.");
  expect(Number(refused.headers['retry-after'])).toBeLessThanOrEqual(86_400);
  // A retry of a recorded request still gets its answer.
  expect((await post(21)).headers['idempotency-replayed']).toBe('true');

  await limitKey(api.t.pool, { id, limits: { optOutsPerDay: null }, caller: undefined });
  await eventually(async () => expect((await post(22)).status).toBe(201), SOON_MS);
});

test('grants are scarce: whatever comes of one it costs, since it tells whether somebody opted out, and a repeat is free', async () => {
  const { id, token } = await limited({ grantsPerDay: 3 });
  const grantOf = (n: number, granted_at: string) => ({
    identifier: email(n),
    scopes: ['email'],
    granted_at,
    evidence: { method: 'web_form', statement: 'Yes, write to me again.', source: 'https://example.com' },
  });
  const grant = (body: object, idempotencyKey: string, key = token) =>
    api.send('POST', '/v2/grants', { key, headers: { 'idempotency-key': idempotencyKey }, body });
  const optedOut = await api.send('POST', '/v1/opt-outs', { key: token, body: { subject: email(31) } });
  const later = grantOf(31, new Date(Date.parse(optedOut.json.recorded_at) + 1).toISOString());

  expect(problemOf(await grant(grantOf(31, '2020-01-01T00:00:00Z'), 'g0'))[1]).toBe('grant-not-later');
  expect((await grant(grantOf(32, '2020-01-01T00:00:00Z'), 'g1')).json.outcome).toBe('not_suppressed');
  expect((await grant(later, 'g2')).json.outcome).toBe('recorded');
  expect(problemOf(await grant(grantOf(33, '2020-01-01T00:00:00Z'), 'g3'))).toEqual([
    429,
    'budget-exhausted',
  ]);
  expect((await grant(later, 'g2')).headers['idempotency-replayed']).toBe('true');
  expect((await grant(later, 'g4')).json.outcome).toBe('already_recorded');
  expect(await spent(id)).toEqual([{ direction: 'grant', spent: 3 }]);

  const { token: unlimited, id: itsId } = await api.makeKey({ client: 'shop' });
  expect((await grant(grantOf(34, '2020-01-01T00:00:00Z'), 'g5', unlimited)).status).toBe(200);
  // The configuration's budget: a thousand a day.
  expect(await spent(itsId)).toEqual([{ direction: 'grant', spent: 1 }]);
});
