import { copyFile, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, test } from '@jest/globals';
import { runAbide } from '../harness/abide.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';

const CONTACTS = `
  create table contacts (
    id int generated always as identity primary key, address text unique not null, plan text not null default 'free',
    no_mail boolean not null default false, no_texts boolean not null default false, no_more jsonb default '{}')`;
const STATEMENTS = {
  apply: [
    'insert into contacts (address, no_mail, no_texts)',
    'values (:key, coalesce(:email, false), coalesce(:sms, false))',
    'on conflict (address) do update set no_mail = coalesce(:email, contacts.no_mail),',
    '  no_texts = coalesce(:sms, contacts.no_texts)',
  ],
  read_back: [
    'select no_mail as email, no_texts as sms, null::boolean as push',
    'from contacts where address = :key',
  ],
};
type Statements = typeof STATEMENTS;

/** A folder with an abide.yaml, and a database for its stores. */
async function given() {
  const stack = new AsyncDisposableStack();
  const folder = await mkdtemp(join(tmpdir(), 'abide-check-'));
  stack.defer(() => rm(folder, { recursive: true }));
  const database = stack.use(await emptyDatabase());
  const file = join(folder, 'abide.yaml');
  return {
    folder,
    database,
    rows: async (text: string) =>
      (await withClient(database.superuserUrl, (client) => client.query<object>(text))).rows,
    async check(stores: Readonly<Record<string, string>>, ...args: string[]) {
      const stanzas = Object.entries(stores).map(
        ([name, stanza]) => `  ${name}:\n${stanza.replaceAll(/^/gm, '    ')}\n`,
      );
      await writeFile(file, `stores:\n${stanzas.join('')}`);
      const env = { CRM_URL: database.urls.owner, CRM_URL_OF_A_GUEST: database.urls.api };
      return await runAbide(['config', 'check', '--config', file, ...args], env);
    },
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

const ownTable = (options = '', url = 'CRM_URL'): string =>
  `connector: postgres\nurl: \${${url}}\nscopes: [email, sms]\n${options}`;
const ownStatements = (changes: Partial<Statements> = {}, url?: string): string => {
  const indented = (lines: readonly string[]): string => lines.map((line) => `    ${line}`).join('\n');
  const { apply, read_back } = { ...STATEMENTS, ...changes };
  return ownTable(`statements:\n  apply: |\n${indented(apply)}\n  read_back: |\n${indented(read_back)}`, url);
};
const { apply, read_back } = STATEMENTS;
const changed = (lines: readonly string[], from: string, to: string): string[] =>
  lines.map((line) => line.replace(from, to));

test('stores that can be written and read are fine, and nothing is left in them', async () => {
  await using f = await given();
  await f.rows(`${CONTACTS}; alter table contacts owner to abide_owner`);
  const ran = await f.check({ crm: ownTable(), contacts: ownStatements() });
  expect([ran.code, ran.output]).toEqual([0, 'configuration: fine, 2 store(s)\ncrm: fine\ncontacts: fine\n']);
  expect(
    await f.rows("select relname from pg_class where relname in ('suppressions', 'abide_versions')"),
  ).toEqual([]);
  expect(await f.rows('select id from contacts')).toEqual([]);
});

test('where what is asked to be recorded can be found only in part, that is said, and is no fault', async () => {
  await using f = await given();
  await f.rows(`${CONTACTS}; alter table contacts owner to abide_owner`);
  const stores = {
    crm: ownTable('record_own: true'),
    hashed: ownTable('record_own: true\nkey: { sha256: hex }'),
    contacts: `${ownStatements()}\nrecord_own: true`,
  };
  const known = 'record_own records only people whom the ledger knows';
  const ran = await f.check(stores);
  expect([ran.code, ran.output.split('\n').slice(1, -1)]).toEqual([
    0,
    [
      'crm: fine',
      `hashed: fine; ${known}: nobody can tell whose a hashed key is`,
      `contacts: fine; ${known}: it cannot list what it holds`,
    ],
  ]);
  expect(JSON.parse((await f.check(stores, '--json')).stdout)).toMatchObject({
    checked: [{ store: 'crm' }, { store: 'hashed', note: expect.stringContaining(known) as unknown }, {}],
  });
});

test('what is wrong with a statement is said, with its name and line and without a value', async () => {
  const wrong: Record<string, [Partial<Statements>, string]> = {
    syntax: [
      { apply: changed(apply, 'do update set', 'do update') },
      'statements.apply, line 3: a syntax error (SQLSTATE 42601).',
    ],
    column: [
      { apply: changed(apply, 'no_texts = ', 'no_text = ') },
      'statements.apply, line 4: no such column (SQLSTATE 42703).',
    ],
    table: [
      { read_back: changed(read_back, 'contacts', 'contact') },
      'statements.read_back, line 2: no such table (SQLSTATE 42P01).',
    ],
    type: [
      { apply: changed(apply, 'values (:key, coalesce(:email, false)', 'values (:key, coalesce(:email, 0)') },
      'statements.apply, line 2: a type that does not fit (SQLSTATE 42804).',
    ],
    not_null: [
      { apply: ['insert into contacts (address, plan, no_mail)', 'values (:key, :version::text, null)'] },
      'statements.apply: a column that must not be null is left null (SQLSTATE 23502).',
    ],
    other: [
      { apply: ['select 1 / 0 from contacts right join (values (:key)) as one (key) on true'] },
      'statements.apply: PostgreSQL refuses it (SQLSTATE 22012).',
    ],
    no_sms: [
      { read_back: changed(read_back, 'no_texts as sms, ', '') },
      'statements.read_back: gives no boolean column sms.',
    ],
    text_for_email: [
      { read_back: changed(read_back, 'no_mail as email', "'yes' as email") },
      'statements.read_back: gives no boolean column email.',
    ],
    no_effect: [
      { apply: changed(apply, 'coalesce(:sms, false)', 'not coalesce(:sms, false)') },
      'statements.read_back does not show the sms that statements.apply suppressed.',
    ],
  };
  await using f = await given();
  await f.rows(`${CONTACTS}; alter table contacts owner to abide_owner`);
  const stanzas = Object.entries(wrong).map(([name, [changes]]) => [name, ownStatements(changes)] as const);

  const ran = await f.check(Object.fromEntries(stanzas));

  const said = Object.entries(wrong).map(([name, [, problem]]) => `${name}: ${problem}\n`);
  expect(ran.output).toBe(`configuration: fine, ${said.length} store(s)\n${said.join('')}`);
  expect(ran.code).toBe(3);
});

test('a role that may not do what a worker does is told so, and so is a store that is away', async () => {
  await using f = await given();
  await f.rows(`${CONTACTS}; create table abide_versions (store text, kind text, key text, version bigint,
    primary key (store, kind, key)); grant all on abide_versions to abide_api; grant select on contacts to abide_api`);
  const stores = {
    crm: ownTable('', 'CRM_URL_OF_A_GUEST'),
    contacts: ownStatements({}, 'CRM_URL_OF_A_GUEST'),
    away: 'connector: postgres\nurl: postgres://127.0.0.1:1/crm\nscopes: [email]',
    mail: 'connector: http\nurl: http://127.0.0.1:1\nallow_private: true\nsecret: a secret of the tests\nscopes: [email]',
  };
  const ran = await f.check(stores, '--json');
  expect(JSON.parse(ran.stdout)).toEqual({
    stores: Object.keys(stores),
    checked: [
      { store: 'crm', problem: 'table "suppressions": not allowed to this role (SQLSTATE 42501).' },
      { store: 'contacts', problem: 'statements.apply: not allowed to this role (SQLSTATE 42501).' },
      {
        store: 'away',
        problem: 'The connection to PostgreSQL failed: nothing listens there (ECONNREFUSED).',
      },
      { store: 'mail', problem: 'The connection to the store failed: nothing listens there (ECONNREFUSED).' },
    ],
    issuers: [],
  });
  expect(ran.code).toBe(3);
});

test("a connector of one's own is loaded from the file beside abide.yaml, where nothing of Abide is installed", async () => {
  await using f = await given();
  const example = fileURLToPath(new URL('../../docs/examples/sqlite-store.ts', import.meta.url));
  await copyFile(example, join(f.folder, 'ours.ts'));
  const checked = async (file = join(f.folder, 'suppressions.db')) => {
    const ran = await f.check({ legacy: `connector: ./ours.ts\nfile: ${file}\nscopes: [email]` });
    return [ran.code, ran.stdout];
  };
  expect(await checked()).toEqual([0, 'configuration: fine, 1 store(s)\nlegacy: fine\n']);
  // What changes nothing left a database and a table behind.
  expect((await readdir(f.folder)).sort()).toEqual(['abide.yaml', 'ours.ts']);
  expect(await checked(join(f.folder, 'missing', 'suppressions.db'))).toEqual([
    3,
    expect.stringContaining('legacy: ENOENT'),
  ]);

  // As `npm init` makes it: the suite passed there, and Abide said "Cannot use import statement outside a module".
  await writeFile(join(f.folder, 'package.json'), '{ "type": "commonjs" }');
  expect(await checked()).toEqual([0, 'configuration: fine, 1 store(s)\nlegacy: fine\n']);
});

// Nobody had checked this in JavaScript: without `limits` no worker ever started, while this command said `fine`; it also said so
// of a read-back with no usable answer; and what a connector had left open held up the command for ever.
test('a connector in JavaScript that declares or answers something else is told so', async () => {
  await using f = await given();
  // Connectors of an earlier contract declare `durable`, and load all the same.
  const declared = (rest: string, open: string): string => `
    import { defineConnector } from 'abide/connector';
    import { z } from 'zod';
    export default defineConnector({
      options: z.object({}), accepts: ['email'], topics: false, durable: true, versions: 'none',
      remembersUnknown: true, target: () => [], ${rest},
      async open() {
        setInterval(() => undefined, 60_000);
        return ${open};
      },
    });`;
  const store = (readBack: string): string =>
    `{ apply: async () => [], readBack: async () => ${readBack}, [Symbol.asyncDispose]: async () => undefined }`;
  const sound = "evidence: 'read_back', limits: { batch: 1, concurrent: 1 }";
  const files = {
    store: declared(sound, 'undefined'),
    none: declared(sound, store('undefined')),
    fewer: declared(sound, store('[]')),
    shape: declared(sound, store("['email']")),
    nobody: declared(sound, store('[null]')),
    declared: declared("evidence: 'readback'", store('[]')),
    // Nothing keeps this alive, and it ended the process with Node's words.
    stray: declared(sound, store("(Promise.reject(new Error('nobody awaits this')), [null])")),
    throws: declared(sound, store('[]')).replace('() => []', "() => { throw new Error('about ada') }"),
    nowhere: declared(sound, store('[]')).replace('() => []', '() => undefined'),
    forever: `await new Promise(() => undefined);\n${declared(sound, store('[]'))}`,
  };
  for (const [name, text] of Object.entries(files)) await writeFile(join(f.folder, `${name}.js`), text);
  const check = (...names: (keyof typeof files)[]) =>
    f.check(
      Object.fromEntries(names.map((name) => [name, `connector: ./${name}.js\nscopes: [email]`] as const)),
    );

  const answers = await check('store', 'none', 'fewer', 'shape', 'nobody');
  const stray = await check('stray');
  const declaration = await check('declared', 'throws', 'nowhere', 'forever');

  expect([answers.code, answers.stdout.split('\n').slice(1, -1)]).toEqual([
    3,
    [
      "store: The connector's open() does not give a store with apply(), readBack() and [Symbol.asyncDispose]().",
      "none: The connector's readBack() does not give a list.",
      "fewer: The connector's readBack() gives 0 answers for 1 item(s).",
      "shape: The connector's readBack() gives another shape: [0] Invalid input: expected object, received string.",
      'nobody: fine',
    ],
  ]);
  expect([stray.code, stray.output.trim().split('\n').at(-1)]).toEqual([1, 'abide: nobody awaits this']);
  expect(declaration.code).toBe(1);
  expect(declaration.output).toContain(
    'stores.declared.connector ./declared.js does not declare a connector: evidence Invalid option: expected one of',
  );
  expect(declaration.output).toContain('; limits is missing.');
  for (const fault of [
    "throws.connector ./throws.js: target() fails on the stanza's options.",
    'nowhere.connector ./nowhere.js: target() does not give a list of texts.',
  ])
    expect(declaration.output).toContain(`stores.${fault}`);
  expect(declaration.output).toContain(
    'stores.forever.connector ./forever.js has not finished loading after 10 s: what does it await at its top level?',
  );
});

// Seen: one table as `localhost` and as `127.0.0.1` was two stores. After a consent of both scopes one of them was `verified`, and
// the other one still suppressed.
test('two stores that are one place are refused in whatever spelling', async () => {
  await using f = await given();
  const stanza = (connector: string, url: string, more = ''): string =>
    `connector: ${connector}\nurl: ${url}\nscopes: [email]\n${more}`;
  const secret = 'secret: whsec_MDEyMzQ1Njc4OWFiY2RlZg==\nallow_private: true';
  const { code, output } = await f.check(
    {
      pg: stanza('postgres', 'postgres://localhost/crm'),
      pg_address: stanza('postgres', 'postgres://127.0.0.1:5432/crm'),
      pg_schema: stanza('postgres', 'postgres://[::1]/crm', 'table: public.suppressions'),
      pg_far: stanza('postgres', 'postgres://db.internal/crm', 'table: alias'),
      pg_case: stanza('postgres', 'postgres://DB.internal./crm', 'table: public.alias'),
      mysql: stanza('mysql', 'mysql://127.0.0.1/crm', 'table: mail.suppressions'),
      mysql_database: stanza('mysql', 'mariadb://localhost:3306/mail'),
      redis: stanza('redis', 'redis://[::1]'),
      redis_zero: stanza('redis', 'redis://LOCALHOST:6379/0'),
      http: stanza('http', 'http://localhost/hook', secret),
      http_port: stanza('http', 'http://127.0.0.1:80/hook', secret),
      other_port: stanza('postgres', 'postgres://localhost:5433/crm'),
      other_schema: stanza('postgres', 'postgres://localhost/crm', 'table: mail.suppressions'),
      other_socket: stanza('postgres', 'postgres:///crm?host=/run/A'),
      another_socket: stanza('postgres', 'postgres:///crm?host=/run/a'),
      other_database: stanza('mysql', 'mysql://localhost/crm'),
      other_prefix: stanza('redis', 'redis://localhost', 'prefix: mail'),
    },
    '--offline',
  );
  expect(code).toBe(1);
  expect([...output.matchAll(/stores\.(\w+) is the same place as (\w+),/g)].map(([, ...two]) => two)).toEqual(
    [
      ['pg_address', 'pg'],
      ['pg_schema', 'pg'],
      ['pg_case', 'pg_far'],
      ['mysql_database', 'mysql'],
      ['redis_zero', 'redis'],
      ['http_port', 'http'],
    ],
  );
  expect(output.match(/: stores\./g)).toHaveLength(6);
});

test('every fault of a file is told with line and column, and no store is asked', async () => {
  await using f = await given();
  const example = fileURLToPath(new URL('../../docs/examples/sqlite-store.ts', import.meta.url));
  await copyFile(example, join(f.folder, 'ours.ts'));
  await writeFile(join(f.folder, 'not-one.ts'), 'export default 1;\n');
  const ran = await f.check({
    crm: ownTable('tabel: suppressions'),
    legacy: 'connector: ./ours.ts\nscopes: [email]',
    odd: 'connector: ./not-one.ts\nscopes: [email]',
    gone: 'connector: ./gone.ts\nscopes: [email]',
  });
  expect(ran.code).toBe(1);
  expect(ran.stdout).toBe('');
  expect(ran.output.split('\n').slice(1, 5)).toEqual([
    '  line 6, column 5: stores.crm.tabel is not known here',
    '  line 8, column 5: stores.legacy.file is missing',
    '  line 11, column 16: stores.odd.connector ./not-one.ts has no default export made by defineConnector().',
    expect.stringMatching(
      /^ {2}line 14, column 16: stores\.gone\.connector There is no connector \.\/gone\.ts/,
    ),
  ]);
});
