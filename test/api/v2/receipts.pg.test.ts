// Receipts over the real ledger: what they state is what was so, at one moment, and they can be checked with nothing of ours.
import { createPublicKey, verify } from 'node:crypto';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import { findOptOutAsOf } from '../../../ledger/find.ts';
import type { Pool } from '../../../ledger/database.ts';
import { readKeyRing } from '../../../ledger/key-ring.ts';
import type { ReceiptStatement } from '../../../receipts/receipt.ts';
import { isAbout, verifyReceipt } from '../../../receipts/verify.ts';
import { withClient } from '../../harness/database.ts';
import { outstandingOf, report, subject, verified } from '../../harness/ledger.ts';
import { problemOf } from '../../harness/http.ts';
import { serveToClients } from '../serving.ts';
import type { ServedToClients } from '../serving.ts';

let api: ServedToClients;
beforeEach(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
});
afterEach(async () => {
  await api[Symbol.asyncDispose]();
});

const ADA = { email: 'Ada.Lovelace@Example.com' };
const post = (path: string, body: object) => api.send('POST', path, { key: api.key, body });
const optOut = async (...identifiers: object[]): Promise<string> =>
  (await post('/v2/opt-outs', { identifiers, scopes: ['email'], effective_at: '2026-03-01T09:00:00Z' })).json
    .id;
const ask = (id: string, headers: Record<string, string> = {}, key = api.key) =>
  api.send('GET', `/v2/opt-outs/${id}/receipt`, { key, headers });

type Given = { readonly statement: ReceiptStatement; readonly salt: string };
async function receiptOf(id: string, headers: Record<string, string> = {}): Promise<Given> {
  const { status, json } = await ask(id, headers);
  expect([status, json.object, json.opt_out_id]).toEqual([200, 'receipt', id]);
  const { text } = await api.send('GET', '/.well-known/abide-receipt-keys.json');
  const { statement } = await verifyReceipt(json.receipt, JSON.parse(text));
  return { statement, salt: json.salt };
}

/** The store takes all that it is given, as its worker says. */
async function confirm(): Promise<void> {
  const given = await outstandingOf(api.t.ledger, 'crm');
  await api.t.ledger.acknowledge('crm', report(given.map((one) => verified(one))));
}

test('a receipt says how far the opt-out was when it was asked for, and the next one how far it is then', async () => {
  const id = await optOut(ADA, { phone: '+41 79 123 45 67' });
  const early = await receiptOf(id);
  expect(early.statement.propagation).toMatchObject({ state: 'pending', required: 1, confirmed: 0 });
  await confirm();
  const { statement } = await receiptOf(id);
  const { json: read } = await api.send('GET', `/v2/opt-outs/${id}`, { key: api.key });
  const { json: propagation } = await api.send('GET', `/v2/opt-outs/${id}/propagation`, { key: api.key });
  const [crm] = propagation.stores;
  expect(statement).toEqual({
    as_of: expect.any(String),
    opt_out: {
      id,
      requested_scopes: ['email'],
      in_force: true,
      effective_at: read.effective_at,
      received_at: read.received_at,
      recorded_at: read.recorded_at,
      identifiers: [
        { kind: 'email', digest: expect.any(String) },
        { kind: 'phone', digest: expect.any(String) },
      ],
    },
    propagation: {
      state: 'complete',
      required: 1,
      confirmed: 1,
      verified: 1,
      first_completed_at: propagation.first_completed_at,
      uncovered: [],
      stores: [
        {
          store: 'crm',
          required: true,
          state: 'verified',
          decisions: [0, 1].map((identifier) => ({
            identifier,
            state: 'verified',
            recorded_at: read.recorded_at,
            acknowledged_at: crm.decisions[identifier].acknowledged_at,
          })),
        },
      ],
    },
  });
  expect(statement.as_of >= propagation.first_completed_at).toBe(true);
  expect(early.statement.as_of < propagation.first_completed_at).toBe(true);
});

test('it names nobody; with its own salt, and no other, it can be told whom it is about', async () => {
  const id = await optOut(ADA, { phone: '+41 79 123 45 67' });
  const { json } = await ask(id);
  const readable = json.receipt
    .split('.')
    .map((part: string) => Buffer.from(part, 'base64url').toString('latin1'));
  expect(readable.join(' ')).not.toMatch(/lovelace|example|791234567|••/i);
  const [one, another] = [await receiptOf(id), await receiptOf(id)];
  expect(isAbout(one.statement, one.salt, subject('ada.lovelace@example.com'))).toBe(true);
  expect(isAbout(one.statement, one.salt, subject('+41791234567', 'phone'))).toBe(true);
  expect(isAbout(one.statement, one.salt, subject('bob@example.com'))).toBe(false);
  expect(isAbout(one.statement, another.salt, subject('ada.lovelace@example.com'))).toBe(false);
});

test("it can be checked with Node's crypto alone, with keys that nobody needs a login for", async () => {
  const { json } = await ask(await optOut(ADA));
  const { status, headers, text } = await api.send('GET', '/.well-known/abide-receipt-keys.json');
  const set = JSON.parse(text);
  expect([status, headers['content-type']]).toEqual([200, 'application/jwk-set+json']);
  const [head, payload, signature] = json.receipt.split('.');
  const { kid, ...header } = JSON.parse(Buffer.from(head, 'base64url').toString());
  expect(header).toEqual({ alg: 'EdDSA', typ: 'abide-receipt+jws' });
  const key = createPublicKey({
    key: set.keys.find((one: { kid: string }) => one.kid === kid),
    format: 'jwk',
  });
  const signed = (text: string): boolean =>
    verify(null, Buffer.from(text), key, Buffer.from(signature, 'base64url'));
  expect([signed(`${head}.${payload}`), signed(`${head}.${payload}x`)]).toEqual([true, false]);
  // Of the private half nothing is there.
  expect(Object.keys(set.keys[0]).sort()).toEqual(['alg', 'crv', 'kid', 'kty', 'use', 'x']);
});

