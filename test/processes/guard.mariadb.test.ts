import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, expect, test } from '@jest/globals';
import mysql from '../../connectors/mysql.ts';
import { openGuard } from '../../processes/guard/open-guard.ts';
import { holdSettings, mariaDbDatabase, withMariaDb } from '../harness/mariadb.ts';
import { describeGuard } from './describe-guard.ts';

// The connector's suite makes the whole server read-only for a moment, and gives it other modes.
let settings: AsyncDisposable;
beforeEach(async () => {
  settings = await holdSettings();
});
afterEach(async () => {
  await settings[Symbol.asyncDispose]();
});

describeGuard('mysql', mysql, async () => {
  const database = await mariaDbDatabase();
  return {
    url: database.url,
    query: (sql) => database.query(sql),
    load: (lines) =>
      withMariaDb(database.url, async (connection) => {
        await connection.query({
          sql: `load data local infile 'contacts.csv' into table contacts fields terminated by ','
                (id, email, phone, @may_mail, @no_texts) set may_mail = @may_mail = 't', no_texts = @no_texts = 't'`,
          infileStreamFactory: () => Readable.from(lines.map((line) => Buffer.from(`${line}\n`))),
        });
      }),
    listing: async () => {
      const listing = [];
      for (const [table, columns] of [
        ['tables', 'table_name, table_type, engine, table_collation'],
        ['columns', 'table_name, column_name, column_type, is_nullable, column_default'],
        ['triggers', 'trigger_name, event_manipulation, event_object_table, action_statement'],
        ['routines', 'routine_name, routine_definition'],
      ] as const) {
        const schema =
          table === 'triggers' ? 'trigger_schema' : table === 'routines' ? 'routine_schema' : 'table_schema';
        listing.push(
          await database.query(
            `select ${columns} from information_schema.${table} where ${schema} = database() order by 1, 2`,
          ),
        );
      }
      return listing;
    },
    importer: async () => {
      const url = await database.user('insert, update, select', 'contacts');
      return (sql) => withMariaDb(url, (connection) => connection.query(sql));
    },
    reader: () => database.user('select'),
    [Symbol.asyncDispose]: () => database[Symbol.asyncDispose](),
  };
});

const SUPPRESSIONS =
  'create table suppressions (kind varchar(10), `key` varchar(200) collate utf8mb4_bin, email boolean, primary key (kind, `key`)) character set utf8mb4';

