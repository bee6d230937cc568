// abide guard as an operator types it.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { runAbide } from '../harness/abide.ts';
import type { Ran } from '../harness/abide.ts';
import { readAudit } from '../../ledger/audit.ts';
import { emptyDatabase, freshDatabase, withClient } from '../harness/database.ts';
import type { TestDatabase } from '../harness/database.ts';
import { freePort } from '../harness/free-port.ts';

let database: TestDatabase;
let ledger: TestDatabase;
let folder: string;
beforeAll(async () => {
  [database, ledger] = [await emptyDatabase(), await freshDatabase()];
  folder = await mkdtemp(join(tmpdir(), 'abide-guard-'));
  const guard = 'guard: [{ table: contacts, key: email, may_send: { email: may_mail } }]';
  const stores = `stores:
  crm: { connector: postgres, url: '${database.urls.owner}', scopes: [email], ${guard} }
  away: { connector: postgres, url: 'postgres://127.0.0.1:${await freePort()}/crm', scopes: [email], ${guard} }
  cache: { connector: redis, url: 'redis://127.0.0.1', scopes: [email], ${guard} }
  plain: { connector: postgres, url: '${database.urls.owner}', table: others, scopes: [email] }
`;
  await writeFile(join(folder, 'abide.yaml'), `database: '${ledger.urls.api}'\n${stores}`);
  await writeFile(join(folder, 'of-the-store.yaml'), stores);
  await query(`
    create table contacts (email text, may_mail boolean);
    create table suppressions (kind text, key text collate "C", email boolean, primary key (kind, key));
    insert into suppressions values ('email', 'ada@example.com', true);
    insert into contacts values ('ada@example.com', true), ('grace@example.com', true)`);
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
  await ledger[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

const query = (sql: string) => withClient(database.urls.owner, (client) => client.query(sql));
const runWith = (file: string, args: readonly string[]): Promise<Ran> =>
  runAbide(args, { ABIDE_CONFIG: join(folder, file), ABIDE_DATA: folder });
const guard = (...args: string[]): Promise<Ran> => runWith('abide.yaml', ['guard', ...args]);

test('it is looked at, printed, installed and removed, and each says what it did', async () => {
  const before = await guard('status', '--store', 'crm');
  expect(before).toMatchObject({
    code: 3,
    output: expect.stringMatching(/contacts +may_mail +email +absent +1 +0\nnothing is logged/),
  });

  const printed = await guard('install', '--store', 'crm', '--print');
  expect(printed.code).toBe(0);
  expect((await guard('status', '--store', 'crm')).output).toBe(before.output);
  // What is printed is what a database client runs.
  await query(printed.stdout);
  expect(await guard('install', '--store', 'crm')).toMatchObject({
    code: 0,
    output: 'guarding crm: 0 contact(s) held down that could be sent to\n',
  });
  const after = await guard('status', '--store', 'crm', '--json');
  expect(after.code).toBe(0);
  expect(JSON.parse(after.stdout)).toEqual({
    columns: [
      {
        table: 'contacts',
        kind: 'email',
        channel: 'email',
        column: 'may_mail',
        state: 'installed',
        resurrected: 0,
        unreadable: 0,
      },
    ],
    // What the installation itself held down is nobody's attempt.
    logged: 0,
  });
  expect((await query('select email from contacts where may_mail')).rows).toEqual([
    { email: 'grace@example.com' },
  ]);

  expect(await guard('remove', '--store', 'crm')).toMatchObject({
    code: 0,
    output: 'crm is no longer guarded\n',
  });
  expect(await guard('remove', '--store', 'crm')).toMatchObject({ code: 0, output: 'crm has no guard\n' });

  // The audit log has what changed, but not what was only looked at or printed.
  const rows = await withClient(ledger.urls.api, (client) =>
    readAudit(client, { after: 0, limit: 100, action: undefined }),
  );
  const by = { client: expect.stringMatching(/^cli:/) as unknown, resource: 'crm' };
  expect(rows).toMatchObject([
    { ...by, action: 'guard.installed', details: { tables: ['contacts'], triggers: 1, held_down: 0 } },
    { ...by, action: 'guard.removed', details: { tables: ['contacts'], triggers: 1 } },
  ]);
});

test('where the ledger is not in reach the guard is changed all the same, and the command says that no log has it', async () => {
  const unlogged = /^abide: this is not in the audit log: No Abide runs here/m;
  const change = (verb: string): Promise<Ran> =>
    runWith('of-the-store.yaml', ['guard', verb, '--store', 'crm']);
  expect(await change('install')).toMatchObject({
    code: 0,
    stdout: 'guarding crm: 0 contact(s) held down that could be sent to\n',
    output: expect.stringMatching(unlogged),
  });
  expect((await guard('status', '--store', 'crm')).code).toBe(0);
  expect(await change('remove')).toMatchObject({ code: 0, output: expect.stringMatching(unlogged) });
  expect(await change('remove')).toMatchObject({ code: 0, output: 'crm has no guard\n' });
});

test.each([
  ['nobody', 2, /no store nobody, only crm, away, cache, plain/],
  ['cache', 2, /A redis store can have no guard/],
  ['plain', 2, /has no guard in the configuration/],
  ['away', 1, /The database of store away does not let Abide in\. \(ECONNREFUSED\)/],
])('of store %s it ends with %d and says why', async (store, code, message) => {
  expect(await guard('install', '--store', store)).toMatchObject({
    code,
    stdout: '',
    output: expect.stringMatching(message),
  });
});
