import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import postgres from '../../connectors/postgres.ts';
import type { Guard } from '../../processes/guard/guarded-store.ts';
import { openGuard } from '../../processes/guard/open-guard.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { describeGuard } from './describe-guard.ts';

/** What pg_dump would write down, as far as a guard could touch it. */
const LISTING = `
  select 'relation' as what, c.oid::regclass::text as name, c.relkind::text || ' ' || c.relhastriggers::text || coalesce(c.relacl::text, '') as as_defined
  from pg_class c join pg_namespace n on n.oid = relnamespace where nspname not like 'pg\\_%' and nspname <> 'information_schema'
  union all select 'column', attrelid::regclass::text || '.' || attname, format_type(atttypid, atttypmod) || attnotnull::text
  from pg_attribute join pg_class c on c.oid = attrelid join pg_namespace n on n.oid = relnamespace
  where attnum > 0 and nspname not like 'pg\\_%' and nspname <> 'information_schema'
  union all select 'trigger', tgname, pg_get_triggerdef(pg_trigger.oid) from pg_trigger
  union all select 'function', pg_proc.oid::regprocedure::text, prosrc from pg_proc
  join pg_namespace n on n.oid = pronamespace where nspname not like 'pg\\_%' and nspname <> 'information_schema'
  union all select 'comment', objoid::text, description from pg_description where objoid > 16384
  order by 1, 2, 3`;

describeGuard('postgres', postgres, async () => {
  const database = await emptyDatabase();
  const asOwner = <T>(work: Parameters<typeof withClient<T>>[1]) => withClient(database.urls.owner, work);
  return {
    url: database.urls.owner,
    query: (sql) => asOwner(async (client) => (await client.query<Record<string, unknown>>(sql)).rows),
    load: async (lines) => {
      const program = `printf '${lines.join('\\n')}\\n'`.replaceAll("'", "''");
      await withClient(database.superuserUrl, (client) =>
        client.query(
          `copy contacts (id, email, phone, may_mail, no_texts) from program '${program}' (format csv)`,
        ),
      );
    },
    // A table that had a trigger keeps saying so until it is vacuumed.
    listing: async () => {
      await withClient(database.superuserUrl, async (client) => {
        const { rows } = await client.query<{ name: string }>(
          "select oid::regclass::text as name from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace",
        );
        for (const { name } of rows) await client.query(`vacuum ${name}`);
      });
      return await asOwner(async (client) => (await client.query(LISTING)).rows);
    },
    importer: async () => {
      await asOwner((client) => client.query('grant all on contacts to abide_api'));
      return (sql) => withClient(database.urls.api, (client) => client.query(sql));
    },
    reader: async () => {
      await asOwner((client) => client.query('grant select on all tables in schema public to abide_api'));
      return database.urls.api;
    },
    [Symbol.asyncDispose]: () => database[Symbol.asyncDispose](),
  };
});

