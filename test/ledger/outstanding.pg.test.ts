import { expect, test } from '@jest/globals';
import type { AbideError } from '../../suppression/errors.ts';
import { open } from '../../suppression/seal.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { explainRetries } from '../harness/explain.ts';
import {
  freshLedger,
  grant,
  intent,
  outstandingOf,
  render,
  report,
  subject,
  verified,
} from '../harness/ledger.ts';
import type { TestLedger } from '../harness/ledger.ts';

/** As the superuser, for what nobody else may do. */
const damage = ({ db }: TestLedger, ...statements: string[]): Promise<void> =>
  withClient(db.superuserUrl, async (client) => {
    await client.query('set session_replication_role = replica');
    for (const statement of statements) await client.query(statement);
  });

// Found by thinking: the whole page failed, and with it everything that the store was to get from the ledger.
test('an address that cannot be opened withholds its own decision, and no other', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  for (const who of ['ada', 'bob', 'cyd']) await t.ledger.record(intent(`${who}@example.com`), render);
  await damage(
    t,
    'update decisions set sealed = null, transport_key_id = null',
    `update subjects set sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1)
     where id = (select subject_id from decisions where seq = 2)`,
  );
  const given = await outstandingOf(t.ledger, 'crm');
  const key = { id: 1, secret: (await t.ledger.transportKey(1))! };
  const opened = given.map(({ seq, sealed, subjectId, kind }) => {
    try {
      return [seq, open(Buffer.from(sealed!, 'base64url'), key, [subjectId, kind])];
    } catch (error) {
      return [seq, (error as AbideError).code];
    }
  });
  expect(opened).toEqual([
    [1, 'ada@example.com'],
    [2, 'SEALED_UNREADABLE'],
    [3, 'cyd@example.com'],
  ]);
});

// Found by thinking: the newer one was refused and parked, and the consent before it was taken from the ledger and lifted what the
// newer one suppresses.
test('a consent is not given out past a newer decision that was refused, and stays outstanding until that one is held', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' });
  await t.ledger.record(intent('ada@example.com'), render);
  const [first] = await outstandingOf(t.ledger, 'crm');
  await t.ledger.acknowledge('crm', report([verified(first!)]));
  await grant(t, first!.subjectId, ['email']);
  expect(await outstandingOf(t.ledger, 'crm')).toMatchObject([{ seq: 2, version: 2 }]);
  await t.ledger.record(intent('ada@example.com', { scopes: ['email'] }), render);
  const [, newest] = await outstandingOf(t.ledger, 'crm');
  expect(newest!.version).toBe(3);
  const refused = verified(newest!, {
    outcome: 'refused',
    code: 'SCOPE_NOT_HELD',
    held: { version: 1, suppressed: [] },
  });
  await t.ledger.acknowledge('crm', report([refused]));
  expect(await outstandingOf(t.ledger, 'crm')).toEqual([]);
  const lag = async () => (await t.ledger.lag()).stores[0];
  await eventually(async () => expect(await lag()).toMatchObject({ quarantined: 1 }));
  await t.ledger.acknowledge('crm', report([verified(newest!)]));
  await eventually(async () => expect(await lag()).toMatchObject({ quarantined: 0, outstanding: 0 }));
});

// For each page, a store of phone numbers read through ten million email addresses in one statement.
test('a back-fill comes to the one who is due, page by page, past very many who are not', async () => {
  await using t = await freshLedger();
  await damage(
    t,
    `with people as (
       select ('00000000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid as id from generate_series(1, 10500) n),
     decided as (
       insert into decisions (id, cause, subject_id, kind, version, suppressed, granted, effective_at, recorded_at)
       select gen_random_uuid(), 'opt_out', id, 'email', 1, '{"sms":"2026-01-01T00:00:00.000Z"}', '{}', now(), now() from people)
     insert into subjects (id, kind, pepper_id, match_key, normal_form, version, state, granted, updated_at)
       select id, 'email', 1, sha256(id::text::bytea), 1, 1, '{}', '{}', now() from people`,
  );
  await t.ledger.record(intent(subject('+41791234567', 'phone'), { scopes: ['sms'] }), render);
  await t.register({ name: 'texts', accepts: ['phone'], scopes: ['sms'] });
  const page = async (after: string | undefined, waitMs: number) =>
    (await t.ledger.outstanding('texts', {
      after,
      limit: 100,
      waitMs,
      worker: undefined,
      signal: new AbortController().signal,
    }))!;
  // From where the store's cursor stood at first, wherever it is now.
  const start = 'backfill:00000000-0000-0000-0000-000000000000';
  const tenThousandth = `backfill:00000000-0000-7000-8000-${(10_000).toString(16).padStart(12, '0')}`;
  await eventually(async () => expect((await page(start, 0)).next).toBe(tenThousandth));
  // However long it would wait for something to be due, there is more to look through.
  expect(await page(start, 60_000)).toMatchObject({ decisions: [], next: tenThousandth });
  expect(await page(tenThousandth, 0)).toMatchObject({
    decisions: [{ seq: 10_501, kind: 'phone', lane: 'backfill' }],
    next: undefined,
  });

  const [due] = await outstandingOf(t.ledger, 'texts');
  await t.ledger.acknowledge('texts', report([verified(due!, { carriedBy: 'backfill' })]));
  await eventually(async () =>
    expect((await t.ledger.lag()).stores[0]).toMatchObject({ backfill: null, outstanding: 0 }),
  );
});

// Found by reading: what is overdue at a paused store, or at one that is retired, stays so, and every other store's poll walked
// through all of it, several times a second.
test('what is overdue at other stores costs a store nothing', async () => {
  await using t = await freshLedger();
  await t.register({ name: 'crm' }, { name: 'other' });
  await t.ledger.record(intent('ada@example.com'), render);
  const [decision] = await outstandingOf(t.ledger, 'crm');
  const refused = verified(decision!, { outcome: 'refused', code: 'NO' });
  await t.ledger.acknowledge('crm', report([refused]));
  await damage(
    t,
    `insert into exceptions (store_id, generation, seq, subject_id, version, speaks_from, kind, attempts, since, next_try_at)
     select s.id, 1, n, gen_random_uuid(), 1, n, 'absent', 1, now(), now() - n * interval '1 second'
     from stores s, generate_series(1, 20000) n where s.name = 'other'`,
    "update exceptions set next_try_at = now() where kind <> 'absent'",
  );
  const [crm] = t.ledger.stores();
  expect(await outstandingOf(t.ledger, 'crm')).toMatchObject([{ seq: 1 }]);
  expect(await explainRetries(t.pool, crm!)).toBeLessThan(40);
  await damage(t, 'analyze');
  expect(await explainRetries(t.pool, crm!)).toBeLessThan(40);
  expect(await outstandingOf(t.ledger, 'crm')).toMatchObject([{ seq: 1 }]);
});
