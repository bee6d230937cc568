// The only way back, through the front door and into a worker's hands.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { withClient } from '../../harness/database.ts';
import { problemOf } from '../../harness/http.ts';
import type { Answer, Ask } from '../../harness/http.ts';
import { intent, outstandingOf, render } from '../../harness/ledger.ts';
import { serveToClients } from '../serving.ts';
import type { ServedToClients } from '../serving.ts';

let api: ServedToClients;
beforeAll(async () => {
  api = await serveToClients({ declared: { topics: { email: ['newsletter'] }, purposes: [] } });
  await api.t.register({ name: 'crm', scopes: ['email', 'sms'] });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

let people = 0;
const somebody = () => ({ email: `person${(people += 1)}@example.com` });
const OPTED_OUT = '2026-03-01T09:00:00.000Z';
const LATER = '2026-03-02T09:00:00.000Z';
const EVIDENCE = { method: 'web_form', statement: 'Write to me again', source: 'https://example.com/p' };

type Fields = { scopes?: string[]; granted_at?: string; evidence?: object };
const optOut = (identifier: object, scopes = ['email'], effective_at = OPTED_OUT): Promise<Answer> =>
  api.send('POST', '/v2/opt-outs', {
    key: api.key,
    body: { identifiers: [identifier], scopes, effective_at },
  });
const grant = (
  identifier: object,
  { scopes = ['email'], granted_at = LATER, evidence = EVIDENCE }: Fields = {},
  { key = api.key, headers = {} }: Pick<Ask, 'key' | 'headers'> = {},
): Promise<Answer> =>
  api.send('POST', '/v2/grants', { key, body: { identifier, scopes, granted_at, evidence }, headers });
const suppressed = async (identifier: object): Promise<string[]> => {
  const body = { identifier };
  const { json } = await api.send('POST', '/v2/subjects/lookup', { key: api.key, body });
  return json.identifier.suppressed.map(({ scope }: { scope: string }) => scope);
};
const audited = async (resource: string): Promise<string[]> => {
  const { rows } = await api.t.pool.query<{ action: string }>(
    'select action from audit_log where resource = $1 order by seq',
    [resource],
  );
  return rows.map(({ action }) => action);
};

// A topic that was taken out of abide.yaml could never be consented to again, and its channel's messages never be sent.
test('what a person has refused can be consented to, also if it is no longer declared; what nobody could refuse is a slip', async () => {
  const who = { email: 'undeclared@example.com' };
  await api.t.ledger.record(intent(who.email, { scopes: ['email/gone'], effectiveAt: OPTED_OUT }), render);
  const slip = await grant(who, { scopes: ['email/gone', 'email/goen'] });
  expect(problemOf(slip)).toEqual([422, 'invalid-value', ['/scopes/1']]);
  expect(await suppressed(who)).toEqual(['email/gone']);
  const { status, json } = await grant(who, { scopes: ['email/gone'] });
  expect([status, json.lifted_scopes, json.in_force]).toEqual([201, ['email/gone'], true]);
  expect(await suppressed(who)).toEqual([]);
  expect((await grant(who, { scopes: ['email/gone'] })).json.outcome).toBe('already_recorded');
});

test('a later consent lifts exactly what it names, is audited, and is carried to every store like an opt-out', async () => {
  const who = somebody();
  await optOut(who, ['email', 'email/newsletter', 'sms']);
  const { status, json, headers } = await grant(who, { scopes: ['email'] });
  expect([status, headers['location']]).toEqual([201, `/v2/grants/${json.id}`]);
  expect(json).toMatchObject({
    outcome: 'recorded',
    in_force: true,
    lifted_scopes: ['email'],
    still_suppressed: ['email/newsletter', 'sms'],
    granted_at: LATER,
    propagation: { state: 'pending', required: 1 },
  });
  expect(await suppressed(who)).toEqual(['email/newsletter', 'sms']);
  expect(await audited(json.id)).toEqual(['grant.recorded']);
  const decision = (await outstandingOf(api.t.ledger, 'crm')).at(-1)!;
  expect([Object.keys(decision.suppressed).sort(), decision.granted]).toEqual([
    ['email/newsletter', 'sms'],
    { email: { at: LATER, version: 2 } },
  ]);
  const read = await api.send('GET', `/v2/grants/${json.id}`, { key: api.key });
  expect(read.json).toMatchObject({ id: json.id, in_force: true, evidence: EVIDENCE });
  const { json: check } = await api.send('POST', '/v1/checks', {
    key: api.key,
    body: { items: [{ subject: who, channel: 'sms' }] },
  });
  expect(check.items[0].can_send).toBe(false);
});

test.each([
  ['earlier than the opt-out', '2026-02-28T00:00:00Z'],
  ['at the very time of the opt-out: on a tie the opt-out stands', OPTED_OUT],
])('a consent %s lifts nothing, not even what else it names, and is audited', async (_, granted_at) => {
  const who = somebody();
  await optOut(who, ['sms'], '2026-01-01T00:00:00Z');
  await optOut(who, ['email']);
  const refused = await grant(who, { scopes: ['sms', 'email'], granted_at });
  expect(problemOf(refused)).toEqual([409, 'grant-not-later', ['/scopes/1']]);
  expect(await suppressed(who)).toEqual(['email', 'sms']);
  const { rows } = await api.t.pool.query('select from audit_log where action = $1 and request_id = $2', [
    'grant.refused',
    refused.json.request_id,
  ]);
  expect(rows).toHaveLength(1);
});

test('a consent ahead of the clock is refused, with no hour of grace', async () => {
  const who = somebody();
  await optOut(who);
  const granted_at = new Date(Date.now() + 60_000).toISOString();
  expect(problemOf(await grant(who, { granted_at }))).toEqual([422, 'invalid-value', ['/granted_at']]);
  expect(await suppressed(who)).toEqual(['email']);
});

test('a late retry of a consent lifts no opt-out that came after it, with a key and without', async () => {
  const who = somebody();
  await optOut(who);
  const headers = { 'idempotency-key': 'grant-1' };
  const first = await grant(who, {}, { headers });
  // Received later but dated earlier: a newly received opt-out always suppresses.
  await optOut(who, ['email'], '2026-02-01T00:00:00Z');
  const replayed = await grant(who, {}, { headers });
  expect([replayed.text, replayed.headers['idempotency-replayed']]).toEqual([first.text, 'true']);
  const again = await grant(who);
  expect([again.status, again.json.outcome, again.json.in_force, again.json.id]).toEqual([
    200,
    'already_recorded',
    false,
    first.json.id,
  ]);
  expect(await suppressed(who)).toEqual(['email']);
  expect(await audited(first.json.id)).toEqual(['grant.recorded', 'grant.replayed', 'grant.repeated']);
});

test('where nothing is suppressed nothing is recorded, for strangers and for others alike', async () => {
  const known = somebody();
  await optOut(known, ['sms']);
  for (const who of [somebody(), known]) {
    const { status, json } = await grant(who, {}, { headers: { 'idempotency-key': 'grant-2' } });
    expect([status, json.outcome, json.id]).toEqual([200, 'not_suppressed', undefined]);
  }
  const { rows } = await api.t.pool.query(
    "select from decisions where cause = 'grant' and kind = 'person_id'",
  );
  expect(rows).toEqual([]);
});

test('one key is one request: another consent, or an opt-out, under it is refused', async () => {
  const who = somebody();
  await optOut(who, ['email', 'sms']);
  const headers = { 'idempotency-key': 'grant-3' };
  expect((await grant(who, {}, { headers })).status).toBe(201);
  for (const other of [
    grant(who, { scopes: ['sms'] }, { headers }),
    grant(who, { evidence: { ...EVIDENCE, statement: 'other words' } }, { headers }),
    api.send('POST', '/v2/opt-outs', {
      key: api.key,
      body: { identifiers: [who], scopes: ['email'] },
      headers,
    }),
  ])
    expect(problemOf(await other)).toEqual([422, 'idempotency-key-reused', undefined]);
});

test('a hundred at once with one consent are one grant, and a race with an opt-out ends as their order says', async () => {
  const who = somebody();
  await optOut(who);
  const many = await Promise.all(Array.from({ length: 30 }, () => grant(who)));
  expect(many.filter(({ status }) => status === 201)).toHaveLength(1);
  expect(new Set(many.map(({ json }) => json.id)).size).toBe(1);

  const other = somebody();
  await optOut(other);
  const [granted] = await Promise.all([
    grant(other),
    api.send('POST', '/v2/opt-outs', {
      key: api.key,
      body: { identifiers: [other], scopes: ['email'], effective_at: '2026-03-03T00:00:00Z' },
    }),
  ]);
  // Whichever came first, the opt-out that is later than the consent stands.
  expect(granted.status === 409 || granted.status === 201).toBe(true);
  expect(await suppressed(other)).toEqual(['email']);
});

test('it needs a key of its own scope, and evidence', async () => {
  const who = somebody();
  await optOut(who);
  const { token: key } = await api.makeKey({ scopes: ['opt_outs:write', 'opt_outs:read', 'checks:read'] });
  expect(problemOf(await grant(who, {}, { key }))[1]).toBe('missing-scope');
  for (const [evidence, pointers] of [
    [{}, ['/evidence/method', '/evidence/statement', '/evidence/source']],
    [{ ...EVIDENCE, statement: '' }, ['/evidence/statement']],
  ] as const)
    expect(problemOf(await grant(who, { evidence }))).toEqual([422, 'invalid-value', pointers]);
  expect(problemOf(await grant([who, who]))).toEqual([422, 'invalid-value', ['/identifier']]);
  expect(await suppressed(who)).toEqual(['email']);
});

test('the API’s role can neither change nor take back a grant, and the owner cannot by a slip', async () => {
  const who = somebody();
  await optOut(who, ['email']);
  await grant(who);
  const others = [
    "update grants set client = 'x'",
    "update grants set idempotency_key = null, evidence = 'x'",
    "update grants set idempotency_key = 'x'",
    'delete from grants',
    'truncate grants',
  ];
  await withClient(api.t.db.urls.owner, async (owner) => {
    for (const sql of others) {
      await expect(api.t.pool.query(sql)).rejects.toMatchObject({ code: '42501' });
      await expect(owner.query(sql)).rejects.toMatchObject({ code: '42501' });
    }
  });
});

test('a consent to a topic is not in force while its channel is refused, and an opt-out of the topic still is', async () => {
  const who = somebody();
  await optOut(who, ['email', 'email/newsletter']);
  const ofTopic = await optOut(who, ['email/newsletter'], '2026-03-01T10:00:00.000Z');
  const { json } = await grant(who, { scopes: ['email/newsletter'] });
  expect(json).toMatchObject({ outcome: 'recorded', in_force: false, still_suppressed: ['email'] });
  const found = await api.send('GET', `/v2/grants/${json.id}`, { key: api.key });
  expect(found.json.in_force).toBe(false);
  const read = await api.send('GET', `/v2/opt-outs/${ofTopic.json.id}`, { key: api.key });
  expect(read.json.in_force).toBe(true);
});

test('an answer that was held says whether the consent is in force after the wait', async () => {
  const who = somebody();
  await optOut(who);
  const { json } = await grant(who);
  const send = await api.serve({
    ...api.t.ledger,
    waitForPropagation: async (id, _ms, gone) => {
      await optOut(who, ['email'], '2026-03-03T09:00:00.000Z');
      return await api.t.ledger.waitForPropagation(id, 0, gone);
    },
  });
  const held = send('GET', `/v2/grants/${json.id}`, { key: api.key, headers: { Prefer: 'wait=30' } });
  expect((await held).json).toMatchObject({ in_force: false, still_suppressed: ['email'] });
});

test('evidence of nothing but white space is none', async () => {
  const who = somebody();
  await optOut(who);
  const refused = await grant(who, { evidence: { ...EVIDENCE, statement: ' \n', source: '' } });
  expect(problemOf(refused)).toEqual([422, 'invalid-value', ['/evidence/statement', '/evidence/source']]);
  expect(await suppressed(who)).toEqual(['email']);
});
