// The pepper is replaced while people are recorded: everybody is found afterwards, once, and no process with an older ring says that
// somebody may be written to.
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { readAudit } from '../../ledger/audit.ts';
import { openPool } from '../../ledger/database.ts';
import type { Pool } from '../../ledger/database.ts';
import { readKeyRing } from '../../ledger/key-ring.ts';
import type { OpenLedger } from '../../ledger/open-ledger.ts';
import { replacePepper } from '../../ledger/replace-pepper.ts';
import type { PepperReplaced } from '../../ledger/replace-pepper.ts';
import { AbideError } from '../../suppression/errors.ts';
import { serveToClients } from '../api/serving.ts';
import type { ServedToClients } from '../api/serving.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import type { Send } from '../harness/http.ts';
import { intent, render } from '../harness/ledger.ts';

const REFUSED = {
  status: 503,
  json: expect.objectContaining({
    code: 'ledger-unavailable',
    detail: 'The pepper was replaced: this process must be started again with the new key ring.',
  }) as unknown,
};

let api: ServedToClients;
let owner: Pool;
/** The newest ring that was kept. */
let keys: string;
beforeEach(async () => {
  api = await serveToClients();
  owner = openPool(api.t.db.urls.owner, { max: 2, onError: () => undefined });
  keys = api.t.keys;
});
afterEach(async () => {
  await owner.end();
  await api[Symbol.asyncDispose]();
});

const replace = ({ isKept = true, signal }: { isKept?: boolean; signal?: AbortSignal } = {}): Promise<
  PepperReplaced | undefined
> =>
  replacePepper(owner, {
    read: () => keys,
    keep: (text) => {
      keys = text;
      return isKept;
    },
    caller: { client: 'cli:ada', keyId: 'cli', address: 'here', requestId: 'cli-1' },
    ...(signal && { signal }),
  });
/** The new pepper is in use, and nobody is moved to it yet. */
async function interrupt(): Promise<void> {
  expect(await replace({ isKept: false })).toBeUndefined();
  await expect(replace({ signal: AbortSignal.abort(new Error('interrupted')) })).rejects.toThrow(
    'interrupted',
  );
}
/** Another process, which has the newest ring. */
const startAnew = async (): Promise<{ ledger: OpenLedger; send: Send }> => {
  const ledger = await api.t.another(undefined, keys);
  return { ledger, send: await api.serve(ledger) };
};
const postBy =
  (send: Send) =>
  (path: string, body: object, headers: Record<string, string> = {}) =>
    send('POST', path, { key: api.key, body, headers });
const post = (...args: Parameters<ReturnType<typeof postBy>>) => postBy(api.send)(...args);

const peppers = async (): Promise<Record<string, number>> => {
  const { rows } = await api.t.pool.query<{ pepper: string; people: number }>(
    'select pepper_id::text as pepper, count(*)::int as people from subjects group by 1',
  );
  return Object.fromEntries(rows.map(({ pepper, people }) => [pepper, people]));
};

const untilWaiting = (lock: string, count: number): Promise<void> =>
  eventually(async () => {
    const { rowCount } = await api.t.pool.query(
      'select from pg_locks where relation = $1::regclass and mode = $2 and not granted',
      ['subjects', lock],
    );
    expect(rowCount).toBe(count);
  });

const ADA = { email: 'ada@example.com' };
const BOB = { email: 'bob@example.com' };

