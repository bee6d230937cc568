// What a client hears while the database, or the line to it, fails: an honest 503, after which the same key finds what was
// recorded, or records it.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type { PoolClient } from 'pg';
import { openPool } from '../../../ledger/database.ts';
import { withClient } from '../../harness/database.ts';
import { eventually } from '../../harness/eventually.ts';
import { problemOf } from '../../harness/http.ts';
import { startTcpProxy } from '../../harness/tcp-proxy.ts';
import type { Fault, TcpProxy } from '../../harness/tcp-proxy.ts';
import { serveToClients } from '../serving.ts';
import type { ServedToClients } from '../serving.ts';

let api: ServedToClients;
beforeAll(async () => {
  api = await serveToClients();
});
afterAll(async () => {
  await api[Symbol.asyncDispose]();
});

const count = async (table: 'opt_outs' | 'decisions'): Promise<number> =>
  (await api.t.pool.query<{ n: number }>(`select count(*) as n from ${table}`)).rows[0]!.n;

test('a database that is away is 503 for everything that needs it, and all of it works again afterwards', async () => {
  const ask = async () => {
    const worker = await workerKey;
    return Promise.all(
      (
        [
          [
            'POST',
            '/v1/opt-outs',
            api.key,
            { subject: { email: 'away@example.com' }, idempotency_key: 'away' },
          ],
          ['GET', '/v1/opt-outs', api.key],
          ['GET', '/v1/opt-outs/0199aaaa-0000-7000-8000-000000000001', api.key],
          ['POST', '/v1/subjects/lookup', api.key, { subject: { email: 'away@example.com' } }],
          ['POST', '/v1/checks', api.key, { items: [] }],
          ['GET', '/v1/propagation-lag', api.key],
          ['GET', '/v1/stores/crm/outstanding', worker],
          ['GET', '/readyz', undefined],
          ['GET', '/livez', undefined],
        ] as const
      ).map(([method, path, key, body]) => api.send(method, path, { key, body })),
    );
  };
  await api.t.register({ name: 'crm' });
  const workerKey = api.workerKey('crm');
  await workerKey;
  await withClient(new URL('/postgres', api.t.db.superuserUrl).href, async (admin) => {
    await admin.query(`alter database ${api.t.db.name} with allow_connections false`);
    await admin.query('select pg_terminate_backend(pid) from pg_stat_activity where datname = $1', [
      api.t.db.name,
    ]);
    const away = await ask();
    expect(away.slice(0, -1).map(problemOf)).toEqual(Array(8).fill([503, 'ledger-unavailable']));
    expect(away.slice(0, -1).map(({ headers }) => headers['retry-after'])).toEqual(Array(8).fill('1'));
    expect(away.at(-1)!.status).toBe(200);
    await admin.query(`alter database ${api.t.db.name} with allow_connections true`);
  });
  const back = await ask();
  expect(back.map(({ status }) => status)).toEqual([201, 200, 404, 200, 200, 200, 200, 200, 200]);
  expect(back[0]!.json.outcome).toBe('recorded');
});