/** A guarded table, by a user who may do everything with this database and nothing else. */
async function given(contacts = 'email varchar(200), may_mail boolean, may_post boolean') {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await mariaDbDatabase());
  const url = await database.user('all');
  const folder = await mkdtemp(join(tmpdir(), 'abide-guard-'));
  stack.defer(() => rm(folder, { recursive: true }));
  const file = join(folder, 'abide.yaml');
  const configure = (column: string) =>
    writeFile(
      file,
      `stores:
  crm: { connector: mysql, url: '${url}', scopes: [email], guard: [{ table: contacts, key: email, may_send: { email: ${column} } }] }
  second: { connector: mysql, url: '${url}', table: others, scopes: [email], guard: [{ table: customers, key: email, may_send: { email: may_mail } }] }
`,
    );
  const open = (as = url, name = 'crm') => openGuard({ ABIDE_CONFIG: file }, name, as);
  const install = async (as = url, name = 'crm') => {
    await using guard = await open(as, name);
    const statements = await guard.installing();
    await guard.run(statements);
    return statements.filter((statement) => / trigger /.test(statement)).length;
  };
  const states = async () => {
    await using guard = await open();
    return await guard.status();
  };
  const status = async () => (await states()).map(({ state }) => state);
  await configure('may_mail');
  await database.query(
    `create table contacts (${contacts}); ${SUPPRESSIONS}; insert into suppressions values ('email', 'ada@example.com', 1)`,
  );
  await install();
  return {
    database,
    url,
    configure,
    open,
    install,
    states,
    status,
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

// Each installation dropped both triggers and made them again: between the two, and for good if the second failed, anybody imported
// was resurrected.
test('triggers that are as they should be are left alone, unless one of theirs came after them', async () => {
  await using t = await given();
  expect(await t.install()).toBe(0);

  await t.database.query(
    'create trigger welcome before insert on contacts for each row set new.may_mail = 1',
  );
  expect(await t.status()).toEqual(['outdated']);
  await t.database.query("insert into contacts values ('ada@example.com', 0, 0)");
  // Only the insert's trigger is made again, behind theirs; what passed meanwhile is held down.
  expect(await t.install()).toBe(2);
  expect(await t.status()).toEqual(['installed']);
  await t.database.query("insert into contacts values ('ada@example.com', 0, 0)");
  expect(await t.database.query('select may_mail from contacts')).toEqual([{ may_mail: 0 }, { may_mail: 0 }]);
  expect(await t.install()).toBe(0);

  // They run as the user who made them, who may have to go.
  expect(await t.install(t.database.url)).toBe(4);
});

// It locked what it looked up, and who is not there as well: the store was late until it was done with all rows.
test('while an installation holds many down the store takes the opt-outs of others', async () => {
  await using t = await given();
  await t.database.query("insert into contacts values ('grace@example.com', 1, 0)");
  await using guard = await t.open();
  await guard.run(['start transaction', (await guard.installing()).at(-1)!]);
  await t.database.query(
    "set innodb_lock_wait_timeout = 1; insert into suppressions values ('email', 'joan@example.com', 1)",
  );
});

test('where a trigger cannot be made it says what is not guarded until the next installation', async () => {
  await using t = await given();
  await t.configure('may_post');
  {
    await using guard = await t.open();
    const statements = (await guard.installing()).map((one) => one.replace('set new.', 'sett new.'));
    await expect(guard.run(statements)).rejects.toThrow(
      `MySQL answered error 1064. Fix that and run it again: it goes on where it was. Until \`abide guard install\` has been run again, no insert of \`${t.database.name}\`.\`contacts\` is guarded.`,
    );
  }
  expect(await t.status()).toEqual(['outdated']);
  // The insert's is made, the update's is dropped and made.
  expect(await t.install()).toBe(3);
  expect(await t.status()).toEqual(['installed']);
});

// A user who could see only the triggers of a few tables removed the log from under all others: from then on every write that was
// to enable a suppressed person failed (1146).
test('the log stays where triggers may write to it that whoever removes a guard cannot see', async () => {
  await using t = await given();
  await t.database.query('create table customers (email varchar(200), may_mail boolean)');
  await t.database.query('create table others like suppressions');
  await t.database.query('insert into others select * from suppressions');
  await t.install(t.database.url, 'second');
  const narrow = await t.database.user('all', 'contacts');
  const user = `${new URL(narrow).username}@'127.0.0.1'`;
  for (const table of ['suppressions', 'abide_guard_log'])
    await t.database.query(`grant all on ${table} to ${user}`);

  const remove = async (as: string, name: string) => {
    await using guard = await t.open(as, name);
    const { statements, logStays } = await guard.removing({ keepLog: false });
    await guard.run(statements);
    return logStays;
  };
  expect(await remove(narrow, 'crm')).toContain('triggers that this user cannot see may write to it');
  await t.database.query("insert into customers values ('ada@example.com', 1)");
  expect(await t.database.query('select may_mail from customers')).toEqual([{ may_mail: 0 }]);

  // With the right on all of this database, and with it on all databases.
  expect(await remove(t.url, 'second')).toBeUndefined();
  expect(await t.database.query("show tables like 'abide_guard_log'")).toEqual([]);
  await t.install(t.database.url);
  expect(await remove(t.database.url, 'crm')).toBeUndefined();
  expect(await t.database.query("show tables like 'abide_guard_log'")).toEqual([]);
});

// Staging and production on one server, each with a store crm, and a user who may see both.
test("another installation's guard of a store of the same name is left alone", async () => {
  await using t = await given();
  await using other = await given();
  await t.install(t.database.url);
  await other.install(other.database.url);
  expect(await t.install(t.database.url)).toBe(0);
  expect(await other.status()).toEqual(['installed']);
  await using guard = await t.open(t.database.url);
  const { statements, logStays } = await guard.removing({ keepLog: false });
  await guard.run(statements);
  expect([await t.status(), logStays]).toEqual([['absent'], undefined]);
  expect(await other.status()).toEqual(['installed']);
});

// The column is generated once, before all triggers. Theirs took `mailto:` away from what it is made from, and the guard, which came
// last, looked up the address with it: somebody suppressed was enabled.
test.each(['insert', 'update'])(
  'a key that is generated is refused where a trigger of theirs comes before the %s',
  async (event) => {
    await using t = await given(
      'raw varchar(200), email varchar(200) as (lower(raw)) stored, may_mail boolean, may_post boolean',
    );
    expect(await t.status()).toEqual(['installed']);
    const [ours] = await t.database.query(
      `select trigger_name as name from information_schema.triggers where trigger_schema = database() and event_manipulation = '${event.toUpperCase()}'`,
    );
    await t.database.query(
      `create trigger strip before ${event} on contacts for each row precedes ${String(ours!['name'])} set new.raw = replace(new.raw, 'mailto:', '')`,
    );
    expect(await t.status()).toEqual(['outdated']);
    await expect(t.install()).rejects.toThrow(
      `Column email of table contacts is generated, and not again after a trigger of yours before the ${event}: name the column that it is made from instead.`,
    );
    await t.database.query('drop trigger strip');
    expect(await t.status()).toEqual(['installed']);
  },
);

// Only marks of Latin, Greek and Cyrillic counted: kana and Hangul as macOS writes them were neither recognised nor counted.
test('an address that NFC would change is counted as not recognised, whatever its letters', async () => {
  await using t = await given('email varchar(200) character set utf8mb4, may_mail boolean, may_post boolean');
  const changed = new Set<string>();
  for (let code = 0x80; code < 0x110000; code++) {
    const one = String.fromCodePoint(code);
    // Of some capitals, as of the sign for Kelvin, the small letter is the same with NFC and without.
    if (one.normalize() !== one && one.toLowerCase().normalize() !== one.toLowerCase()) changed.add(one);
    if (one.normalize() === one) for (const mark of [...one.normalize('NFD')].slice(1)) changed.add(mark);
  }
  expect([...'\u0301\u3099\u309a\u1161\u11a8\ufa10'].every((one) => changed.has(one))).toBe(true);
  const add = (addresses: string[]) =>
    t.database.query(
      `insert into contacts values ${addresses.map((one) => `('${one}@example.com', 1, 0)`).join(', ')}`,
    );
  await add(['がぱ', '한글', 'josé', 'ธนา', 'সম', 'राम']);
  expect(await t.states()).toMatchObject([{ unreadable: 0 }]);
  await add([...changed].map((one) => `a${one}`));
  await add(['がぱ', '한글', 'josé'].map((one) => one.normalize('NFD')));
  expect(await t.states()).toMatchObject([{ unreadable: changed.size + 3 }]);
});

// Converting what is not UTF-8 is an error (1300), and matching half a surrogate pair is another (1139): one such key failed the
// import, or an update of the whole table, whatever the import's own sql_mode.
test.each([
  ['varbinary(200)', ['ff41', '61c3', 'c080', 'ff406578616d706c652e636f6d', 'f4908080', 'eda080']],
  ['varchar(200) character set utf8mb4', ['eda080', 'eda0bdedb880406578616d706c652e636f6d']],
])('what is not UTF-8 in a key that is %s is nobody, and passes', async (type, bytes) => {
  await using t = await given(`email ${type}, may_mail boolean, may_post boolean`);
  const rows = bytes.map((one) => `(x'${one}', 1, 0)`);
  const inserting = t.database.query(
    `insert into contacts values ${rows.join(', ')}, ('Ada@example.com', 1, 0), ('José@example.com', 1, 0)`,
  );
  if (type.startsWith('varchar') && (await t.database.product()) === 'MySQL') {
    await expect(inserting).rejects.toThrow('Incorrect string value');
    return;
  }
  await inserting;
  await t.database.query("insert into suppressions values ('email', 'josé@example.com', 1)");
  expect(await t.install()).toBe(0);
  await t.database.query('update contacts set may_mail = 1');
  expect(await t.states()).toMatchObject([{ state: 'installed', resurrected: 0, unreadable: bytes.length }]);
  expect(await t.database.query('select count(*) as n from contacts where may_mail = 0')).toEqual([{ n: 2 }]);
});
