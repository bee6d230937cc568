import { readdirSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import type pg from 'pg';
import { makePartitions } from '../../ledger/housekeeping.ts';
import { migrate } from '../../ledger/migrate.ts';
import { emptyDatabase, freshDatabase, withClient } from '../harness/database.ts';
import type { TestDatabase } from '../harness/database.ts';
import { ROLES } from '../harness/postgres-of-the-run.ts';

const FORBIDDEN = { code: '42501' };
const NOT_AS_DECIDED = { code: '23514' };
const SUBJECT = '01990000-0000-7000-8000-000000000001';
const OPT_OUT = '01990000-0000-7000-8000-00000000000a';

const emailSince = (first: string, last = first): string =>
  JSON.stringify({ email: { first_effective_at: first, last_effective_at: last, opt_out_id: OPT_OUT } });
const STATE = emailSince('2026-11-24T09:00:00.000Z');

const decide = (
  client: pg.Client,
  version: number,
  suppressed: object,
  granted: object = {},
): Promise<unknown> =>
  client.query(
    `insert into decisions (id, cause, opt_out_id, subject_id, kind, version, suppressed, granted, effective_at, recorded_at)
     values (gen_random_uuid(), 'opt_out', $1, $2, 'email', $3, $4, $5, now(), now())`,
    [OPT_OUT, SUBJECT, version, suppressed, granted],
  );
const addSubject = (client: pg.Client, state = STATE): Promise<unknown> =>
  client.query(
    `insert into subjects (id, kind, pepper_id, match_key, normal_form, version, state, granted, updated_at)
     values ($1, 'email', 1, '\\x01', 1, 1, $2, '{}', now())`,
    [SUBJECT, state],
  );
const change = (client: pg.Client, set: string, ...values: unknown[]): Promise<pg.QueryResult> =>
  client.query(`update subjects set ${set} where id = '${SUBJECT}'`, values);

/** A subject that opted out of email, as the API's role records it. */
async function withSubject(work: (client: pg.Client, db: TestDatabase) => Promise<void>): Promise<void> {
  await using db = await freshDatabase();
  await withClient(db.urls.api, async (client) => {
    await decide(client, 1, { email: '2026-11-24T09:00:00.000Z' });
    await addSubject(client);
    await work(client, db);
  });
}

// `abide doctor` said so, but a start did nothing. Neither said anything of a publication that was altered.
test.each([
  'drop publication abide',
  'alter publication abide drop table decisions',
  "alter publication abide set (publish = 'update')",
  "alter publication abide set table decisions where (kind = 'phone'), abide_heartbeat",
])('a publication that is not ours any more is made again by the next start: %s', async (statement) => {
  await using db = await freshDatabase();
  await withClient(db.urls.owner, async (client) => {
    const published = async (): Promise<unknown[]> =>
      (
        await client.query(
          `select pubinsert, t.* from pg_publication_tables t join pg_publication using (pubname)
           where pubname = 'abide' order by tablename`,
        )
      ).rows;
    const before = await published();
    expect(before).toHaveLength(2);
    await client.query(statement);

    await migrate(db.urls.owner, ROLES);

    expect(await published()).toEqual(before);
  });
});

test('three processes that start at once on an empty database all succeed', async () => {
  await using db = await emptyDatabase();

  await Promise.all([1, 2, 3].map(() => migrate(db.urls.owner, ROLES)));
  await migrate(db.urls.owner, ROLES);

  const { rows } = await withClient(db.urls.owner, (client) =>
    client.query<{ name: string }>('select name from knex_migrations'),
  );
  expect(rows.map(({ name }) => name)).toEqual(
    readdirSync('ledger/migrations')
      .map((file) => file.replace(/\.ts$/, ''))
      .sort(),
  );
});

test('a migration that was killed does not lock the next one out', async () => {
  await using db = await emptyDatabase();
  await migrate(db.urls.owner, ROLES);
  await withClient(db.urls.owner, (client) => client.query('update knex_migrations_lock set is_locked = 1'));

  await migrate(db.urls.owner, ROLES);
});

// Knex called it a corrupt directory of ours with missing files, which sent people to look at their checkout.
test('a database that a newer version has used is refused in words, and left as it is', async () => {
  await using db = await freshDatabase();
  await withClient(db.urls.owner, async (client) => {
    await client.query(
      `insert into knex_migrations (name, batch) values ('9998-next', 2), ('9999-after', 3)`,
    );
    await client.query('revoke select on stores from abide_api');
  });

  await expect(migrate(db.urls.owner, ROLES)).rejects.toThrow(
    'The database was used by a newer Abide (it has 9998-next, 9999-after): start that one. Nothing was changed.',
  );

  await withClient(db.urls.api, async (client) => {
    await expect(client.query('select from stores')).rejects.toMatchObject(FORBIDDEN);
  });
});

// It was accepted, and other characters (in a client's name, a reason) ended in a 500 and an error of PostgreSQL's.
test('a database that is not in UTF-8 is refused in words, and left as it is', async () => {
  await using db = await emptyDatabase();
  const name = `${db.name}_latin`;
  const superuser = (statement: string) => withClient(db.superuserUrl, (client) => client.query(statement));
  await superuser(
    `create database ${name} owner abide_owner encoding 'LATIN1' template template0 locale 'C'`,
  );
  try {
    const url = Object.assign(new URL(db.urls.owner), { pathname: name }).href;

    await expect(migrate(url, ROLES)).rejects.toThrow(
      "The database has the encoding LATIN1: create another one with encoding 'UTF8' template template0.",
    );

    const { rows } = await withClient(url, (client) => client.query("select to_regclass('knex_migrations')"));
    expect(rows).toEqual([{ to_regclass: null }]);
  } finally {
    await superuser(`drop database ${name} with (force)`);
  }
});

// A point-in-time recovery pauses at its end unless told otherwise: the database "could not be reached", while doctor said it
// answers.
test('a database that takes no writes is said to be one, and not to be away', async () => {
  await using db = await freshDatabase();
  await withClient(db.superuserUrl, (client) =>
    client.query(`alter database ${db.name} set default_transaction_read_only = on`),
  );
  await expect(migrate(db.urls.owner, ROLES)).rejects.toThrow('takes no writes: it is a replica');
});

// "It cannot be reached", and was told to run and accept credentials, while it did both.
test.each([
  ['53100', 'runs, but its disk is full: free some space on it'],
  ['53300', 'runs, but has no connection left'],
  ['53200', 'runs, but lacks a resource: its log says which'],
])('a database that lacks a resource (%s) is said to, and not to be away', async (code, said) => {
  await using db = await emptyDatabase();
  await withClient(db.superuserUrl, (client) =>
    client.query(
      `create function lack() returns event_trigger language plpgsql as
         $$ begin raise exception 'not enough' using errcode = '${code}'; end $$;
       create event trigger lack on ddl_command_start execute function lack()`,
    ),
  );
  await expect(migrate(db.urls.owner, ROLES)).rejects.toMatchObject({
    code: 'DATABASE_UNREACHABLE',
    message: expect.stringContaining(said) as unknown,
  });
});

test('a database with a single role is migrated and works as that role', async () => {
  await using db = await emptyDatabase();

  await migrate(db.urls.owner, { apiRole: 'abide_owner', replicationRole: 'abide_owner' });

  await withClient(db.urls.owner, async (client) => {
    await decide(client, 1, { email: '2026-11-24T09:00:00.000Z' });
    await addSubject(client);
  });
});

test('a database that is not there is said to be unreachable', async () => {
  await expect(migrate('postgres://nobody@127.0.0.1:1/none', ROLES)).rejects.toMatchObject({
    code: 'DATABASE_UNREACHABLE',
  });
});

test('a right that was given by hand is gone after the next start', async () => {
  await using db = await freshDatabase();
  await withClient(db.urls.owner, (client) => client.query('grant delete on subjects to abide_api'));

  await migrate(db.urls.owner, ROLES);

  await withClient(db.urls.api, async (client) => {
    await expect(client.query('delete from subjects')).rejects.toMatchObject(FORBIDDEN);
  });
});

describe("the API's role", () => {
  let db: TestDatabase;
  beforeAll(async () => {
    db = await freshDatabase();
  });
  afterAll(async () => {
    await db[Symbol.asyncDispose]();
  });

  test.each([
    'update decisions set sealed = null',
    'delete from decisions',
    'truncate decisions',
    'update audit_log set details = null',
    'delete from audit_log',
    'truncate audit_log',
    'delete from subjects',
    'truncate subjects',
    'update subjects set match_key = sha256(match_key)',
    'update subjects set pepper_id = pepper_id + 1',
    "update subjects set kind = 'phone'",
    'update subjects set id = gen_random_uuid()',
    'delete from opt_outs',
    'truncate opt_outs',
    'update opt_outs set reason = reason',
    'delete from opt_out_subjects',
    'update opt_out_subjects set version = version',
    'delete from acknowledgements',
    'update acknowledgements set outcome = outcome',
    'truncate acknowledgements',
    'delete from acknowledgements_0',
    'delete from stores',
    'delete from api_keys',
    'delete from transport_keys',
    'update disputes set reason = reason',
    'delete from disputes',
    'update disputed_opt_outs set dispute_id = dispute_id',
    'delete from disputed_opt_outs',
    'update key_checks set check_value = check_value',
    'delete from key_checks',
    'update idempotency_keys set answer = answer',
    'insert into abide_heartbeat values (now())',
    'delete from knex_migrations',
    'create table mine ()',
    'create temporary table mine ()',
    'create schema mine',
    'alter table decisions disable trigger all',
    'drop trigger append_only on decisions',
    'alter publication abide drop table decisions',
    "set session_replication_role = 'replica'",
    "select setval('decisions_seq_seq', 1)",
    'set role abide_owner',
  ])('may not: %s', async (statement) => {
    await withClient(db.urls.api, async (client) => {
      await expect(client.query(statement)).rejects.toMatchObject({
        code: expect.stringMatching('42501|42P01'),
      });
    });
  });

  test.each([
    'update opt_outs set first_completed_at = now() where first_completed_at is null',
    'update subjects set sealed = null',
    'update opt_outs set note = null, evidence = null, idempotency_key = null',
    'update grants set idempotency_key = null',
    'update stores set paused_at = now()',
    'update api_keys set revoked_at = now()',
    'update transport_keys set key = null',
    'update workers set report = report',
    'update carried set count = count',
    'delete from exceptions',
    'delete from workers',
    'delete from latency_buckets',
    'delete from idempotency_keys',
    'select from subjects for update',
    'select last_value from decisions_seq_seq',
    "insert into key_checks values (1, 'pepper', '\\x00')",
    'insert into audit_log (at, action, details) select now(), action, details from audit_log',
    'select pg_current_xact_id(), pg_current_snapshot()',
  ])('may: %s', async (statement) => {
    await withClient(db.urls.api, (client) => client.query(statement));
  });

  test('makes partitions ahead, and acknowledges into them, without owning a table', async () => {
    await withClient(db.urls.api, async (client) => {
      await client.query('select make_acknowledgement_partitions(25000000)');
      await client.query(
        `insert into acknowledgements (store_id, generation, seq, version, outcome, acknowledged_at, latency_ms, attempts,
           worker, carried_by) values (1, 1, 25000000, 1, 'verified', now(), 1, 1, 'w', 'stream')`,
      );
      await expect(client.query('delete from acknowledgements_2')).rejects.toMatchObject(FORBIDDEN);
    });
  });
});

// Found by reading: at every ten-millionth decision a backup stopped all acknowledgements, and no process could start, for as long as
// it read.
test('who reads acknowledgements for long keeps no partition waiting, and it is like those that the first migration made', async () => {
  await using db = await freshDatabase();
  await withClient(db.urls.owner, (client) => client.query("select setval('decisions_seq_seq', 10000000)"));
  await withClient(db.urls.owner, async (reader) => {
    await reader.query('begin; select from acknowledgements');
    await withClient(db.urls.api, async (client) => {
      await client.query("set lock_timeout = '1s'");
      await makePartitions(client);
      await client.query(
        `insert into acknowledgements (store_id, generation, seq, version, outcome, acknowledged_at, latency_ms, attempts,
           worker, carried_by) values (1, 1, 20000000, 1, 'verified', now(), 1, 1, 'w', 'stream')`,
      );
    });
    const { rows } = await reader.query<{ name: string }>(
      `select c.relname as name, pg_get_userbyid(c.relowner) as owner, coalesce(c.relacl, acldefault('r', c.relowner)) as acl, c.relispartition,
         (select json_agg(a order by a.attnum) from (
            select attnum, attname, atttypid, attnotnull, attstorage, attislocal, attinhcount
            from pg_attribute where attrelid = c.oid) a) as columns,
         (select json_agg(k order by k.contype, k.def) from (
            select contype, pg_get_constraintdef(oid) as def, conislocal, coninhcount
            from pg_constraint where conrelid = c.oid) k) as constraints,
         (select json_agg(i order by i.def) from (
            select replace(pg_get_indexdef(indexrelid), c.relname, 'it') as def, r.relispartition
            from pg_index join pg_class r on r.oid = indexrelid where indrelid = c.oid) i) as indexes
       from pg_class c where c.oid in (select inhrelid from pg_inherits where inhparent = 'acknowledgements'::regclass)
       order by 1`,
    );
    expect(rows.map(({ name }) => name)).toEqual([0, 1, 2].map((n) => `acknowledgements_${n}`));
    const [first, , third] = rows.map((row) => ({ ...row, name: 'it' }));
    expect(third).toEqual(first);
  });
});

describe('the replication role', () => {
  let db: TestDatabase;
  beforeAll(async () => {
    db = await freshDatabase();
  });
  afterAll(async () => {
    await db[Symbol.asyncDispose]();
  });

  test('reads what is captured and keeps the heartbeat', async () => {
    await withClient(db.urls.replication, async (client) => {
      await client.query('select from decisions');
      await client.query('insert into abide_heartbeat values (now())');
      await client.query('delete from abide_heartbeat');
    });
  });

  test.each([
    'select from subjects',
    'select from opt_outs',
    'select from idempotency_keys',
    'select from api_keys',
    'select from transport_keys',
    'insert into decisions (id) values (gen_random_uuid())',
    'delete from decisions',
    'update abide_heartbeat set at = now()',
    'select make_acknowledgement_partitions(1)',
    'create table mine ()',
  ])('may not: %s', async (statement) => {
    await withClient(db.urls.replication, async (client) => {
      await expect(client.query(statement)).rejects.toMatchObject(FORBIDDEN);
    });
  });
});

test('not even the owner changes a decision or deletes a person by a slip', async () => {
  await using db = await freshDatabase();
  await withClient(db.urls.owner, async (client) => {
    for (const statement of [
      ...[
        'update decisions set sealed = null',
        'delete from decisions',
        'truncate decisions',
        'delete from audit_log',
      ],
      ...['delete from subjects', 'truncate subjects', 'delete from opt_outs'],
    ]) {
      await expect(client.query(statement)).rejects.toMatchObject(FORBIDDEN);
    }
  });
});

describe('a subject is what its decision says', () => {
  test('a new subject without a decision is refused', async () => {
    await using db = await freshDatabase();
    await withClient(db.urls.api, async (client) => {
      await expect(addSubject(client)).rejects.toMatchObject(NOT_AS_DECIDED);
    });
  });

  test('a new subject with another scope than was decided is refused', async () => {
    await using db = await freshDatabase();
    await withClient(db.urls.api, async (client) => {
      await decide(client, 1, { sms: '2026-11-24T09:00:00.000Z' });
      await expect(addSubject(client)).rejects.toMatchObject(NOT_AS_DECIDED);
    });
  });

  test.each([
    ['a scope taken away without a decision', "state = '{}'"],
    ['a scope taken away under a new version without a decision', "state = '{}', version = 2"],
    ['a scope granted without a decision', `granted = '{"email": {}}'`],
    ['a new version without a decision', 'version = 2'],
    ['an older version', 'version = 0'],
    ['a later beginning', `state = '${emailSince('2026-11-24T10:00:00.000Z')}'`],
    ['an earlier end', `state = '${emailSince('2026-11-24T08:00:00.000Z')}'`],
  ])('%s is refused', (_, set) =>
    withSubject(async (client) => {
      await expect(change(client, set)).rejects.toMatchObject(NOT_AS_DECIDED);
    }),
  );

  // Compared with null nothing was wrong: one statement took the dates of everybody, and each check of theirs answered 500.
  test('a date or an opt-out taken away is refused', () =>
    withSubject(async (client) => {
      for (const state of [
        "state #- '{email,first_effective_at}'",
        "state #- '{email,last_effective_at}'",
        "state #- '{email,opt_out_id}'",
        `'{"email": null}'`,
      ])
        await expect(change(client, `state = ${state}`)).rejects.toMatchObject(NOT_AS_DECIDED);
    }));

  test.each([
    ['kind', "kind = 'phone'"],
    ['id', 'id = gen_random_uuid()'],
  ])('another %s is refused, to the owner as well', (_, set) =>
    withSubject((__, db) =>
      withClient(db.urls.owner, async (owner) => {
        await expect(change(owner, set)).rejects.toMatchObject(NOT_AS_DECIDED);
      }),
    ),
  );

  test('dates may widen without a version', () =>
    withSubject(async (client) => {
      const wider = emailSince('2026-11-23T09:00:00.000Z', '2026-11-25T09:00:00.000Z');
      expect((await change(client, 'state = $1', wider)).rowCount).toBe(1);
    }));

  test('a scope more is a version more, with its decision', () =>
    withSubject(async (client) => {
      const both = { ...(JSON.parse(STATE) as object), sms: (JSON.parse(STATE) as { email: object }).email };
      await decide(client, 2, { email: 'x', sms: 'x' });
      expect((await change(client, 'version = 2, state = $1', both)).rowCount).toBe(1);
    }));

  test('a grant takes a scope away, with its decision', () =>
    withSubject(async (client) => {
      await decide(client, 2, {}, { email: { at: 'x', version: 2 } });
      const granted = { email: { at: 'x', version: 2 } };
      expect((await change(client, "version = 2, state = '{}', granted = $1", granted)).rowCount).toBe(1);
    }));

  test('of many subjects in one statement one that is wrong refuses all', () =>
    withSubject(async (client, db) => {
      await client.query(
        `with d as (insert into decisions (id, cause, subject_id, kind, version, suppressed, granted, effective_at, recorded_at)
           select gen_random_uuid(), 'opt_out', '01990000-0000-7000-8000-000000000002', 'email', 1, '{}', '{}', now(), now())
         insert into subjects (id, kind, pepper_id, match_key, normal_form, version, state, granted, updated_at)
         values ('01990000-0000-7000-8000-000000000002', 'email', 1, '\\x02', 1, 1, '{}', '{}', now())`,
      );
      const wrong = `update subjects set granted = case when id = '${SUBJECT}' then '{"email": {}}' else granted end`;
      await expect(client.query(wrong)).rejects.toMatchObject(NOT_AS_DECIDED);
      expect(
        await withClient(
          db.urls.owner,
          async (owner) => (await owner.query('select from subjects')).rowCount,
        ),
      ).toBe(2);
    }));
});
