// Limits: doing more than a key may, with several keys, calls, versions, files and processes; and learning from a refusal what the
// key could not ask for. How limits work is in test/api/guard/limits.test.ts and test/api/budgets.pg.test.ts.
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createApp } from '../../api/app.ts';
import { listen } from '../../api/server.ts';
import { limitKey, makeToken, revokeKey, rotateKey } from '../../ledger/api-keys.ts';
import type { KeyLimits } from '../../ledger/contract/api-keys.ts';
import { csvOf, serveImports } from '../api/v2/serving-imports.ts';
import type { ServedImports } from '../api/v2/serving-imports.ts';
import { CLIENT_SCOPES } from '../api/serving.ts';
import { eventually } from '../harness/eventually.ts';
import { answered, createSend, problemOf } from '../harness/http.ts';
import type { Answer, Send } from '../harness/http.ts';
import { awayFromMidnight } from '../harness/midnight.ts';

let api: ServedImports;
/** Another process on the same database. */
let elsewhere: Send;
const stack = new AsyncDisposableStack();
beforeAll(async () => {
  await awayFromMidnight();
  api = stack.use(await serveImports());
  elsewhere = await serveElsewhere();
});
afterAll(() => stack.disposeAsync());

const limited = (limits: KeyLimits, client = 'shop') => api.makeKey({ client, limits });
const email = (name: string) => ({ email: `${name}@limits.example` });
const v1 = (key: string, name: string, send = api.send): Promise<Answer> =>
  send('POST', '/v1/opt-outs', { key, body: { subject: email(name) } });
const v2 = (key: string, names: readonly string[], send = api.send): Promise<Answer> =>
  send('POST', '/v2/opt-outs', {
    key,
    body: { identifiers: names.map(email), scopes: ['email', 'sms', 'push'] },
  });
const named = (prefix: string, count: number): string[] =>
  Array.from({ length: count }, (_, n) => `${prefix}${n}`);

const spent = async (keyId: string, direction: string): Promise<number> => {
  const { rows } = await api.t.pool.query<{ spent: number }>(
    'select coalesce(sum(spent), 0)::int as spent from budget_usage where key_id = $1 and direction = $2',
    [keyId, direction],
  );
  return rows[0]!.spent;
};
/** For how many of them anything was decided. */
async function suppressed(names: readonly string[]): Promise<number> {
  const { json } = await api.send('POST', '/v1/checks', {
    key: api.key,
    body: { items: names.map((name) => ({ subject: email(name), channel: 'email' })) },
  });
  return json.items.filter(({ can_send: canSend }: { can_send: boolean }) => !canSend).length;
}
/** What an attacker sees of an answer, except what differs each time. */
const seen = ({ status, headers, text }: Answer): object => {
  const id = headers['x-request-id']!;
  const { date: _, ratelimit: __, 'retry-after': ___, ...rest } = headers;
  return { status, headers: { ...rest, 'x-request-id': '' }, text: text.replaceAll(id, '') };
};

