// Files that are given up while a piece of them is on its way, and which of several files is carried.
import { randomBytes } from 'node:crypto';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { openPool } from '../../ledger/database.ts';
import { tidyImports } from '../../ledger/imports.ts';
import type { OpenLedger } from '../../ledger/open-ledger.ts';
import { NOTHING_DECLARED } from '../../suppression/scope.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { watchInVain } from '../harness/explain.ts';
import { freshLedger } from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

let t: TestLedger;
beforeAll(async () => {
  t = await freshLedger();
});
afterAll(async () => {
  await t[Symbol.asyncDispose]();
});

const begin = (): Promise<string> =>
  t.ledger.imports.begin({
    format: 'csv',
    dryRun: false,
    defaults: { scopes: ['email'], reason: 'person_request', effectiveAt: undefined },
    readBy: NOTHING_DECLARED,
    caller: { client: 'shop', keyId: 'one', address: 'here', requestId: 'r' },
    lineage: 'one',
  });

/** Waits until this many wait for the row that `id` stands in, in the order in which they came. */
async function untilWaiting(count: number): Promise<void> {
  await eventually(async () => {
    const { rows } = await t.pool.query<{ n: number }>(
      "select count(*) as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'",
    );
    expect(rows[0]!.n).toBe(count);
  });
}

test('a piece that was on its way leaves nothing behind', async () => {
  const id = await begin();
  let keeping: Promise<unknown>;
  let abandoning: Promise<void>;
  await withClient(t.db.superuserUrl, async (client) => {
    await client.query('begin');
    await client.query('select from imports where id = $1 for update', [id]);
    keeping = t.ledger.imports.keep(id, 0, Buffer.from('email\n'));
    await untilWaiting(1);
    abandoning = t.ledger.imports.abandon(id);
    await untilWaiting(2);
    await client.query('commit');
  });
  await Promise.all([keeping!, abandoning!]);

  expect((await t.pool.query('select from import_chunks')).rowCount).toBe(0);
  expect((await t.pool.query('select from imports')).rowCount).toBe(0);
});

test('what was given up takes no more pieces, and is not submitted', async () => {
  const id = await begin();
  await t.pool.query("update imports set lease_until = '-infinity' where id = $1", [id]);

  const file = { sha256: Buffer.alloc(32), bytes: 6, rows: 0, approveAbove: 1_000 };
  await expect(t.ledger.imports.keep(id, 0, Buffer.from('email\n'))).rejects.toMatchObject({
    code: 'request-timeout',
  });
  expect((await t.pool.query('select from import_chunks')).rowCount).toBe(0);
  await expect(t.ledger.imports.submit(id, file)).rejects.toMatchObject({ code: 'request-timeout' });
});

test('an import that ended is rid of its file by others if its process did not get to that', async () => {
  const id = await begin();
  await t.ledger.imports.keep(id, 0, Buffer.from('email\n'));
  await t.ledger.imports.submit(id, { sha256: randomBytes(32), bytes: 6, rows: 0, approveAbove: 1_000 });
  await t.pool.query("update imports set state = 'failed', finished_at = clock_timestamp() where id = $1", [
    id,
  ]);

  await tidyImports(t.pool, t.ledger.imports);

  expect((await t.pool.query('select from import_chunks')).rowCount).toBe(0);
  expect(await t.ledger.imports.find(id, 'shop')).toMatchObject({ state: 'failed' });
});