test('everybody is found by the new pepper, and the answers to keys are', async () => {
  const first = await post('/v1/opt-outs', { subject: ADA, idempotency_key: 'one' });
  await post('/v1/opt-outs', { subject: { phone: '+41791234567' } });

  expect(await replace()).toEqual({ keyId: 4, isNew: true, moved: 2, erased: 0, unreadable: 0 });
  expect(await peppers()).toEqual({ 4: 2 });
  const { send } = await startAnew();
  const anew = postBy(send);
  const { json } = await anew('/v2/checks', {
    items: [
      { identifiers: [ADA], scope: 'email' },
      { identifiers: [BOB], scope: 'email' },
    ],
  });
  expect(json.items.map(({ allowed }: { allowed: boolean }) => allowed)).toEqual([false, true]);
  const again = await anew('/v1/opt-outs', { subject: ADA, idempotency_key: 'one' });
  expect([again.status, again.text, again.headers['idempotency-replayed']]).toEqual([
    201,
    first.text,
    'true',
  ]);
  const other = await anew('/v1/opt-outs', { subject: BOB, idempotency_key: 'one' });
  expect([other.status, other.json.code]).toEqual([422, 'idempotency-key-reused']);
  expect(await readAudit(api.t.pool, { after: 0, limit: 10, action: 'key_ring.rotated' })).toMatchObject([
    { client: 'cli:ada', resource: 'pepper key 4' },
  ]);

  // And once more.
  expect(await replace()).toEqual({ keyId: 5, isNew: true, moved: 2, erased: 0, unreadable: 0 });
  const { send: third } = await startAnew();
  expect((await postBy(third)('/v1/opt-outs', { subject: ADA, idempotency_key: 'one' })).text).toBe(
    first.text,
  );
});

// A backup of before the pepper was replaced took the database's place under a process that had it. Whoever was then recorded was not
// found by the process that started next with the ring of that database: a check said "send".
test('nobody is recorded under a pepper that the database does not know, and no check says "send"', async () => {
  await post('/v1/opt-outs', { subject: ADA });
  await replace();
  const { send } = await startAnew();
  await withClient(api.t.db.superuserUrl, (client) =>
    client.query('delete from key_checks where key_id = 4'),
  );
  const unknown = {
    status: 503,
    json: expect.objectContaining({
      code: 'ledger-unavailable',
      detail:
        'The database does not know the pepper of this process: it was restored from a backup. This process must be started again.',
    }) as unknown,
  };
  const ask = postBy(send);
  for (const who of [ADA, BOB]) {
    expect(await ask('/v1/opt-outs', { subject: who })).toMatchObject(unknown);
    expect(await ask('/v1/checks', { items: [{ subject: who, channel: 'email' }] })).toMatchObject(unknown);
  }
  expect(await peppers()).toEqual({ 4: 1 });
});

test('a file that was sent before it is known when it is sent again', async () => {
  const sendFile = (send: Send) =>
    send('POST', '/v2/imports?scopes=email', {
      key: api.key,
      body: 'email\nada@example.com\n',
      headers: { 'content-type': 'text/csv' },
    });
  const first = await sendFile(api.send);
  expect(first.status).toBe(202);
  for (let n = 0; n < 2; n += 1) {
    await replace();
    const { send } = await startAnew();
    const again = await sendFile(send);
    expect([again.status, again.json.id]).toEqual([200, first.json.id]);
  }
  const { rows } = await api.t.pool.query('select from imports');
  expect(rows).toHaveLength(1);
});

test('a process that has the older ring is refused whatever it asks about a person', async () => {
  await post('/v1/opt-outs', { subject: ADA });
  await replace();

  const evidence = { method: 'web_form', statement: 'Write again', source: 'https://example.com' };
  const asked: [string, object][] = [
    ['/v1/checks', { items: [{ ref: '1', subject: ADA, channel: 'email' }] }],
    ['/v2/checks', { items: [{ identifiers: [ADA], scope: 'email' }] }],
    ['/v1/opt-outs', { subject: ADA }],
    ['/v2/opt-outs', { identifiers: [BOB], scopes: ['email'] }],
    ['/v2/grants', { identifier: ADA, scopes: ['email'], granted_at: new Date().toISOString(), evidence }],
    ['/v1/subjects/lookup', { subject: ADA }],
    ['/v2/subjects/lookup', { identifier: ADA }],
    ['/v2/subjects/erasure', { identifiers: [ADA] }],
  ];
  for (const [path, body] of asked)
    expect([path, await post(path, body)]).toEqual([path, expect.objectContaining(REFUSED)]);
  expect((await api.send('GET', '/readyz')).status).toBe(503);
  expect(await peppers()).toEqual({ 4: 1 });
});

