// Replay: what was recorded on the way is sent again: by its client, by another, after its key is no longer valid, out of order.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { revokeKey } from '../../ledger/api-keys.ts';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { eventually } from '../harness/eventually.ts';
import { problemOf } from '../harness/http.ts';
import { grant, outstandingOf } from '../harness/ledger.ts';
import { countRows } from './unchanged.ts';

let api: ServedToClients;
let worker: string;
beforeAll(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
  worker = await api.workerKey('crm');
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const post = (body: object, key = api.key) => api.send('POST', '/v1/opt-outs', { key, body });
const decisions = async (): Promise<number> => (await countRows(api.t)).decisions!;
const scopeOf = async (email: string) =>
  (await api.send('POST', '/v1/subjects/lookup', { key: api.key, body: { subject: { email } } })).json.scope;

describe('an opt-out sent again', () => {
  test('a hundred times, with and without its key, decides nothing more', async () => {
    const body = { subject: { email: 'ada@example.com' }, idempotency_key: 'once' };
    const first = await post(body);
    const before = await decisions();
    for (let n = 0; n < 50; n += 1) {
      expect((await post(body)).text).toBe(first.text);
      expect((await post({ subject: body.subject })).json.outcome).toBe('already_opted_out');
    }
    expect(await decisions()).toBe(before);
  });

  test('after the person consented again suppresses nobody anew: it says when it is of', async () => {
    const body = {
      subject: { email: 'back@example.com' },
      effective_at: '2026-03-01T09:00:00Z',
      idempotency_key: 'old',
    };
    const { json } = await post(body);
    const { rows } = await api.t.pool.query<{ subject_id: string }>(
      'select subject_id from opt_out_subjects where opt_out_id = $1',
      [json.id],
    );
    await grant(api.t, rows[0]!.subject_id, ['email', 'sms', 'push']);
    const before = await decisions();
    expect((await post(body)).headers['idempotency-replayed']).toBe('true');
    expect((await post({ ...body, idempotency_key: 'another' })).json).toMatchObject({
      outcome: 'already_recorded',
      in_force: false,
    });
    expect(await decisions()).toBe(before);
    expect(await scopeOf('back@example.com')).toEqual({ email: false, sms: false, push: false });
  });
});

describe('a credential that is no good any more', () => {
  test('is not answered with what was answered to it before', async () => {
    const { id, token } = await api.makeKey({ client: 'gone' });
    const body = { subject: { email: 'gone@example.com' }, idempotency_key: 'kept' };
    expect((await post(body, token)).status).toBe(201);
    await revokeKey(api.t.pool, id, undefined);
    await eventually(async () =>
      expect(problemOf(await post(body, token))).toEqual([401, 'unauthenticated']),
    );
    const before = await countRows(api.t);
    for (let n = 0; n < 5; n += 1)
      for (const path of ['/v1/opt-outs', '/v1/checks', '/v1/subjects/lookup'])
        expect((await api.send('POST', path, { key: token, body })).status).toBe(401);
    expect(await countRows(api.t)).toEqual(before);
  });

  test('is none from the moment on which it expires', async () => {
    const { id, token } = await api.makeKey({ client: 'short' });
    const read = async () => (await api.send('GET', '/v1/propagation-lag', { key: token })).status;
    expect(await read()).toBe(200);
    // Only now, or it might expire before it was ever read with.
    await api.t.pool.query(
      "update api_keys set expires_at = clock_timestamp() + interval '1 second' where id = $1",
      [id],
    );
    await eventually(async () => expect(await read()).toBe(401));
  });
});

describe('an acknowledgement sent again', () => {
  const acknowledge = async (seq: number, version: number, suppressed: string[], generation = 1) =>
    (
      await api.send('POST', '/v1/acknowledgements', {
        key: worker,
        body: {
          store: 'crm',
          generation,
          worker: { id: 'w', incarnation: 'i', source: { kind: 'http', status: 'ok', parked: 0 } },
          acknowledgements: [
            {
              seq,
              version,
              outcome: 'verified',
              held: { version, suppressed },
              carried_by: 'stream',
              attempts: 1,
            },
          ],
        },
      })
    ).json;
  const newest = async () => (await outstandingOf(api.t.ledger, 'crm')).at(-1)!;

  test('counts once, however often', async () => {
    await post({ subject: { email: 'acked@example.com' } });
    const { seq, version } = await newest();
    const scopes = ['email', 'sms', 'push'];
    expect(await acknowledge(seq, version, scopes)).toEqual({ accepted: 1, duplicate: 0, rejected: [] });
    for (let n = 0; n < 10; n += 1)
      expect(await acknowledge(seq, version, scopes)).toEqual({ accepted: 0, duplicate: 1, rejected: [] });
  });

  test('of an older decision does not speak for a newer one', async () => {
    const { json } = await post({ subject: { email: 'wider@example.com' }, scope: { email: true } });
    const older = await newest();
    await acknowledge(older.seq, older.version, ['email']);
    const wider = await post({ subject: { email: 'wider@example.com' }, scope: { sms: true } });
    await acknowledge(older.seq, older.version, ['email']);
    const state = async (id: string) =>
      (await api.send('GET', `/v1/opt-outs/${id}/propagation`, { key: api.key })).json.state;
    expect([await state(json.id), await state(wider.json.id)]).toEqual(['complete', 'pending']);
    // Nor does it with the newer one's number.
    const current = await newest();
    const answer = await acknowledge(current.seq, older.version, ['email']);
    expect(answer).toMatchObject({ accepted: 0, rejected: [{ seq: current.seq, code: 'version_mismatch' }] });
    expect(await state(wider.json.id)).toBe('pending');
  });

  test('of what the store was before it was filled anew speaks of another store', async () => {
    await post({ subject: { email: 'generation@example.com' } });
    const { seq, version } = await newest();
    await api.t.register({ name: 'crm', scopes: ['email', 'sms', 'push', 'analytics'] });
    expect(await acknowledge(seq, version, ['email', 'sms', 'push'])).toMatchObject({
      accepted: 0,
      rejected: [{ seq, code: 'old_generation' }],
    });
  });
});