test('it can be waited for, and says that a consent has lifted it since', async () => {
  const id = await optOut(ADA);
  const waiting = receiptOf(id, { prefer: 'wait=30' });
  await confirm();
  expect((await waiting).statement.propagation.state).toBe('complete');

  const granted = await post('/v2/grants', {
    identifier: ADA,
    scopes: ['email'],
    granted_at: '2026-03-02T09:00:00Z',
    evidence: { method: 'web_form', statement: 'yes, please', source: 'the preference page' },
  });
  expect(granted.status).toBe(201);
  expect((await receiptOf(id)).statement.opt_out.in_force).toBe(false);
});

test('of somebody who was erased it has no digest any more', async () => {
  const id = await optOut(ADA);
  await confirm();
  expect((await post('/v2/subjects/erasure', { identifiers: [ADA] })).status).toBe(200);
  const { statement, salt } = await receiptOf(id);
  expect(statement.opt_out).toMatchObject({ in_force: true, identifiers: [{ kind: 'email', digest: null }] });
  // It is about her, which nobody can tell any more: no would not be true.
  expect(isAbout(statement, salt, subject('ada.lovelace@example.com'))).toBeUndefined();
  expect(isAbout(statement, salt, subject('+41791234567', 'phone'))).toBe(false);
});

test("another client's opt-out has no receipt for this one, and a key needs the scope", async () => {
  const id = await optOut(ADA);
  const other = await api.makeKey({ client: 'other' });
  const nothing = await api.makeKey({ scopes: ['checks:read'] });
  for (const headers of [{}, { prefer: 'wait=30' }] as Record<string, string>[]) {
    expect(problemOf(await ask(id, headers, other.token))).toEqual([404, 'not-found']);
    expect(problemOf(await ask(id, headers, nothing.token))).toEqual([403, 'missing-scope']);
    for (const none of ['nonsense', '01a21107-b4e9-77fd-a4a6-3364d00e3f37'])
      expect((await ask(none, headers)).status).toBe(404);
  }
});

// With the salt and a masked number every phone number that fits is tried out in seconds, offline.
test('the salt is for the client that recorded the opt-out, by a key that records', async () => {
  const id = await optOut(ADA);
  const saltFor = async (client: string, ...scopes: string[]): Promise<unknown> => {
    const { status, json } = await ask(id, {}, (await api.makeKey({ client, scopes })).token);
    expect([status, json.receipt]).toEqual([200, expect.any(String)]);
    return json.salt;
  };
  expect(await saltFor('shop', 'opt_outs:read', 'opt_outs:write')).toEqual(expect.any(String));
  expect(await saltFor('shop', 'opt_outs:read')).toBeNull();
  expect(await saltFor('auditor', 'opt_outs:read_all', 'opt_outs:write', 'subjects:read')).toBeNull();
});

// A store confirms while the receipt is made: `in_force`, `as_of` and the stores must be of one moment all the same.
test('what happens while it is made is not in it', async () => {
  const id = await optOut(ADA);
  const { pool } = api.t;
  let meanwhile: (() => Promise<void>) | undefined = confirm;
  const watched = {
    ...pool,
    query: pool.query.bind(pool),
    connect: async () => {
      const client = await pool.connect();
      const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>;
      const after = async (...args: unknown[]) => {
        const answer = await query(...args);
        if ((args[0] as { name?: string }).name === 'find-opt-out') await meanwhile?.();
        return answer;
      };
      return new Proxy(client, {
        get: (target, name) => {
          if (name === 'query') return after;
          const value: unknown = Reflect.get(target, name);
          return typeof value === 'function' ? (value.bind(target) as unknown) : value;
        },
      });
    },
  } as unknown as Pool;
  const ring = readKeyRing(api.t.keys);

  const first = await findOptOutAsOf(watched, ring, id, undefined);
  expect(first!.found.propagation.state).toBe('pending');
  meanwhile = undefined;
  const second = await findOptOutAsOf(watched, ring, id, undefined);
  expect(second!.found.propagation.state).toBe('complete');
  const [row] = (await pool.query('select first_completed_at from opt_outs where id = $1', [id])).rows;
  expect(row.first_completed_at).not.toBeNull();
});

test('a store that another process retired a moment ago covers nothing in it', async () => {
  const id = await optOut(ADA);
  await api.t.pool.query("update stores set retired_at = clock_timestamp() where name = 'crm'");
  expect((await receiptOf(id)).statement.propagation).toMatchObject({
    state: 'uncovered',
    required: 0,
    uncovered: ['email'],
  });
});

test('it does not state that somebody was erased whose address was only damaged', async () => {
  const id = await optOut(ADA);
  await withClient(api.t.db.superuserUrl, (client) =>
    client.query('update subjects set sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)'),
  );
  const { status, json } = await api.send('GET', `/v2/opt-outs/${id}/receipt`, { key: api.key });
  expect([status, json.code]).toEqual([500, 'SEALED_UNREADABLE']);
});