describe('while people are still found by the older pepper', () => {
  test('they are the same people, whatever is asked about them', async () => {
    const first = await post(
      '/v2/opt-outs',
      { identifiers: [ADA], scopes: ['email'] },
      { 'idempotency-key': 'one' },
    );
    await post('/v1/opt-outs', { subject: BOB });
    await interrupt();
    expect(await peppers()).toEqual({ 1: 2 });
    const { send, ledger } = await startAnew();
    const anew = postBy(send);

    const { json } = await anew('/v2/checks', { items: [{ identifiers: [BOB, ADA], scope: 'email' }] });
    expect(json.items[0]).toMatchObject({ allowed: false });
    const replayed = await anew(
      '/v2/opt-outs',
      { identifiers: [ADA], scopes: ['email'] },
      { 'idempotency-key': 'one' },
    );
    expect(replayed.text).toBe(first.text);
    expect((await anew('/v1/opt-outs', { subject: BOB })).json.outcome).toBe('already_opted_out');
    // Both at once, and one of them twice.
    const both = await Promise.all(
      [ADA, ADA, BOB].map((subject) =>
        ledger.record(intent(subject.email, { scopes: ['push/news'] }), render),
      ),
    );
    expect(both.map(({ status }) => status).sort()).toEqual([200, 201, 201]);
    const evidence = { method: 'web_form', statement: 'Write again', source: 'https://example.com' };
    const granted = { identifier: ADA, scopes: ['email'], granted_at: new Date().toISOString(), evidence };
    const consent = await anew('/v2/grants', granted, { 'idempotency-key': 'two' });
    expect(consent.json.outcome).toBe('recorded');
    expect((await anew('/v2/subjects/lookup', { identifier: BOB })).json.opt_outs).toHaveLength(2);
    expect((await anew('/v2/subjects/erasure', { identifiers: [ADA, BOB] })).json.identifiers).toMatchObject([
      { outcome: 'erased' },
      { outcome: 'erased' },
    ]);
    expect(await peppers()).toEqual({ 1: 2 });
  });

  test('typing it again finishes, and adds no other pepper', async () => {
    for (const email of ['ada@example.com', 'bob@example.com'])
      await post('/v1/opt-outs', { subject: { email } });
    await interrupt();
    const began = keys;
    expect(await replace()).toEqual({ keyId: 4, isNew: false, moved: 2, erased: 0, unreadable: 0 });
    expect(keys).toBe(began);
  });
});

test('who was erased is found by the older pepper for good, and is the same person on coming back', async () => {
  await post('/v1/opt-outs', { subject: ADA });
  await post('/v1/opt-outs', { subject: BOB });
  await post('/v2/subjects/erasure', { identifiers: [ADA] });
  expect(await replace()).toEqual({ keyId: 4, isNew: true, moved: 1, erased: 1, unreadable: 0 });
  const { send } = await startAnew();
  const anew = postBy(send);
  expect(
    (await anew('/v1/checks', { items: [{ ref: '1', subject: ADA, channel: 'email' }] })).json.items[0],
  ).toMatchObject({
    can_send: false,
  });
  expect((await anew('/v1/opt-outs', { subject: ADA })).status).toBe(201);
  expect(await peppers()).toEqual({ 1: 1, 4: 1 });
  expect(await replace()).toEqual({ keyId: 4, isNew: false, moved: 1, erased: 0, unreadable: 0 });
});

test('whose address cannot be opened stays where it is found', async () => {
  await post('/v1/opt-outs', { subject: ADA });
  await post('/v1/opt-outs', { subject: BOB });
  await withClient(api.t.db.superuserUrl, async (client) => {
    await client.query(
      `update subjects s set sealed = other.sealed from subjects other
       where other.id <> s.id and s.id = (select min(id::text)::uuid from subjects)`,
    );
  });
  expect(await replace()).toEqual({ keyId: 4, isNew: true, moved: 1, erased: 0, unreadable: 1 });
  const { send } = await startAnew();
  const { json } = await postBy(send)('/v2/checks', {
    items: [ADA, BOB].map((one) => ({ identifiers: [one], scope: 'email' })),
  });
  expect(json.items).toMatchObject([{ allowed: false }, { allowed: false }]);
});