describe('a line that is cut while COMMIT is under way', () => {
  let proxy: TcpProxy;
  let send: ServedToClients['send'];
  let armed: Fault | undefined;

  beforeAll(async () => {
    const url = new URL(api.t.db.urls.api);
    proxy = await startTcpProxy({ host: url.hostname, port: Number(url.port) });
    url.port = String(proxy.port);
    // The fault begins with the COMMIT of a recording and not before: everything written earlier is known to have been answered.
    const pool = openPool(url.href, { max: 6, onError: () => undefined });
    const wrote = new WeakSet<PoolClient>();
    pool.on('connect', (client) => {
      const query = client.query.bind(client) as (...args: unknown[]) => unknown;
      client.query = ((...args: unknown[]) => {
        const [statement] = args;
        if ((statement as { name?: string }).name === 'record-write') wrote.add(client);
        if (statement === 'commit' && wrote.delete(client) && armed !== undefined) {
          proxy.setFault(armed);
          armed = undefined;
        }
        return query(...args);
      }) as typeof client.query;
    });
    send = await api.serve(await api.t.another(pool));
  });
  afterAll(async () => {
    // Anybody still connected through it loses the line; its ledger is disposed of with the API.
    await proxy[Symbol.asyncDispose]();
  });

  const post = async (key: string, fields: object = {}) =>
    send('POST', '/v1/opt-outs', {
      key: api.key,
      body: { subject: { email: `${key}@example.com` }, idempotency_key: key, ...fields },
    });
  const heal = () =>
    eventually(async () => {
      proxy.setFault('none');
      expect((await send('GET', '/readyz')).status).toBe(200);
    });

  test('behind the answer is 503, and the same key finds what was recorded', async () => {
    const before = await count('opt_outs');
    armed = 'lose_answer';
    const doubt = await post('doubt-1');
    expect(problemOf(doubt)).toEqual([503, 'ledger-unavailable']);
    expect(doubt.headers['retry-after']).toBe('1');
    await heal();
    expect(await count('opt_outs')).toBe(before + 1);
    const again = await post('doubt-1');
    expect([again.status, again.json.outcome, again.headers['idempotency-replayed']]).toEqual([
      201,
      'recorded',
      'true',
    ]);
    const found = await api.send('GET', again.headers.location!, { key: api.key });
    expect([found.status, found.json.in_force]).toEqual([200, true]);
    expect([await count('opt_outs'), await count('decisions')]).toEqual([before + 1, before + 1]);
  });

  test('without a key is 503 as well, and the natural key finds it', async () => {
    armed = 'lose_answer';
    const keyless = { idempotency_key: undefined, effective_at: '2026-03-01T09:00:00Z' };
    expect(problemOf(await post('doubt-2', keyless))).toEqual([503, 'ledger-unavailable']);
    await heal();
    const again = await post('doubt-2', keyless);
    expect([again.status, again.json.outcome]).toEqual([200, 'already_opted_out']);
  });

  test('before it arrives is 503, nothing was recorded, and the same key records it', async () => {
    const before = await count('opt_outs');
    armed = 'cut_request';
    expect(problemOf(await post('doubt-3'))).toEqual([503, 'ledger-unavailable']);
    await heal();
    expect(await count('opt_outs')).toBe(before);
    const again = await post('doubt-3');
    expect([again.status, again.json.outcome, again.headers['idempotency-replayed']]).toEqual([
      201,
      'recorded',
      undefined,
    ]);
  });

  test('of a batch is 503 for each of its requests, and each finds its own', async () => {
    const keys = Array.from({ length: 8 }, (_, n) => `doubt-batch-${n}`);
    armed = 'lose_answer';
    const answers = await Promise.all(keys.map((key) => post(key)));
    expect(answers.some(({ status }) => status === 503)).toBe(true);
    for (const answer of answers.filter(({ status }) => status !== 201))
      expect(problemOf(answer)).toEqual([503, 'ledger-unavailable']);
    await heal();
    const again = await Promise.all(keys.map((key) => post(key)));
    expect(again.map(({ status, json }) => [status, json.outcome])).toEqual(Array(8).fill([201, 'recorded']));
    const { rows } = await api.t.pool.query(
      "select count(*) as n from opt_outs where client = 'shop' and id = any ($1::uuid[])",
      [again.map(({ json }) => json.id)],
    );
    expect(rows[0].n).toBe(8);
  });

  test('that carries nothing any more is 503 after some seconds for whoever waits, and later ones are recorded', async () => {
    const before = await count('opt_outs');
    const unseen = await api.makeKey({});
    const began = performance.now();
    proxy.setFault('hang');
    const other = send('GET', '/v1/opt-outs', { key: api.key });
    const firstUse = send('GET', '/v1/opt-outs', { key: unseen.token });
    // The first ones are under way when the line stands still, and the others wait behind them.
    const answers = await Promise.all(Array.from({ length: 8 }, (_, n) => post(`hang-${n}`)));
    // So do requests whose key is seen for the first time, or for the first time in a second.
    expect(problemOf(await firstUse)).toEqual([503, 'ledger-unavailable']);
    expect(performance.now() - began).toBeLessThan(20_000);
    for (const answer of answers) {
      expect(problemOf(answer)).toEqual([503, expect.stringMatching(/^(?:overloaded|ledger-unavailable)$/)]);
      expect(answer.headers['retry-after']).toBe('1');
    }
    // Any other question waits until the line is given up.
    expect(problemOf(await other)).toEqual([503, 'ledger-unavailable']);
    await heal();
    const again = await Promise.all(answers.map((_, n) => post(`hang-${n}`)));
    expect(again.map(({ status, json }) => [status, json.outcome])).toEqual(Array(8).fill([201, 'recorded']));
    expect(await count('opt_outs')).toBe(before + 8);
  });
});