describe('of several files', () => {
  let other: OpenLedger;
  let [first, second]: string[] = [];
  beforeAll(async () => {
    other = await t.another();
  });
  beforeEach(async () => {
    const submit = async (): Promise<string> => {
      const id = await begin();
      const file = { sha256: randomBytes(32), bytes: 6, rows: 0, approveAbove: 1_000 };
      await t.ledger.imports.submit(id, file);
      return id;
    };
    [first, second] = [await submit(), await submit()];
  });
  afterEach(async () => {
    await t.pool.query("update imports set state = 'done', lease_until = null");
  });

  const claims = async (ledger: OpenLedger): Promise<string | undefined> =>
    (await ledger.imports.claim(ledger === other ? 'theirs' : 'ours'))?.id;
  const LATE = "update imports set lease_until = clock_timestamp() - interval '1 second' where id = $1";

  // Seen: each of two processes carried a file, with the same people in another order. Their batches waited for each other, in a
  // way that no database sees, and live opt-outs of these people waited with them.
  test('one is carried at a time, the oldest first, however many processes ask at once', async () => {
    // Several times, since the result could depend on who looks while another one takes it.
    for (let n = 0; n < 50; n += 1) {
      const asked = [t.ledger, other, t.ledger, other, t.ledger, other, t.ledger, other].map(claims);
      expect((await Promise.all(asked)).filter((id) => id !== undefined)).toEqual([first]);
      await t.pool.query("update imports set state = 'pending', lease_until = null where id = $1", [first]);
    }
    expect(await claims(other)).toBe(first);
    expect([await claims(t.ledger), await claims(other)]).toEqual([undefined, undefined]);

    for (const holder of ['ours', 'theirs']) await t.ledger.imports.finish(first!, holder);
    expect(await claims(other)).toBe(second);
    expect(await claims(t.ledger)).toBeUndefined();
  });

  test('what a process that died began goes on before another begins', async () => {
    // The older one waited for its approval.
    await t.pool.query("update imports set state = 'awaiting_approval' where id = $1", [first]);
    expect(await claims(t.ledger)).toBe(second);
    await t.pool.query("update imports set state = 'pending' where id = $1", [first]);
    expect(await claims(other)).toBeUndefined();
    await t.pool.query(LATE, [second]);
    expect(await claims(other)).toBe(second);
    expect(await t.ledger.imports.renew(second!, 'ours')).toBe(false);
  });

  // Found by reading: after the clock was set back, nobody followed a process that died for as long.
  test('one whose lease ends later than any can is taken over', async () => {
    expect(await claims(t.ledger)).toBe(first);
    await t.pool.query(
      "update imports set lease_until = clock_timestamp() + interval '1 hour' where id = $1",
      [first],
    );
    expect(await claims(other)).toBe(first);
  });

  test('none begins while a slow process moves its own on', async () => {
    expect(await claims(t.ledger)).toBe(first);
    await t.pool.query(LATE, [first]);
    await withClient(t.db.superuserUrl, async (client) => {
      await client.query('begin');
      await client.query(
        "update imports set lease_until = clock_timestamp() + interval '30 seconds' where id = $1",
        [first],
      );
      expect(await claims(other)).toBeUndefined();
      await client.query('commit');
    });
    expect(await claims(other)).toBeUndefined();
  });
});

test("a client's list of imports does not look at those of others", async () => {
  await using fresh = await freshLedger();
  const watched = watchInVain(openPool(fresh.db.urls.api, { max: 6, onError: () => undefined }));
  const { imports } = await fresh.another(watched.pool);
  await withClient(fresh.db.urls.owner, async (client) => {
    await client.query(`
      insert into imports (id, client, key_id, key_lineage, caller_address, request_id, state, format, dry_run, reason, is_kept, bytes,
        rows_total, rows_done, recorded, already, invalid, errors_found, created_at, received_at, read_by, fingerprint)
      select lpad(to_hex(n), 32, '0')::uuid, case when n <= 3 then 'shop' else 'large' end, 'one', 'one', 'here', 'r', 'done', 'csv',
        false, 'legal', false, 6, 0, 0, 0, 0, 0, 0, now(), now(), '{}', int4send(n)
      from generate_series(1, 20000) n`);
    await client.query('vacuum analyze imports');
  });
  const pages = [];
  for (let cursor: string | undefined; ;) {
    const page = await imports.list({ client: 'shop', limit: 2, cursor, state: undefined });
    pages.push(page.imports.map(({ id, client }) => [client, Number(`0x${id.slice(-4)}`)]));
    if (page.nextCursor === undefined) break;
    cursor = page.nextCursor;
  }
  expect(pages.map((page) => page.join())).toEqual(['shop,3,shop,2', 'shop,1']);
  expect(await watched.most()).toBeLessThan(10);
});
