// Every change leaves a row: who, with which key, from where, under which request.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { revokeKey } from '../../../ledger/api-keys.ts';
import { readAudit } from '../../../ledger/audit.ts';
import { eventually, SOON_MS } from '../../harness/eventually.ts';
import { intent, render } from '../../harness/ledger.ts';
import { problemOf } from '../../harness/http.ts';
import { serveToClients } from '../serving.ts';
import type { ServedToClients } from '../serving.ts';

let api: ServedToClients;
beforeAll(async () => {
  api = await serveToClients();
  await api.t.register({ name: 'crm' });
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const auditAfter = async (seq: number) =>
  await readAudit(api.t.pool, { after: seq, limit: 1_000, action: undefined });
const lastSeq = async (): Promise<number> => (await auditAfter(0)).at(-1)?.seq ?? 0;
const post = (body: object, key = api.key) => api.send('POST', '/v1/opt-outs', { key, body });

test('an opt-out, its repeat and its replay each leave one row, and a refused request none', async () => {
  const before = await lastSeq();
  const { id: keyId, token } = await api.makeKey({ client: 'shop' });
  const body = {
    subject: { email: 'ada@example.com' },
    scope: { email: true },
    idempotency_key: 'k',
    note: 'n',
  };
  const answers = [
    await post(body, token),
    await post({ ...body, idempotency_key: undefined }, token),
    await post(body, token),
  ];
  await post({ ...body, note: 'other' }, token);
  await post({ ...body, effective_at: '2999-01-01T00:00:00Z', idempotency_key: 'z' }, token);
  const [created, ...rows] = await auditAfter(before);
  expect(created).toMatchObject({ action: 'key.created', resource: keyId, details: { client: 'shop' } });
  expect(rows).toEqual(
    ['opt_out.recorded', 'opt_out.repeated', 'opt_out.replayed'].map((action, n) => ({
      seq: expect.any(Number),
      at: expect.stringMatching(/^\d{4}-.*Z$/),
      client: 'shop',
      keyId,
      callerAddress: '127.0.0.1',
      action,
      resource: answers[0]!.json.id,
      requestId: answers[n]!.headers['x-request-id'],
      details: { scopes: ['email'], api_version: 'v1' },
    })),
  );
});

test('no row has an address, a token or a note in it', async () => {
  const { token } = await api.makeKey({ client: 'shop' });
  await post(
    { subject: { email: 'secret.person@example.com' }, note: 'secret note', idempotency_key: 'secret-key' },
    token,
  );
  const text = JSON.stringify(await auditAfter(0));
  for (const secret of ['secret', token, token.slice(24)]) expect(text).not.toContain(secret);
});

test('what was not recorded because the transaction failed has no row either', async () => {
  const before = await lastSeq();
  const { rowCount } = await api.t.pool.query('select from opt_outs');
  await expect(
    api.t.ledger.record(intent('bob@example.com', { apiVersion: 'v1\u0000' }), render),
  ).rejects.toThrow();
  expect((await api.t.pool.query('select from opt_outs')).rowCount).toBe(rowCount);
  expect(await auditAfter(before)).toEqual([]);
});

test('a key that is revoked or expired opens nothing, within a second, and both are in the log', async () => {
  const before = await lastSeq();
  const revoked = await api.makeKey({ client: 'leaver' });
  const expired = await api.makeKey({ client: 'guest', expiresAt: '2020-01-01T00:00:00Z' });
  const ask = (key: string) => api.send('GET', '/v1/opt-outs', { key });
  expect((await ask(revoked.token)).status).toBe(200);
  expect(problemOf(await ask(expired.token))).toEqual([401, 'unauthenticated']);
  await revokeKey(api.t.pool, revoked.id, undefined);
  await eventually(
    async () => expect(problemOf(await ask(revoked.token))).toEqual([401, 'unauthenticated']),
    SOON_MS,
  );
  expect((await auditAfter(before)).map(({ action, resource }) => [action, resource])).toEqual([
    ['key.created', revoked.id],
    ['key.created', expired.id],
    ['key.revoked', revoked.id],
  ]);
});

test('a key with one character changed is no key, wherever it stands', async () => {
  const at = [11, 20, 24, 40, 66, 68, 72];
  for (const n of at) {
    const changed = `${api.key.slice(0, n)}${api.key[n] === 'A' ? 'B' : 'A'}${api.key.slice(n + 1)}`;
    expect(problemOf(await api.send('GET', '/v1/opt-outs', { key: changed }))).toEqual([
      401,
      'unauthenticated',
    ]);
  }
  for (const key of [`${api.key}A`, api.key.slice(0, -1), api.key.toUpperCase()])
    expect(problemOf(await api.send('GET', '/v1/opt-outs', { key }))).toEqual([401, 'unauthenticated']);
});