describe('a budget', () => {
  test('is spent to the last person and no further, by both versions, a file, a rotated key and two processes at once', async () => {
    const { id, token } = await limited({ optOutsPerDay: 20 });
    const rotated = (await rotateKey(api.t.pool, { id, overlapSeconds: 60, caller: undefined }))!.token;
    const singles = named('edge-one-', 24);
    const pairs = named('edge-two-', 24);
    const rows = named('edge-row-', 6);
    const file = `email\n${rows.map((name) => `${email(name).email}\n`).join('')}`;
    const [imported, ...answers] = await Promise.all([
      api.post(file, 'scopes=email', { key: token }),
      ...singles.map((name, n) =>
        answered(() => v1(n % 2 === 0 ? token : rotated, name, n % 3 === 0 ? elsewhere : api.send)),
      ),
      ...Array.from({ length: 12 }, (_, n) =>
        answered(() =>
          v2(
            n % 2 === 0 ? rotated : token,
            pairs.slice(2 * n, 2 * n + 2),
            n % 3 === 0 ? elsewhere : api.send,
          ),
        ),
      ),
    ]);
    await api.untilSettled(imported.json.id as string);
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([201, 429]));
    // What was left may have been too little for a pair, and then for the file.
    for (const name of singles) await v1(token, name);
    expect(await spent(id, 'opt_out')).toBe(20);
    expect(await suppressed([...singles, ...pairs, ...rows])).toBe(20);
  });

  test('is no other one for another key of the row of rotations: who limits one of them limits all', async () => {
    const { id, token } = await limited({});
    const rotated = (await rotateKey(api.t.pool, { id, overlapSeconds: 3_600, caller: undefined }))!;
    await limitKey(api.t.pool, {
      id: rotated.key.id,
      limits: { optOutsPerDay: 1, ratePerSecond: 1 },
      caller: undefined,
    });
    const again = (await rotateKey(api.t.pool, {
      id: rotated.key.id,
      overlapSeconds: 3_600,
      caller: undefined,
    }))!;
    const keys = [token, rotated.token, again.token];
    const fresh = await serveElsewhere(() => 0);
    const answers = [];
    for (const [n, key] of keys.entries()) answers.push(await v1(key, `row-${n}`, fresh));
    expect(answers.map(({ status }) => status)).toEqual([201, 429, 429]);
    expect(new Set(answers.map(({ headers }) => headers['ratelimit-policy']))).toEqual(
      new Set(['"writes";q=10;w=10']),
    );
    expect(answers.map(({ headers }) => headers['ratelimit'])).toEqual(
      [9, 8, 7].map((left) => `"writes";r=${left};t=1`),
    );
  });

  test('is spent by every opt-out that is recorded: those who opted out are not decided again pair by pair for nothing', async () => {
    const names = named('pair-', 4);
    for (const name of names) await v1(api.key, name);
    const { id, token } = await limited({ optOutsPerDay: 3 });
    const statuses = [];
    for (let one = 0; one < names.length; one += 1)
      for (let other = one + 1; other < names.length; other += 1)
        statuses.push((await v2(token, [names[one]!, names[other]!])).status);
    expect(statuses).toEqual([201, 201, 201, 429, 429, 429]);
    expect(await spent(id, 'opt_out')).toBe(3);
  });

  test('is not raised by whoever has the key: no call makes, rotates or limits one', async () => {
    const { token } = await api.makeKey({
      scopes: [...CLIENT_SCOPES, 'opt_outs:read_all', 'imports:approve'],
    });
    for (const path of [
      '/keys',
      '/v1/keys',
      '/v2/keys',
      '/v1/api-keys',
      '/v1/limits',
      '/v2/limits',
      '/v1/budgets',
    ])
      for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE'] as const)
        expect([path, method, (await api.send(method, path, { key: token })).status]).toEqual([
          path,
          method,
          404,
        ]);
  });

  test('is spent by a dry run: what a file would change tells of its people as checks do', async () => {
    const { id, token } = await limited({ checksPerDay: 5 });
    await v1(api.key, 'dry');
    const ask = (rows: number) => api.post(csvOf(rows, 880_000), 'scopes=email&dry_run=true', { key: token });
    const first = await ask(4);
    expect(first.status).toBe(202);
    await api.untilSettled(first.json.id as string);
    const refused = await ask(2);
    expect(problemOf(refused)).toEqual([429, 'budget-exhausted']);
    expect(await spent(id, 'check')).toBe(4);
    const { rowCount } = await api.t.pool.query(
      "select from imports where client = 'shop' and rows_total = 2",
    );
    expect(rowCount).toBe(0);
    expect((await ask(1)).status).toBe(202);
    const checked = await api.send('POST', '/v2/checks', {
      key: token,
      body: { items: [{ identifiers: [email('dry')], scope: 'email' }] },
    });
    expect(problemOf(checked)).toEqual([429, 'budget-exhausted']);
  });
});

