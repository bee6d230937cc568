// abide guard as an operator types it.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { freePort, runAbide } from '../harness/abide.ts';
import type { Ran } from '../harness/abide.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';
import type { TestDatabase } from '../harness/database.ts';

let database: TestDatabase;
let folder: string;
beforeAll(async () => {
  [database, folder] = [await emptyDatabase(), await mkdtemp(join(tmpdir(), 'abide-guard-'))];
  const guard = 'guard: [{ table: contacts, key: email, may_send: { email: may_mail } }]';
  await writeFile(
    join(folder, 'abide.yaml'),
    `stores:
  crm: { connector: postgres, url: '${database.urls.owner}', scopes: [email], ${guard} }
  away: { connector: postgres, url: 'postgres://127.0.0.1:${await freePort()}/crm', scopes: [email], ${guard} }
  cache: { connector: redis, url: 'redis://127.0.0.1', scopes: [email], ${guard} }
  plain: { connector: postgres, url: '${database.urls.owner}', scopes: [email] }
`,
  );
  await query(`
    create table contacts (email text, may_mail boolean);
    create table suppressions (kind text, key text collate "C", email boolean, primary key (kind, key));
    insert into suppressions values ('email', 'ada@example.com', true);
    insert into contacts values ('ada@example.com', true), ('grace@example.com', true)`);
});
afterAll(async () => {
  await database[Symbol.asyncDispose]();
  await rm(folder, { recursive: true });
});

const query = (sql: string) => withClient(database.urls.owner, (client) => client.query(sql));
const guard = (...args: string[]): Promise<Ran> =>
  runAbide(['guard', ...args], { ABIDE_CONFIG: join(folder, 'abide.yaml'), ABIDE_DATA: folder });

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
    logged: 1,
  });
  expect((await query('select email from contacts where may_mail')).rows).toEqual([
    { email: 'grace@example.com' },
  ]);

  expect(await guard('remove', '--store', 'crm')).toMatchObject({
    code: 0,
    output: 'crm is not guarded any more\n',
  });
  expect(await guard('remove', '--store', 'crm')).toMatchObject({ code: 0, output: 'crm has no guard\n' });
});

test.each([
  ['nobody', 2, /no store nobody, only crm, away, cache, plain/],
  ['cache', 2, /A redis store can have no guard/],
  ['plain', 2, /has no guard in the configuration/],
  ['away', 1, /The database of store away does not let us in\. \(ECONNREFUSED\)/],
])('of store %s it ends with %d and says why', async (store, code, message) => {
  expect(await guard('install', '--store', store)).toMatchObject({
    code,
    stdout: '',
    output: expect.stringMatching(message),
  });
});
