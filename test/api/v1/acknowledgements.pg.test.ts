// A worker elsewhere reaches nothing but these calls: the whole way over HTTP, on the real ledger.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { revokeKey } from '../../../ledger/api-keys.ts';
import { open } from '../../../suppression/seal.ts';
import { eventually } from '../../harness/eventually.ts';
import { problemOf } from '../../harness/http.ts';
import { serveToClients } from '../serving.ts';
import type { ServedToClients } from '../serving.ts';

let api: ServedToClients;
let key = '';
beforeAll(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' }, { name: 'mail' });
  key = await api.workerKey('crm');
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

type Wire = {
  seq: number;
  version: number;
  opt_out_id: string;
  subject_id: string;
  kind: string;
  suppressed: object;
  sealed: string;
  transport_key_id: number;
};

const optOut = async (address: string) =>
  (await api.send('POST', '/v1/opt-outs', { key: api.key, body: { subject: { email: address } } })).json;
const outstanding = async (headers: Record<string, string> = {}) =>
  (await api.send('GET', '/v1/stores/crm/outstanding?limit=2000', { key, headers })).json as {
    generation: number;
    decisions: Wire[];
  };
const decisionOf = async (id: string): Promise<Wire> =>
  (await outstanding()).decisions.find((one) => one.opt_out_id === id)!;
const acknowledge = async (decision: Wire, fields: object = {}, generation = 1) =>
  await api.send('POST', '/v1/acknowledgements', {
    key,
    body: {
      store: 'crm',
      generation,
      worker: { id: 'w', incarnation: 'i', source: { kind: 'http', status: 'ok', parked: 0 } },
      acknowledgements: [
        {
          seq: decision.seq,
          version: decision.version,
          outcome: 'verified',
          held: { version: decision.version, suppressed: Object.keys(decision.suppressed) },
          carried_by: 'stream',
          attempts: 1,
          ...fields,
        },
      ],
    },
  });
const propagationOf = async (id: string) =>
  (await api.send('GET', `/v1/opt-outs/${id}/propagation`, { key: api.key })).json.stores.find(
    (one: { store: string }) => one.store === 'crm',
  );

test('what is outstanding opens under the key that the worker fetches, and nowhere else', async () => {
  const { id } = await optOut('sealed@example.com');
  const decision = await decisionOf(id);
  const answer = await api.send('GET', `/v1/transport-keys/${decision.transport_key_id}`, { key });
  const secret = Buffer.from(answer.json.key, 'base64url');
  const sealed = Buffer.from(decision.sealed, 'base64url');
  const transport = { id: decision.transport_key_id, secret };
  expect(open(sealed, transport, [decision.subject_id, decision.kind])).toBe('sealed@example.com');
  expect(JSON.stringify(decision)).not.toContain('sealed@');
});

test('a long poll is answered as soon as something is due', async () => {
  // Everything that is due now is settled first.
  for (const decision of (await outstanding()).decisions) await acknowledge(decision);
  const polled = outstanding({ Prefer: 'wait=20' });
  const { id } = await optOut('polled@example.com');
  expect((await polled).decisions.map((one) => one.opt_out_id)).toEqual([id]);
});

test('an acknowledgement that is taken settles once; another generation’s and a foreign one settle nothing', async () => {
  const { id } = await optOut('settled@example.com');
  const decision = await decisionOf(id);
  expect((await acknowledge(decision, {}, 2)).json.rejected).toEqual([
    { seq: decision.seq, code: 'old_generation' },
  ]);
  expect((await acknowledge(decision, { seq: decision.seq + 1_000 })).json.rejected).toMatchObject([
    { code: 'unknown_seq' },
  ]);
  expect((await acknowledge(decision, { version: 9 })).json.rejected).toMatchObject([
    { code: 'version_mismatch' },
  ]);
  expect(
    (await acknowledge(decision, { held: { version: 1, suppressed: ['sms'] } })).json.rejected,
  ).toMatchObject([{ code: 'not_verifiable' }]);
  expect((await propagationOf(id)).state).toBe('pending');
  expect((await acknowledge(decision)).json).toEqual({ accepted: 1, duplicate: 0, rejected: [] });
  expect((await acknowledge(decision)).json).toEqual({ accepted: 0, duplicate: 1, rejected: [] });
  expect(await propagationOf(id)).toMatchObject({ state: 'verified', attempts: 1 });
});

test('a refusal is shown with its reason, and the decision stays outstanding', async () => {
  const { id } = await optOut('refused@example.com');
  const decision = await decisionOf(id);
  expect(
    (await acknowledge(decision, { outcome: 'refused', code: 'TOO_LONG', attempts: 2 })).json.accepted,
  ).toBe(1);
  expect(await propagationOf(id)).toMatchObject({ state: 'quarantined', reason: 'TOO_LONG', attempts: 2 });
  const { json } = await api.send('GET', '/v1/opt-outs?store=crm&state=pending&limit=100', { key: api.key });
  expect(json.opt_outs.map((one: { id: string }) => one.id)).toContain(id);
});

// Seen: a worker whose clock was wrong had a store apply an opt-out in the year 2099, or before it was recorded.
test('a worker’s own times are shown, within the database’s', async () => {
  const { id, recorded_at: recorded } = await optOut('clamped@example.com');
  const decision = await decisionOf(id);
  await acknowledge(decision, {
    evidence: { applied_at: '2001-01-01T00:00:00Z', verified_at: '2099-01-01T00:00:00Z' },
  });
  const shown = await propagationOf(id);
  expect([shown.applied_at, shown.verified_at]).toEqual([recorded, shown.acknowledged_at]);
});

describe('a store that is ahead of the ledger', () => {
  test('is not believed: its person is decided again, above it', async () => {
    const { id } = await optOut('ahead@example.com');
    const decision = await decisionOf(id);
    const answer = await acknowledge(decision, {
      held: { version: 41, suppressed: ['email', 'sms', 'push'] },
    });
    expect(answer.json.rejected).toEqual([{ seq: decision.seq, code: 'ahead_of_ledger' }]);
    const { json: newest } = await api.send('GET', `/v1/stores/crm/subjects/${decision.subject_id}`, { key });
    expect(newest.version).toBe(42);
  });

  // Seen: a store that held nonsense for a version drew the subject's own version up to the last one possible, and the person's
  // next opt-out was answered 500 for ever.
  test('by more than any ledger can have given does not use up the versions that are left', async () => {
    const { id } = await optOut('nonsense@example.com');
    const decision = await decisionOf(id);
    for (const version of [Number.MAX_SAFE_INTEGER, Number.MAX_SAFE_INTEGER - 1, 2 ** 52 + 1]) {
      const answer = await acknowledge(decision, { held: { version, suppressed: ['email', 'sms', 'push'] } });
      expect([answer.status, answer.json.rejected]).toEqual([
        200,
        [{ seq: decision.seq, code: 'not_verifiable' }],
      ]);
    }
    const { json: newest } = await api.send('GET', `/v1/stores/crm/subjects/${decision.subject_id}`, { key });
    expect(newest.version).toBe(1);
  });
});

test('a worker that reports nothing is heard of all the same, and in time it is not', async () => {
  await api.send('POST', '/v1/acknowledgements', {
    key,
    body: {
      store: 'crm',
      generation: 1,
      worker: {
        id: 'alive',
        incarnation: 'i',
        last_error: { code: 'STORE_TIMEOUT', at: '2026-11-24T09:00:00Z' },
        source: { kind: 'http', status: 'catching_up', position_age_seconds: 3, parked: 1 },
      },
      acknowledgements: [],
    },
  });
  await eventually(async () => {
    const { json } = await api.send('GET', '/v1/propagation-lag', { key: api.key });
    const [crm, mail] = json.stores;
    expect(crm).toMatchObject({ store: 'crm', last_error: { code: 'STORE_TIMEOUT' } });
    expect(crm.worker.instances).toBeGreaterThan(0);
    expect(mail).toMatchObject({
      store: 'mail',
      status: 'unknown',
      worker: { instances: 0, last_seen_at: null },
    });
    expect(json.status).toBe('unknown');
  });
});

test('a subject that the ledger does not know, and a key that it never made, are 404', async () => {
  const answers = [
    await api.send('GET', '/v1/stores/crm/subjects/0199bbbb-0000-7000-8000-000000000009', { key }),
    await api.send('GET', '/v1/transport-keys/4000000000', { key }),
    await api.send('GET', '/v1/transport-keys/9999999999', { key }),
  ];
  expect(answers.map(problemOf)).toEqual(Array(3).fill([404, 'not-found']));
});

test('a long poll whose key is revoked while it is held learns nothing', async () => {
  for (const decision of (await outstanding()).decisions) await acknowledge(decision);
  const { key: revoked, token } = await api.t.ledger.createKey({
    client: 'worker of crm',
    scopes: ['acknowledgements:write'],
    store: 'crm',
    expiresAt: undefined,
    caller: undefined,
  });
  const waiting = Promise.withResolvers();
  const send = await api.serve({
    ...api.t.ledger,
    outstanding: (...args) => {
      waiting.resolve(undefined);
      return api.t.ledger.outstanding(...args);
    },
  });
  const held = send('GET', '/v1/stores/crm/outstanding', { key: token, headers: { Prefer: 'wait=20' } });
  await waiting.promise;
  await revokeKey(api.t.pool, revoked.id, undefined);
  await eventually(async () => {
    expect((await send('GET', '/v1/stores/crm/canary', { key: token })).status).toBe(401);
  });
  await optOut('revoked@example.com');
  expect(problemOf(await held)).toEqual([401, 'unauthenticated']);
});
