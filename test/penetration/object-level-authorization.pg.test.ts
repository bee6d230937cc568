// Object-level authorization: what belongs to another client does not exist, whichever way it is asked for.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { problemOf } from '../harness/http.ts';
import type { Answer } from '../harness/http.ts';

type Client = { readonly key: string; readonly ids: string[] };

let api: ServedToClients;
let shop: Client;
let app: Client;

const post = (key: string, body: object): Promise<Answer> => api.send('POST', '/v1/opt-outs', { key, body });
const list = (key: string, query = ''): Promise<Answer> => api.send('GET', `/v1/opt-outs${query}`, { key });
const idsOf = ({ json }: Answer): string[] => json.opt_outs.map(({ id }: { id: string }) => id);

beforeAll(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
  shop = { key: (await api.makeKey({ client: 'shop' })).token, ids: [] };
  app = { key: (await api.makeKey({ client: 'app' })).token, ids: [] };
  // In turns, so that each client's ids lie between the other's.
  for (let n = 0; n < 6; n += 1)
    for (const [name, { key, ids }] of Object.entries({ shop, app }))
      ids.unshift(
        (await post(key, { subject: { email: `${name}${n}@example.com` }, reason: 'legal' })).json.id,
      );
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

describe("another client's opt-out", () => {
  test.each([
    '/v1/opt-outs/{id}',
    '/v1/opt-outs/{id}/propagation',
    '/v2/opt-outs/{id}',
    '/v2/opt-outs/{id}/propagation',
    '/v2/opt-outs/{id}/receipt',
  ])('is not found by its id: GET %s', async (path) => {
    for (const [{ key }, { ids }] of [
      [shop, app],
      [app, shop],
    ] as const)
      for (const id of ids)
        expect(problemOf(await api.send('GET', path.replace('{id}', id), { key }))).toEqual([
          404,
          'not-found',
        ]);
  });

  test('is not found by waiting for it either, and nobody waits', async () => {
    const began = performance.now();
    const answer = await api.send('GET', `/v1/opt-outs/${shop.ids[0]}/propagation`, {
      key: app.key,
      headers: { Prefer: 'wait=30' },
    });
    expect(problemOf(answer)).toEqual([404, 'not-found']);
    expect(performance.now() - began).toBeLessThan(20_000);
  });

  test.each([
    '',
    '?reason=legal',
    '?state=uncovered',
    '?state=pending',
    '?store=crm',
    '?since=2020-01-01T00:00:00Z',
    '?limit=100',
  ])('is in no list: %s', async (query) => {
    for (const [own, other] of [
      [shop, app],
      [app, shop],
    ] as const) {
      const found = idsOf(await list(own.key, query));
      expect(found.filter((id) => other.ids.includes(id))).toEqual([]);
      expect(found.every((id) => own.ids.includes(id))).toBe(true);
    }
  });
});

describe('a cursor', () => {
  const cursorAt = (id: string): string => Buffer.from(id).toString('base64url');

  test("of another client's list shows where it goes on among one's own, and nothing else", async () => {
    const { json } = await list(shop.key, '?limit=2');
    const page = idsOf(await list(app.key, `?cursor=${json.next_cursor}`));
    expect(page).toEqual(app.ids.filter((id) => id < json.opt_outs.at(-1).id));
  });

  test('made by hand, at whatever id, does the same', async () => {
    for (const id of [
      ...shop.ids,
      'ffffffff-ffff-ffff-ffff-ffffffffffff',
      '00000000-0000-0000-0000-000000000000',
    ])
      expect(idsOf(await list(app.key, `?cursor=${cursorAt(id)}`))).toEqual(
        app.ids.filter((own) => own < id),
      );
  });

  test.each([
    ['with SQL in it', cursorAt(`${'0'.repeat(36)}' or true --`)],
    ['with a client in it', cursorAt(JSON.stringify({ client: 'shop' }))],
    ['of something longer', cursorAt('01990000-0000-7000-8000-000000000000'.repeat(4))],
    ['twice', 'a&cursor=b'],
  ])('%s is refused', async (_, cursor) => {
    expect(problemOf(await list(app.key, `?cursor=${cursor}`))).toEqual([422, 'invalid-value', ['/cursor']]);
  });

  test('of the quarantine is refused in the same way', async () => {
    for (const cursor of ['-1', '0x10', "1' or true --", '9'.repeat(60)])
      expect(
        problemOf(
          await api.send('GET', `/v1/stores/crm/quarantine?cursor=${encodeURIComponent(cursor)}`, {
            key: api.key,
          }),
        ).slice(0, 2),
      ).toEqual([422, 'invalid-value']);
  });
});

describe('an idempotency key', () => {
  test("of another client is none: it neither answers with that one's answer nor stands in the way", async () => {
    const mine = await post(shop.key, {
      subject: { email: 'key@example.com' },
      idempotency_key: 'order-1',
      note: 'mine',
    });
    const same = await post(app.key, {
      subject: { email: 'key@example.com' },
      idempotency_key: 'order-1',
      note: 'mine',
    });
    expect([same.status, same.headers['idempotency-replayed'], same.json.outcome]).toEqual([
      200,
      undefined,
      'already_opted_out',
    ]);
    const other = await post(app.key, {
      subject: { email: 'other@example.com' },
      idempotency_key: 'order-1',
    });
    expect(problemOf(other)).toEqual([422, 'idempotency-key-reused']);
    const another = await post((await api.makeKey({ client: 'third' })).token, {
      subject: { email: 'other@example.com' },
      idempotency_key: 'order-1',
    });
    expect([another.status, mine.status]).toEqual([201, 201]);
  });

  test('cannot be made to reach into another client by what its name has in it', async () => {
    const { token } = await api.makeKey({ client: 'sh' });
    const mine = await post(shop.key, { subject: { email: 'glued@example.com' }, idempotency_key: 'p' });
    const glued = await post(token, { subject: { email: 'glued2@example.com' }, idempotency_key: 'op' });
    expect([mine.status, glued.status, glued.headers['idempotency-replayed']]).toEqual([201, 201, undefined]);
  });
});

test('v2 shows a client how it named its own requests, what it gave as evidence, and nothing of that of others', async () => {
  const evidence = { method: 'email', statement: 'of the shop', source: 'box of the shop' };
  const named = (key: string) => ({ 'idempotency-key': key });
  const optOut = async ({ key }: Client, email: string, name: string) =>
    (
      await api.send('POST', '/v2/opt-outs', {
        key,
        headers: named(name),
        body: { identifiers: [{ email }], scopes: [name.split('-')[0]], evidence },
      })
    ).json.id as string;
  const email = 'shown@example.com';
  const ids = [await optOut(shop, email, 'email-shop'), await optOut(app, email, 'sms-app')];
  const { token: auditor } = await api.makeKey({
    client: 'auditor',
    scopes: ['opt_outs:read_all', 'subjects:read'],
  });
  const { token: support } = await api.makeKey({ client: 'support', scopes: ['subjects:read'] });
  const looked = async (key: string): Promise<unknown[]> => {
    const { json } = await api.send('POST', '/v2/subjects/lookup', { key, body: { identifier: { email } } });
    return json.opt_outs.map((one: Record<string, unknown>) => [one.idempotency_key, one.evidence]).reverse();
  };
  const auto = ids.map((id) => `auto_${id}`);
  expect(await looked(shop.key)).toEqual([
    ['email-shop', evidence],
    [auto[1], null],
  ]);
  expect(await looked(app.key)).toEqual([
    [auto[0], null],
    ['sms-app', evidence],
  ]);
  expect(await looked(support)).toEqual(auto.map((name) => [name, null]));
  expect(await looked(auditor)).toEqual(auto.map((name) => [name, evidence]));
  const read = await api.send('GET', `/v2/opt-outs/${ids[0]}`, { key: auditor });
  const { json: list } = await api.send('GET', '/v2/opt-outs?limit=2', { key: auditor });
  expect([
    read.json.idempotency_key,
    ...list.opt_outs.map((one: typeof read.json) => one.idempotency_key),
  ]).toEqual([auto[0], auto[1], auto[0]]);

  const granted_at = new Date().toISOString();
  const grant = { identifier: { email }, scopes: ['email'], granted_at, evidence };
  const of = ({ key }: Client, name: string) =>
    api.send('POST', '/v2/grants', { key, headers: named(name), body: grant });
  const made = await of(shop, 'grant-shop');
  const repeated = await of(app, 'grant-app');
  const found = await api.send('GET', `/v2/grants/${made.json.id}`, { key: auditor });
  expect([made, repeated, found].map(({ status, json }) => [status, json.id, json.idempotency_key])).toEqual([
    [201, made.json.id, 'grant-shop'],
    [200, made.json.id, `auto_${made.json.id}`],
    [200, made.json.id, `auto_${made.json.id}`],
  ]);
});

test("another client's grant is not found, and a list of v2 has no more of others than one of v1", async () => {
  const identifier = { email: 'granted@example.com' };
  await post(shop.key, { subject: identifier, effective_at: '2026-03-01T09:00:00Z' });
  const { json } = await api.send('POST', '/v2/grants', {
    key: shop.key,
    body: {
      identifier,
      scopes: ['email'],
      granted_at: '2026-03-02T09:00:00Z',
      evidence: { method: 'web_form', statement: 'Write to me again', source: 'https://example.com' },
    },
  });
  const read = async (key: string) => (await api.send('GET', `/v2/grants/${json.id}`, { key })).status;
  expect([await read(shop.key), await read(app.key)]).toEqual([200, 404]);
  const { json: page } = await api.send('GET', '/v2/opt-outs?limit=100', { key: app.key });
  expect(page.opt_outs.map(({ id }: { id: string }) => id)).toEqual(idsOf(await list(app.key, '?limit=100')));
});

test('opt_outs:read_all is a scope of its own: opt_outs:read does not grow into it', async () => {
  const { token: auditor } = await api.makeKey({ client: 'auditor', scopes: ['opt_outs:read_all'] });
  const { token: reader } = await api.makeKey({ client: 'auditor', scopes: ['opt_outs:read'] });
  const path = `/v1/opt-outs/${shop.ids[0]}`;
  const status = async (key: string) => (await api.send('GET', path, { key })).status;
  expect([await status(auditor), await status(reader)]).toEqual([200, 404]);
  expect(idsOf(await list(reader))).toEqual([]);
});
