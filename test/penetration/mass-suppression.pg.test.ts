// Mass suppression: silencing people who did not ask, many at once, or in a way that nobody can trace. One call is about one
// identifier, none of which stands for many, and each call leaves a row that says which key made it.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { revokeKey } from '../../ledger/api-keys.ts';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { eventually } from '../harness/eventually.ts';
import { countRows } from './unchanged.ts';

let api: ServedToClients;
beforeAll(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const post = (body: unknown, key = api.key) => api.send('POST', '/v1/opt-outs', { key, body });
const BYSTANDERS: readonly object[] = [
  { email: 'ada@example.com' },
  { email: 'grace@example.com' },
  { email: 'anybody@another.example' },
  { phone: '+442071838750' },
  { person_id: 'customer-17' },
  { push_token: 'fcm:abc' },
];
/** How many of them a sender may still write to, on every channel. */
async function reachable(): Promise<number> {
  const items = BYSTANDERS.flatMap((subject) =>
    ['email', 'sms', 'push'].map((channel) => ({ subject, channel })),
  );
  const { json } = await api.send('POST', '/v1/checks', { key: api.key, body: { items } });
  return json.items.filter(({ can_send: canSend }: { can_send: boolean }) => canSend).length;
}
const EVERYBODY = BYSTANDERS.length * 3;

describe('several people in one call', () => {
  const ada = { email: 'ada@example.com' };
  const grace = { email: 'grace@example.com' };
  test.each<[string, unknown]>([
    ['a list of opt-outs', [{ subject: ada }, { subject: grace }]],
    ['a list of subjects', { subject: [ada, grace] }],
    ['subjects in place of the subject', { subjects: [ada, grace] }],
    ['two identifiers of a subject', { subject: { ...ada, person_id: 'customer-17' } }],
    ['a list for an identifier', { subject: { email: ['ada@example.com', 'grace@example.com'] } }],
    ['an object for an identifier', { subject: { email: { like: '%@example.com' } } }],
    ['addresses in one text', { subject: { email: 'ada@example.com,grace@example.com' } }],
    ['addresses in lines', { subject: { email: 'ada@example.com\ngrace@example.com' } }],
    ['nobody', { subject: {} }],
    ['no subject', { scope: { email: true } }],
    ['a domain alone', { subject: { email: '@example.com' } }],
    ['a domain with nothing before it', { subject: { email: 'example.com' } }],
    ['every address', { subject: { email: '*' } }],
    ['true', { subject: { email: true } }],
    ['a part of a number', { subject: { phone: '+44' } }],
  ])('%s: refused, and nobody is suppressed', async (_, body) => {
    const before = await countRows(api.t);
    expect((await post(body)).status).toBe(422);
    expect(await countRows(api.t)).toEqual(before);
    expect(await reachable()).toBe(EVERYBODY);
  });
});

test.each<[string, object]>([
  ['a star', { email: '*@example.com' }],
  ['a percent sign', { email: '%@example.com' }],
  ['an underscore', { email: '_da@example.com' }],
  ['an expression', { email: '.*@example.com' }],
  ['every person id', { person_id: '%' }],
  ['every person id, again', { person_id: '*' }],
  ['a beginning', { person_id: 'customer-%' }],
  ['a hash of nothing', { push_token: 'fcm:' }],
  ['null in words', { person_id: 'null' }],
  ['undefined in words', { person_id: 'undefined' }],
  ['an object in words', { person_id: '[object Object]' }],
  ['what SQL takes for true', { person_id: "' or '1'='1" }],
])('%s is one identifier as it stands there, and suppresses nobody else', async (_, subject) => {
  expect((await post({ subject })).status).toBe(201);
  expect(await reachable()).toBe(EVERYBODY);
});

test('checking and looking up suppress nobody, however often and whoever is asked for', async () => {
  const before = (await countRows(api.t)).decisions;
  await api.send('POST', '/v1/subjects/lookup', {
    key: api.key,
    body: { subject: { email: 'ada@example.com' } },
  });
  expect(await reachable()).toBe(EVERYBODY);
  expect((await countRows(api.t)).decisions).toBe(before);
});

test('what a key did stands under its id, row by row, and ends within two seconds of its revocation', async () => {
  const { id, token } = await api.makeKey({ client: 'gone-bad' });
  const made = await Promise.all(
    Array.from({ length: 200 }, (_, n) => post({ subject: { email: `victim${n}@example.com` } }, token)),
  );
  expect(new Set(made.map(({ status }) => status))).toEqual(new Set([201]));
  const { rows } = await api.t.pool.query<{ resource: string; request_id: string; caller_address: string }>(
    "select resource, request_id, caller_address from audit_log where key_id = $1 and action = 'opt_out.recorded'",
    [id],
  );
  expect(rows.map(({ resource }) => resource).sort()).toEqual(made.map(({ json }) => json.id).sort());
  expect(new Set(rows.map(({ request_id: requestId }) => requestId))).toEqual(
    new Set(made.map(({ headers }) => headers['x-request-id'])),
  );
  expect(new Set(rows.map(({ caller_address: address }) => address))).toEqual(new Set(['127.0.0.1']));
  const revoked = performance.now();
  await revokeKey(api.t.pool, id, undefined);
  await eventually(async () =>
    expect((await post({ subject: { email: 'victim0@example.com' } }, token)).status).toBe(401),
  );
  expect(performance.now() - revoked).toBeLessThan(10_000);
});

test('where a request is from is the socket’s to say, whatever its headers claim', async () => {
  const { headers } = await api.send('POST', '/v1/opt-outs', {
    key: api.key,
    body: { subject: { email: 'spoofed@example.com' } },
    headers: {
      'X-Forwarded-For': '203.0.113.7',
      Forwarded: 'for=203.0.113.7',
      'X-Real-IP': '203.0.113.7',
      'True-Client-IP': '203.0.113.7',
    },
  });
  const { rows } = await api.t.pool.query('select caller_address from audit_log where request_id = $1', [
    headers['x-request-id'],
  ]);
  expect(rows).toEqual([{ caller_address: '127.0.0.1' }]);
});