describe('a key whose budget is spent', () => {
  test('learns of nobody whom others recorded whether they opted out, by whatever records', async () => {
    const other = await limited({}, 'other');
    await v1(other.token, 'opted-out');
    await v2(other.token, ['opted-out-a', 'opted-out-b']);
    await v2(other.token, ['apart-a']);
    await v2(other.token, ['apart-b']);
    const { id, token } = await limited({ optOutsPerDay: 2 });
    const own = await v1(token, 'own');
    await v1(token, 'own-2');
    const repeats = async () =>
      (
        await api.t.pool.query("select from audit_log where key_id = $1 and action = 'opt_out.repeated'", [
          id,
        ])
      ).rowCount;

    const unknown = await v1(token, 'nobody');
    expect(problemOf(unknown)).toEqual([429, 'budget-exhausted']);
    expect(seen(await v1(token, 'opted-out'))).toEqual(seen(unknown));
    const dated = {
      subject: email('opted-out'),
      effective_at: '2020-01-01T00:00:00Z',
      idempotency_key: 'dated',
    };
    const asked = await api.send('POST', '/v1/opt-outs', { key: token, body: dated });
    expect(seen(asked)).toEqual(seen(unknown));
    const unknownPair = await v2(token, ['nobody-a', 'nobody-b']);
    for (const pair of ['opted-out', 'apart']) {
      const answer = await v2(token, [`${pair}-a`, `${pair}-b`]);
      expect([pair, seen(answer)]).toEqual([pair, seen(unknownPair)]);
    }
    const importOf = async (name: string) => {
      const { json } = await api.post(`email\n${email(name).email}\n`, 'scopes=email', { key: token });
      const { state, failure, counts } = await api.untilSettled(json.id as string);
      return { state, failure, counts };
    };
    const failed = await importOf('nobody');
    expect(failed).toMatchObject({ state: 'failed', failure: 'budget-exhausted' });
    expect(await importOf('opted-out')).toEqual(failed);
    expect(await suppressed(['nobody', 'nobody-a', 'nobody-b'])).toBe(0);

    // Its own repeats are answered for ever, so that a retry without a key ends.
    const before = (await repeats())!;
    const again = await v1(token, 'own');
    expect([again.status, again.json.outcome, again.json.id]).toEqual([
      200,
      'already_opted_out',
      own.json.id,
    ]);
    expect(await repeats()).toBe(before + 1);
  });

  test('is told what anybody with a spent key is told: who asks costs it nothing and learns no numbers but its own', async () => {
    const { token } = await limited({ checksPerDay: 1 });
    const ask = (name: string) =>
      api.send('POST', '/v1/subjects/lookup', { key: token, body: { subject: email(name) } });
    await v1(api.key, 'looked-up');
    await ask('looked-up');
    expect(seen(await ask('looked-up'))).toEqual(seen(await ask('nobody-at-all')));
    expect((await ask('looked-up')).json.detail).toBe("The key has spent today's budget of 1 checks.");
  });
});

describe('a key that was revoked', () => {
  test('records nothing by a file that waits, also where that is approved afterwards', async () => {
    await using its = await serveImports({ approveAboveRows: 10, isCarried: false });
    const { id, token } = await its.makeKey({ client: 'stolen' });
    const small = await its.post(csvOf(3), 'scopes=email', { key: token });
    const large = await its.post(csvOf(11, 100), 'scopes=email', { key: token });
    expect([small.json.state, large.json.state]).toEqual(['pending', 'awaiting_approval']);
    const approver = await its.makeKey({ client: 'operations', scopes: ['imports:approve'] });
    const read = async (name: unknown) =>
      (await its.send('GET', `/v2/imports/${String(name)}`, { key: approver.token })).json;

    await revokeKey(its.t.pool, id, undefined);
    await its.send('POST', `/v2/imports/${large.json.id}/approval`, { key: approver.token });
    await its.carry();

    for (const { json } of [small, large]) {
      const ended = await untilFailed(() => read(json.id));
      expect(ended).toMatchObject({ state: 'failed', failure: 'unauthenticated', counts: { recorded: 0 } });
    }
    expect((await its.t.pool.query('select from decisions')).rowCount).toBe(0);
  });
});