test('a ring that is not kept changes nothing, and is taken up once it is given', async () => {
  await post('/v1/opt-outs', { subject: ADA });
  expect(await replace({ isKept: false })).toBeUndefined();
  expect(readKeyRing(keys).pepperId).toBe(4);
  // A process that has it already goes on with the pepper that is in use.
  const early = await startAnew();
  expect((await postBy(early.send)('/v1/opt-outs', { subject: ADA })).json.outcome).toBe('already_opted_out');
  expect((await post('/v1/opt-outs', { subject: ADA })).status).toBe(200);
  expect(await peppers()).toEqual({ 1: 1 });

  expect(await replace({ isKept: false })).toMatchObject({ keyId: 4, isNew: true, moved: 1 });
  expect(await postBy(early.send)('/v1/opt-outs', { subject: ADA })).toMatchObject(REFUSED);
});

test('whatever is recorded meanwhile, nobody is there twice', async () => {
  const people = Array.from({ length: 40 }, (_, n) => `person-${n}@example.com`);
  const done = new AbortController();
  let refused = 0;
  const keepAsking = async (ledger: OpenLedger, isOld: boolean): Promise<void> => {
    for (let n = 0; !done.signal.aborted; n += 1) {
      const who = people[(n * 7) % people.length]!;
      await ledger.record(intent(who, { scopes: ['email'] }), render).catch((error: unknown) => {
        if (!isOld || !(error instanceof AbideError) || error.code !== 'ledger-unavailable') throw error;
        refused += 1;
      });
    }
  };
  const working = [keepAsking(api.t.ledger, true), keepAsking(await api.t.another(), true)];
  await eventually(async () => expect((await peppers())['1']).toBeGreaterThan(5));
  await interrupt();
  const anew = [await startAnew(), await startAnew()];
  working.push(...anew.map(({ ledger }) => keepAsking(ledger, false)));
  await replace();
  await eventually(async () => {
    expect(refused).toBeGreaterThan(0);
    expect(await peppers()).toEqual({ 4: people.length });
  });
  done.abort();
  await Promise.all(working);
  const ring = readKeyRing(keys);
  const { rows } = await api.t.pool.query<{ id: string; sealed: Buffer }>('select id, sealed from subjects');
  expect(rows.map(({ id, sealed }) => ring.unseal(sealed, [id, 'email'])).sort()).toEqual([...people].sort());
});

test('it waits for the recordings that looked for people under the older pepper', async () => {
  await withClient(api.t.db.superuserUrl, async (recording) => {
    const inUse = async () =>
      (
        await recording.query<{ id: number }>(
          "select key_id::int as id from key_checks where purpose = 'pepper'",
        )
      ).rows;
    await recording.query('begin');
    await recording.query('select from subjects limit 0 for update');
    const replacing = replace();
    await untilWaiting('ExclusiveLock', 1);
    expect(await inUse()).toEqual([{ id: 1 }]);
    await recording.query('commit');
    expect(await replacing).toMatchObject({ keyId: 4 });
    expect(await inUse()).toEqual([{ id: 1 }, { id: 4 }]);
  });
});

test('of two who replace it at the same time one is refused, and the ring is the database’s', async () => {
  for (const email of ['ada@example.com', 'bob@example.com'])
    await post('/v1/opt-outs', { subject: { email } });
  const ends = await withClient(api.t.db.superuserUrl, async (holding) => {
    await holding.query('begin');
    await holding.query('lock table subjects');
    // Both know the ring of now, and wait to look at the people.
    const both = Promise.allSettled([replace(), replace()]);
    await untilWaiting('AccessShareLock', 2);
    await holding.query('commit');
    return await both;
  });
  expect(ends.map(({ status }) => status).sort()).toEqual(['fulfilled', 'rejected']);
  expect(ends.find(({ status }) => status === 'rejected')).toMatchObject({ reason: { code: 'overloaded' } });
  expect(await peppers()).toEqual({ 4: 2 });
  const { send } = await startAnew();
  expect((await postBy(send)('/v1/opt-outs', { subject: ADA })).json.outcome).toBe('already_opted_out');
});
