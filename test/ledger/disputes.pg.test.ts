// Disputes of any size, also while others write.
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createKey } from '../../ledger/api-keys.ts';
import { disputedPages, MARK_PAGE, openDispute } from '../../ledger/disputes.ts';
import type { Dispute } from '../../ledger/disputes.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { buffersOf } from '../harness/explain.ts';
import { freshLedger, intent, read, render } from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

let t: TestLedger;
let keyId: string;
beforeAll(async () => {
  t = await freshLedger();
  const fields = { client: 'shop', scopes: [], store: undefined, expiresAt: undefined, caller: undefined };
  keyId = (await createKey(t.pool, fields)).key.id;
});
afterAll(async () => {
  await t[Symbol.asyncDispose]();
});

const caller = { client: 'cli:test', keyId: 'cli', address: 'here', requestId: 'r' };
const now = async (): Promise<string> =>
  (await t.pool.query<{ at: string }>('select clock_timestamp() as at')).rows[0]!.at;
const open = (since: string, until: string): Promise<Dispute | undefined> =>
  openDispute(t.pool, { keyId, client: undefined, since, until, reason: 'why', caller });
const record = async (email: string): Promise<string> =>
  read(
    await t.ledger.record(
      intent(email, { caller: { client: 'shop', keyId, address: 'there', requestId: 'r' } }),
      render,
    ),
  ).id;

// Found by reading: where the statistics know one client alone, the planner took the primary key for any other as well.
test('a window of one client costs nothing for those of another, however many', async () => {
  await withClient(t.db.superuserUrl, (client) =>
    client.query(
      `insert into opt_outs (id, requested_scopes, effective_at, effective_at_stated, received_at, recorded_at, reason,
                             client, key_id, api_version)
       select (lpad(to_hex(n), 12, '0') || '70008' || repeat('0', 15))::uuid, '{email}', now(), false, now(), now(),
              'person_request', 'large', 'aKeyOfLarge1', 'v1'
       from generate_series(1, 100000) n`,
    ),
  );
  await withClient(t.db.urls.owner, (client) => client.query('vacuum analyze opt_outs'));
  const client = await t.pool.connect();
  try {
    await client.query(`prepare mark_page as ${MARK_PAGE}`);
    const nobody = "'00000000-0000-0000-0000-000000000000'";
    const page = `${nobody}, 'nobody', ${nobody}, 'nobodysKey00', '-infinity', 'infinity'`;
    expect(await buffersOf(client, `execute mark_page (${page})`, [])).toBeLessThan(50);
  } finally {
    await client.query('deallocate mark_page');
    client.release();
  }
});

test('a window of twelve thousand opt-outs is marked and read in pages, each once', async () => {
  const first = await record('first@example.com');
  await withClient(t.db.superuserUrl, (client) =>
    client.query(
      `with made as (
         insert into opt_outs (id, requested_scopes, effective_at, effective_at_stated, received_at, recorded_at, reason,
                               client, key_id, api_version)
         select gen_random_uuid(), requested_scopes, effective_at, false, received_at, recorded_at, reason, client,
                case when n % 6 = 0 then 'somebodyElse' else key_id end, api_version
         from opt_outs, generate_series(1, 14400) n where id = $1
         returning id)
       insert into opt_out_subjects (opt_out_id, subject_id, version, state)
       select made.id, b.subject_id, b.version, b.state from made, opt_out_subjects b where b.opt_out_id = $1`,
      [first],
    ),
  );

  const dispute = await open('2020-01-01T00:00:00Z', await now());

  expect(dispute?.optOuts).toBe(12_001);
  const seen: string[] = [];
  for await (const page of disputedPages(t.pool, dispute!.id)) {
    expect(page.length).toBeLessThanOrEqual(5_000);
    seen.push(...page.map(({ optOutId }) => optOutId));
  }
  expect(new Set(seen).size).toBe(12_001);
  expect(seen).toEqual([...seen].sort());
});

test('what is being recorded while it is opened, and has its time already, is waited for and marked', async () => {
  const since = await now();
  await withClient(t.db.superuserUrl, async (slow) => {
    // Holds up every recording of opt-outs after its time was taken, and so before it commits: not by a lock, for which it waits a
    // second at most.
    await slow.query(`
      create table held ();
      insert into held default values;
      create function hold() returns trigger language plpgsql security definer as $$ begin
        while exists (select from held) loop perform pg_sleep(0.05); end loop;
        return new;
      end $$;
      create trigger hold before insert on opt_outs for each row execute function hold()`);
    const recording = record('slow@example.com');
    await eventually(async () => {
      const { rowCount } = await t.pool.query(
        "select from pg_stat_activity where wait_event = 'PgSleep' and datname = current_database()",
      );
      expect(rowCount).toBe(1);
    });
    const opening = open(since, await now());
    await slow.query('delete from held');

    const id = await recording;
    const dispute = await opening;
    expect(dispute?.optOuts).toBe(1);
    const marked = await t.pool.query(
      'select from disputed_opt_outs where dispute_id = $1 and opt_out_id = $2',
      [dispute!.id, id],
    );
    expect(marked.rowCount).toBe(1);
  });
});

test('the role of the API can neither change a dispute nor take a mark away', async () => {
  await withClient(t.db.urls.api, async (client) => {
    for (const statement of ['update disputes set reason = reason', 'delete from disputed_opt_outs'])
      await expect(client.query(statement)).rejects.toMatchObject({ code: '42501' });
  });
});