describe('a rate', () => {
  const QUOTA = 10;

  test('is one for every spelling of a call and of its credential', async () => {
    const { id, token } = await limited({ ratePerSecond: 1 });
    const rotated = (await rotateKey(api.t.pool, { id, overlapSeconds: 60, caller: undefined }))!.token;
    const began = performance.now();
    const asked = Array.from({ length: 60 }, (_, n) => {
      const path = ['/v1/opt-outs', '/v2/opt-outs', '/v1/opt-outs?limit=1', `/v1/opt-outs?n=${n}`][n % 4]!;
      const scheme = ['Bearer', 'bearer', 'BEARER'][n % 3]!;
      return api.send(n % 5 === 0 ? 'HEAD' : 'GET', path, {
        headers: {
          authorization: `${scheme} ${n % 2 === 0 ? token : rotated}`,
          'x-forwarded-for': `198.51.100.${n}`,
          'x-api-key': makeToken(),
        },
      });
    });
    const letIn = (await Promise.all(asked)).filter(({ status }) => status !== 429).length;
    const refilled = (performance.now() - began) / 1_000;
    expect(letIn).toBeGreaterThanOrEqual(QUOTA);
    expect(letIn).toBeLessThanOrEqual(QUOTA + refilled + 1);
  });
});

describe('an address without a valid credential', () => {
  const MANY = 100;
  const ask = (n: number, key: string): Promise<Answer> =>
    api.send('GET', '/v1/propagation-lag', {
      key,
      headers: {
        'x-forwarded-for': `203.0.113.${n % 250}, 198.51.100.${n % 250}`,
        forwarded: `for="[2001:db8::${n}]"`,
        'x-real-ip': `203.0.113.${n % 250}`,
        'cf-connecting-ip': `203.0.113.${n % 250}`,
        'true-client-ip': `203.0.113.${n % 250}`,
        'x-client-ip': `203.0.113.${n % 250}`,
      },
    });

  test('is counted by its socket, whatever its headers claim; all that is no good is refused alike, and who is good let in', async () => {
    const revoked = await api.makeKey({});
    await revokeKey(api.t.pool, revoked.id, undefined);
    let last: readonly Answer[] = [];
    for (let n = 0; n < 20 && !last.some(({ status }) => status === 429); n += 1)
      last = await Promise.all(Array.from({ length: MANY }, (_, m) => ask(n * MANY + m, makeToken())));
    expect(last.some(({ status }) => status === 429)).toBe(true);

    // Some are let through as time goes on: only refusals are compared.
    const refusedOf = async (key: string): Promise<Answer> => {
      for (let n = 0; ; n += MANY) {
        const answers = await Promise.all(Array.from({ length: MANY }, (_, m) => ask(n + m, key)));
        const refused = answers.find(({ status }) => status === 429);
        if (refused !== undefined) return refused;
      }
    };
    const unknown = seen(await refusedOf(makeToken()));
    expect(seen(await refusedOf(revoked.token))).toEqual(unknown);
    expect(seen(await refusedOf('nonsense'))).toEqual(unknown);
    expect((await ask(1, api.key)).status).toBe(200);
  });
});

/** The API of another process, which remembers no key yet. `now`: the clock that rates go by. */
async function serveElsewhere(now = () => performance.now()): Promise<Send> {
  const log = { warn: () => undefined, error: () => undefined };
  const { handler } = createApp({ ledger: await api.t.another(), log, opsOnSameListener: true, now });
  const listening = await listen(handler, { host: '127.0.0.1', port: 0 });
  stack.defer(() => listening.close());
  return createSend(listening.url);
}

async function untilFailed(read: () => Promise<{ state: string }>): Promise<{ state: string }> {
  return await eventually(async () => {
    const answer = await read();
    expect(answer.state).toBe('failed');
    return answer;
  });
}