/** A guarded table. */
async function given(contacts = 'create table contacts (email text, may_mail boolean)') {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await emptyDatabase());
  const folder = await mkdtemp(join(tmpdir(), 'abide-guard-'));
  stack.defer(() => rm(folder, { recursive: true }));
  const file = join(folder, 'abide.yaml');
  await writeFile(
    file,
    `stores: { crm: { connector: postgres, url: '${database.urls.owner}', scopes: [email], guard: [{ table: contacts, key: email, may_send: { email: may_mail } }] } }`,
  );
  const query = async (sql: string) =>
    (await withClient(database.urls.owner, (client) => client.query<Record<string, unknown>>(sql))).rows;
  const open = (url?: string) => openGuard({ ABIDE_CONFIG: file }, 'crm', url);
  const guard = async (
    statementsOf: (guard: Guard) => Promise<readonly string[]>,
    url?: string,
  ): Promise<void> => {
    await using opened = await open(url);
    await opened.run(await statementsOf(opened));
  };
  await query(`
    ${contacts};
    create table suppressions (kind text, key text collate "C", email boolean, primary key (kind, key));
    insert into suppressions values ('email', 'ada@example.com', true);`);
  await guard((opened) => opened.installing());
  const status = async () => {
    await using opened = await open();
    return (await opened.status())[0];
  };
  const state = async () => (await status())?.state;
  return { database, query, open, guard, status, state, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

test('a trigger of theirs that enables everybody comes before the guard', async () => {
  await using t = await given();
  await t.query(`
    create function enable() returns trigger language plpgsql as $$ begin new.may_mail := true; return new; end $$;
    create trigger welcome before insert on contacts for each row execute function enable()`);
  expect(await t.query("insert into contacts values ('ada@example.com', false) returning may_mail")).toEqual([
    { may_mail: false },
  ]);
});

test('an upsert is an insert first, and is logged once', async () => {
  await using t = await given();
  await t.query(
    "create unique index on contacts (email); insert into contacts values ('ada@example.com', false)",
  );
  await t.query(
    "insert into contacts values ('ada@example.com', true) on conflict (email) do update set may_mail = excluded.may_mail",
  );
  expect(await t.query('select may_mail from contacts')).toEqual([{ may_mail: false }]);
  expect(await t.query('select channel, key from abide_guard_log')).toEqual([
    { channel: 'email', key: 'ada@example.com' },
  ]);
});

// A bulk load had disabled the triggers and not enabled them again; status went on saying that all was installed.
test.each([
  ['not at all', 'alter table contacts disable trigger all', 'outdated'],
  ['on replicas alone', 'alter table contacts enable replica trigger zz_%', 'outdated'],
  ['on replicas too', 'alter table contacts enable always trigger zz_%', 'installed'],
])(
  'of a trigger that fires %s status says so, and the installation puts it right',
  async (_when, sql, state) => {
    await using t = await given();
    const [trigger] = await t.query("select tgname as name from pg_trigger where starts_with(tgname, 'zz_')");
    await t.query(sql.replace('zz_%', String(trigger!['name'])));
    expect(await t.state()).toBe(state);
    await t.guard((guard) => guard.installing());
    expect(await t.state()).toBe('installed');
    expect(await t.query("insert into contacts values ('ada@example.com', true) returning may_mail")).toEqual(
      [{ may_mail: false }],
    );
  },
);

test('a table is guarded in each of its partitions, or it is not', async () => {
  await using t = await given(`
    create table contacts (email text, may_mail boolean) partition by hash (email);
    create table contacts_0 partition of contacts for values with (modulus 2, remainder 0);
    create table contacts_1 partition of contacts for values with (modulus 2, remainder 1)`);
  expect(await t.state()).toBe('installed');
  await t.query('alter table contacts_1 disable trigger user');
  expect(await t.state()).toBe('outdated');
  await t.guard((guard) => guard.installing());
  expect(await t.state()).toBe('installed');
});

// The function runs as the role that installed it, and everybody could execute it: on a temporary table of their own it told them,
// row by row, whom the store holds suppressed.
test('nobody learns from its function who is suppressed, and whoever imports is guarded without a right on it', async () => {
  await using t = await given();
  await t.query('grant usage on schema public to abide_api; grant insert, select on contacts to abide_api');
  const asOther = async (sql: string) =>
    (await withClient(t.database.urls.api, (client) => client.query<Record<string, unknown>>(sql))).rows;
  const [made] = await t.query(
    "select oid::regproc::text as name from pg_proc where proname like 'abide_guard_%'",
  );
  await expect(
    asOther(`
      create temporary table probe (email text, may_mail boolean);
      create trigger probe before insert on probe for each row execute function ${String(made!['name'])}()`),
  ).rejects.toThrow('permission denied for function');
  expect(await asOther("insert into contacts values ('ada@example.com', true) returning may_mail")).toEqual([
    { may_mail: false },
  ]);

  // As it used to be installed.
  await t.query(`grant execute on function ${String(made!['name'])}() to public`);
  expect(await t.state()).toBe('outdated');
  await t.guard((guard) => guard.installing());
  expect(await t.state()).toBe('installed');
});

// The function ran as the superuser who had installed it. The table's owner gave a column a type of their own, whose check was a
// function of theirs, and the next suppressed row ran that as the superuser.
test('whoever owns a guarded table runs nothing as whoever installed the guard', async () => {
  await using t = await given();
  const asOther = (sql: string) => withClient(t.database.urls.api, (client) => client.query(sql));
  await withClient(t.database.superuserUrl, (client) =>
    client.query(
      'grant create on schema public to abide_api; alter table contacts owner to abide_api; grant select on contacts to abide_owner',
    ),
  );
  await t.guard((guard) => guard.installing(), t.database.superuserUrl);
  expect(await t.state()).toBe('installed');
  expect(
    await t.query(
      "select pg_get_userbyid(proowner) as runs_as from pg_proc where proname like 'abide_guard_%'",
    ),
  ).toEqual([{ runs_as: 'abide_owner' }]);
  await asOther("insert into contacts values ('ada@example.com', true)");
  expect(await t.query('select may_mail, key from contacts, abide_guard_log')).toEqual([
    { may_mail: false, key: 'ada@example.com' },
  ]);

  await asOther(`
    create function look(boolean) returns boolean language sql as 'select true';
    create domain may as boolean check (look(value));
    create type mail as enum ('ada@example.com');
    create function look(mail) returns text language sql as 'select null::text';
    create cast (mail as text) with function look(mail)`);
  for (const change of [
    'may_mail type may',
    'email type mail using email::mail, alter may_mail type boolean',
  ]) {
    await asOther(`alter table contacts alter ${change}`);
    await expect(asOther("insert into contacts values ('ada@example.com', true)")).rejects.toThrow(
      'a guarded column of public.contacts has another type: run abide guard install',
    );
  }
  await expect(t.guard((guard) => guard.installing(), t.database.superuserUrl)).rejects.toThrow(
    'is of a type that abide_api made',
  );
});

test('letters beyond ASCII are lowered by what the database has for it, and where it has nothing they are unreadable', async () => {
  await using t = await given();
  await t.query(
    "insert into suppressions values ('email', 'josé@example.com', true), ('email', 'οδος@example.com', true)",
  );
  const tried = ['JOSÉ@example.com', 'ΟΔΟΣ@example.com', 'ADA@example.com'].map(
    (email) => `('${email}', true)`,
  );
  const found: unknown[] = [];
  // Its collations as in PostgreSQL 18, 17 and an older one without ICU, in a database whose locale is C.
  for (const missing of ['none', 'und-x-icu', 'pg_unicode_fast', 'pg_c_utf8']) {
    await withClient(t.database.superuserUrl, (client) =>
      client.query(
        `set allow_system_table_mods = on; update pg_collation set collname = collname || ' (gone)' where collname = '${missing}'`,
      ),
    );
    if (missing !== 'none') expect(await t.state()).toBe('outdated');
    await t.query('truncate contacts');
    await t.guard((guard) => guard.installing());
    const rows = await t.query(`insert into contacts values ${tried.join(', ')} returning may_mail`);
    found.push([...rows.map((row) => row['may_mail']), (await t.status())?.unreadable]);
  }
  expect(found).toEqual([
    [false, false, false, 0],
    [false, false, false, 0],
    [false, true, false, 1],
    [true, true, false, 2],
  ]);
});

test('what it left of a table that was dropped is removed as well', async () => {
  await using t = await given();
  await t.query('drop table contacts');
  await t.guard(async (guard) => (await guard.removing({ keepLog: false })).statements);
  expect(
    await t.query(
      "select proname from pg_proc where proname like 'abide%' union select relname from pg_class where relname like 'abide%'",
    ),
  ).toEqual([]);
});

// Found by reading. Staging and production are schemas of one database, each with a store crm: whoever installed the guard in one
// removed the other's, whose contacts were unguarded until somebody asked for its status.
test("another installation's guard of a store of the same name is left alone", async () => {
  await using t = await given();
  await t.query(`
    create schema "Staging";
    create table "Staging".contacts (like contacts);
    create table "Staging".suppressions (like suppressions including all)`);
  const through = (path: string): string =>
    Object.assign(new URL(t.database.urls.owner), { search: `?options=-csearch_path%3D${path}` }).href;
  const url = through('"Staging"');
  const stagingState = async () => {
    await using opened = await t.open(url);
    return (await opened.status())[0]?.state;
  };
  expect(await stagingState()).toBe('absent');
  await t.guard((guard) => guard.installing(), url);
  expect([await t.state(), await stagingState()]).toEqual(['installed', 'installed']);
  await t.guard((guard) => guard.installing());
  expect([await t.state(), await stagingState()]).toEqual(['installed', 'installed']);

  await t.query('drop table "Staging".suppressions');
  await t.guard(async (guard) => (await guard.removing({ keepLog: false })).statements, url);
  await t.query('create table "Staging".suppressions (like suppressions including all)');
  expect([await t.state(), await stagingState()]).toEqual(['installed', 'absent']);

  // Both guard the one table.
  await t.query('drop table "Staging".contacts');
  await expect(t.guard((guard) => guard.installing(), through('"Staging",public'))).rejects.toThrow(
    /another installation's.* already exists/,
  );
  expect(await t.state()).toBe('installed');
});

// Found by reading. Where the role's transactions have one snapshot each, it was older than what the installation had waited for:
// whoever was enabled meanwhile stayed so, and the installation was a success.
test('who is enabled while the installation waits for the table is held down by it', async () => {
  await using t = await given();
  await t.guard(async (guard) => (await guard.removing({ keepLog: false })).statements);
  const url = Object.assign(new URL(t.database.urls.owner), {
    search: '?options=-cdefault_transaction_isolation%3Drepeatable%5C%20read',
  }).href;
  await withClient(t.database.urls.owner, async (importer) => {
    await importer.query("begin; insert into contacts values ('ada@example.com', true)");
    const installing = t.guard((guard) => guard.installing(), url);
    await eventually(async () =>
      expect(
        await t.query(
          "select wait_event_type from pg_stat_activity where application_name = 'abide guard' and datname = current_database()",
        ),
      ).toEqual([{ wait_event_type: 'Lock' }]),
    );
    await importer.query('commit');
    await installing;
  });
  expect(await t.query('select may_mail from contacts')).toEqual([{ may_mail: false }]);
});

// Its owner saw no row of a table whose row-level security was forced: the installation held nobody down, and status was fine.
test('contacts that row-level security hides are not taken for nobody', async () => {
  await using t = await given();
  await t.query(
    "alter table contacts disable trigger user; insert into contacts values ('ada@example.com', true)",
  );
  await t.query('alter table contacts enable row level security');
  expect((await t.status())?.resurrected).toBe(1);

  await t.query('alter table contacts force row level security');
  const hidden = /^Row-level security applies to abide_owner in contacts, .*alter role .* bypassrls/;
  await expect(t.status()).rejects.toThrow(hidden);
  await expect(t.guard((guard) => guard.installing())).rejects.toThrow(hidden);
  await t.guard((guard) => guard.installing(), t.database.superuserUrl);
  await t.query('alter table contacts no force row level security');
  expect(await t.query('select may_mail from contacts')).toEqual([{ may_mail: false }]);
});

// The printed SQL may be run by another role than the one that printed it.
test('the installation itself fails where row-level security would hide rows from it', async () => {
  await using t = await given();
  await using opened = await t.open();
  const statements = await opened.installing();
  await t.query(
    'alter table contacts enable row level security; alter table contacts force row level security',
  );
  await expect(opened.run(statements)).rejects.toThrow('row-level security');
});

// The function's role saw no row of the suppressions: whoever was suppressed was enabled, and status was fine.
test('a write fails where row-level security hides the suppressions from the guard', async () => {
  await using t = await given();
  const made = "select oid::regprocedure::text as name from pg_proc where proname like 'abide_guard_%'";
  // As it used to be installed.
  await t.query(`alter function ${String((await t.query(made))[0]!['name'])} reset row_security`);
  expect(await t.state()).toBe('outdated');
  await t.guard((guard) => guard.installing());
  expect(await t.state()).toBe('installed');

  await t.query(
    'alter table suppressions enable row level security; alter table suppressions force row level security',
  );
  await expect(t.query("insert into contacts values ('ada@example.com', true)")).rejects.toThrow(
    'row-level security',
  );
  const hidden = /^Row-level security applies to abide_owner in suppressions, /;
  await expect(t.status()).rejects.toThrow(hidden);
  await expect(t.guard((guard) => guard.installing())).rejects.toThrow(hidden);
  // Installed by a superuser it runs as the owner as well.
  await expect(t.guard((guard) => guard.installing(), t.database.superuserUrl)).rejects.toThrow(hidden);
});
