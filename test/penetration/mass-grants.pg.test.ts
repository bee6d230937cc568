// Mass grants: the one way back, used to take back many opt-outs, or one that nobody consented to. A call has one identifier, with
// evidence and a date of its own; there is a daily budget; and every grant is in the audit log under its key.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { answered, problemOf } from '../harness/http.ts';
import { awayFromMidnight } from '../harness/midnight.ts';
import { countRows } from './unchanged.ts';

const PEOPLE = 5;
const people = Array.from({ length: PEOPLE }, (_, n) => ({ email: `person${n}@example.com` }));
const OPTED_OUT = '2026-03-01T09:00:00Z';
const EVIDENCE = { method: 'web_form', statement: 'Write to me again', source: 'https://example.com' };

let api: ServedToClients;
let before: Record<string, number>;
beforeAll(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
  for (const subject of people)
    await api.send('POST', '/v1/opt-outs', { key: api.key, body: { subject, effective_at: OPTED_OUT } });
  before = await countRows(api.t);
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const good = {
  identifier: people[0]!,
  scopes: ['email'],
  granted_at: '2026-03-02T09:00:00Z',
  evidence: EVIDENCE,
};
const grant = (body: unknown, key = api.key) => api.send('POST', '/v2/grants', { key, body });
async function leftAlone(): Promise<number> {
  const items = people.map((subject) => ({ subject, channel: 'email' }));
  const { json } = await api.send('POST', '/v1/checks', { key: api.key, body: { items } });
  return json.items.filter(({ reason }: { reason: unknown }) => reason === 'opted_out').length;
}

describe('what lifts nothing', () => {
  test.each<[string, unknown]>([
    ['a list of grants', people.map((identifier) => ({ ...good, identifier }))],
    ['several identifiers', { ...good, identifier: undefined, identifiers: people }],
    ['a list for the identifier', { ...good, identifier: people }],
    ['two kinds in one', { ...good, identifier: { ...people[0], person_id: 'x' } }],
    ['everybody', { ...good, identifier: { email: '*' } }],
    ['every scope by a star', { ...good, scopes: ['*'] }],
    ['no scope', { ...good, scopes: [] }],
    ['no evidence', { ...good, evidence: undefined }],
    ['evidence of nothing', { ...good, evidence: {} }],
    ['an empty statement', { ...good, evidence: { ...EVIDENCE, statement: '' } }],
    ['a source left out', { ...good, evidence: { ...EVIDENCE, source: undefined } }],
    ['no date', { ...good, granted_at: undefined }],
    ['a date ahead', { ...good, granted_at: '2999-01-01T00:00:00Z' }],
  ])('%s is refused by its form', async (_, body) => {
    expect(problemOf(await grant(body)).slice(0, 2)).toEqual([422, 'invalid-value']);
    expect(await leftAlone()).toBe(PEOPLE);
    expect((await countRows(api.t)).decisions).toBe(before.decisions);
  });

  test.each([
    ['of before the opt-out', '2026-02-01T09:00:00Z'],
    ['of its very moment', OPTED_OUT],
  ])('a consent %s', async (_, at) => {
    expect(problemOf(await grant({ ...good, granted_at: at }))).toEqual([
      409,
      'grant-not-later',
      ['/scopes/0'],
    ]);
    expect(await leftAlone()).toBe(PEOPLE);
  });

  test('a key that may record, read and check, and not grant', async () => {
    const scopes = [
      'opt_outs:write',
      'opt_outs:read_all',
      'subjects:read',
      'checks:read',
      'lag:read',
      'stores:write',
    ];
    const { token } = await api.makeKey({ client: 'no-grants', scopes });
    expect(problemOf(await grant(good, token))).toEqual([403, 'missing-scope']);
    expect(await leftAlone()).toBe(PEOPLE);
  });

  test('another verb at a grant, which takes no consent back either', async () => {
    for (const method of ['DELETE', 'PUT', 'PATCH'] as const)
      expect((await api.send(method, '/v2/grants', { key: api.key, body: good })).status).toBe(405);
  });
});

test('a key with a budget of two a day lifts two, also when it asks for all at once, and each is audited', async () => {
  await awayFromMidnight();
  const { id, token } = await api.makeKey({ client: 'scarce', limits: { grantsPerDay: 2 } });
  const answers = await Promise.all(
    people.map((identifier) => answered(() => grant({ ...good, identifier }, token))),
  );
  expect(answers.map(({ status }) => status).sort()).toEqual([201, 201, 429, 429, 429]);
  expect(await leftAlone()).toBe(PEOPLE - 2);
  const { rows } = await api.t.pool.query<{ resource: string }>(
    "select resource from audit_log where key_id = $1 and action = 'grant.recorded'",
    [id],
  );
  expect(rows.map(({ resource }) => resource).sort()).toEqual(
    answers
      .filter(({ status }) => status === 201)
      .map(({ json }) => json.id)
      .sort(),
  );
});
