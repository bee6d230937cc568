import { once } from 'node:events';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { describe, expect, test } from '@jest/globals';
import { Item } from '../../connectors/contract/connector.ts';
import type { Store } from '../../connectors/contract/connector.ts';
import postgres, { positional } from '../../connectors/postgres.ts';
import { Address } from '../../suppression/subject.ts';
import { describeConnector } from '../conformance/connector.ts';
import type { Place } from '../conformance/connector.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';

const urlOf = ({ options }: Place): string => (options as { url: string }).url;
const throughPort = (options: object, port: number): object => {
  const { url } = options as { url: string };
  return { ...options, url: Object.assign(new URL(url), { host: `127.0.0.1:${port}` }).href };
};
const server = await (async () => {
  await using database = await emptyDatabase();
  const { hostname, port } = new URL(database.urls.owner);
  return { host: hostname, port: Number(port) };
})();

describeConnector('postgres with a table of its own', {
  connector: postgres,
  async open() {
    const database = await emptyDatabase();
    return {
      options: { url: database.urls.owner },
      [Symbol.asyncDispose]: () => database[Symbol.asyncDispose](),
    };
  },
  line: { ...server, through: throughPort },
  byItself: (place, { kind, key }, scope, isSuppressed) =>
    withClient(urlOf(place), async (client) => {
      await client.query(
        `insert into suppressions (kind, key, ${scope}) values ($1, $2, $3)
         on conflict (kind, key) do update set ${scope} = excluded.${scope}`,
        [kind, key, isSuppressed],
      );
    }),
  badKey: () => Promise.resolve('x'.repeat(2_601)),
});

/** A data team's table: what may not be sent, in their words, and an address that they will not have. */
const CONTACTS = `
  create table contacts (
    sort text, address text check (address <> 'nobody@example.com'),
    no_mail boolean default false, no_texts boolean default false, no_push boolean default false,
    no_more jsonb default '{}', primary key (sort, address))`;
const STATEMENTS = {
  apply: `
    insert into contacts (sort, address, no_mail, no_texts, no_push, no_more)
    values (:kind, :key, coalesce(:email, false), coalesce(:sms, false), coalesce(:push, false), :scopes)
    on conflict (sort, address) do update set no_mail = coalesce(:email, contacts.no_mail),
      no_texts = coalesce(:sms, contacts.no_texts), no_push = coalesce(:push, contacts.no_push),
      no_more = contacts.no_more || :scopes`,
  read_back: `
    select no_mail as email, no_texts as sms, no_push as push, no_more as scopes
    from contacts where sort = :kind and address = :key`,
};

describeConnector("postgres with tables of the user's own", {
  connector: postgres,
  async open() {
    const database = await emptyDatabase();
    await withClient(database.urls.owner, (client) => client.query(CONTACTS));
    return {
      options: { url: database.urls.owner, statements: STATEMENTS },
      [Symbol.asyncDispose]: () => database[Symbol.asyncDispose](),
    };
  },
  line: { ...server, through: throughPort },
  byItself: (place, { kind, key }, scope, isSuppressed) =>
    withClient(urlOf(place), async (client) => {
      const column = { email: 'no_mail', sms: 'no_texts', push: 'no_push' }[scope];
      await client.query(
        `insert into contacts (sort, address, ${column}) values ($1, $2, $3)
         on conflict (sort, address) do update set ${column} = excluded.${column}`,
        [kind, key, isSuppressed],
      );
    }),
  badKey: () => Promise.resolve('nobody@example.com'),
});

// --- what only PostgreSQL does

const SINCE = '2026-11-24T09:00:00.000Z';
const signal = (): AbortSignal => AbortSignal.timeout(10_000);

function optOut(key: string, version = 1, scopes: readonly string[] = ['email']): Item {
  return new Item({
    seq: version,
    version,
    subject: { kind: 'email', value: new Address(key) },
    key,
    suppressed: Object.fromEntries(scopes.map((scope) => [scope, SINCE])),
    granted: {},
    effectiveAt: SINCE,
    lane: 'live',
  });
}
const email = (key: string) => ({ kind: 'email', key }) as const;

/** A database made by `sql`, and stores on it. */
async function given(sql = '') {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await emptyDatabase());
  const warned: object[] = [];
  const silent = (): void => undefined;
  const context = {
    log: { debug: silent, info: silent, error: silent, warn: (fields: object) => void warned.push(fields) },
    scopes: new Map(),
  };
  if (sql !== '') await withClient(database.superuserUrl, (client) => client.query(sql));
  return {
    database,
    warned,
    open: async (options: object = {}, name = 'crm'): Promise<Store> =>
      stack.use(
        await postgres.open(postgres.options.parse({ url: database.urls.owner, ...options }), {
          ...context,
          name,
        }),
      ),
    rows: async (query: string): Promise<unknown[]> =>
      (await withClient(database.superuserUrl, (client) => client.query<object>(query))).rows,
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

describe('named parameters', () => {
  test('become positional ones, in the order of their first use', () => {
    expect(positional('update c set a = :email, b = :email where k = :key')).toEqual({
      text: 'update c set a = $1, b = $1 where k = $2',
      parameters: ['email', 'key'],
      faults: [],
    });
  });

  test.each([
    ['a cast', 'select :key::text', 'select $1::text'],
    ['a text', "select ':email', 'it''s :sms' from c where k = :key", undefined],
    ['a text with escapes', String.raw`select E'\':email' from c where k = :key`, undefined],
    ['a name', 'select ":email" from c where k = :key', undefined],
    ['a comment', 'select 1 -- :email\nfrom c where k = :key', undefined],
    ['a long comment', 'select 1 /* :email\n */ from c where k = :key', undefined],
    ['a dollar-quoted text', 'select $a$ :email $$ $a$ from c where k = :key', undefined],
  ])('are not looked for in %s', (_where, sql, wanted) => {
    const { text, parameters, faults } = positional(sql);
    expect({ text, parameters, faults }).toEqual({
      text: wanted ?? sql.replace(':key', '$1'),
      parameters: ['key'],
      faults: [],
    });
  });

  test.each([
    ['select 1', [':key is missing']],
    ['select :kye', [expect.stringMatching(/^:kye is not one of :key /), ':key is missing']],
    ['select $1, :key', ['$1 is not a named parameter']],
  ])('of %s are refused by name', (sql, faults) => {
    expect(positional(sql).faults).toEqual(faults);
  });
});

describe('options', () => {
  const url = 'postgres://crm@localhost/crm';
  const pathsOf = (options: object): string[] =>
    postgres.options
      .safeParse(options)
      .error!.issues.map(({ path, message }) => `${path.join('.')} ${message}`);

  test('say what is wrong, and where', () => {
    expect(pathsOf({ url: 'mysql://localhost' })).toEqual(['url must be a postgres:// URL']);
    expect(pathsOf({ url, table: 'a.b.c' })).toEqual(['table must be a table or schema.table']);
    expect(pathsOf({ url, statements: { ...STATEMENTS, apply: 'select 1' } })).toEqual([
      'statements.apply :key is missing',
    ]);
    expect(pathsOf({ url, table: 'a', statements: STATEMENTS })).toEqual([
      'statements give either table or statements',
    ]);
  });

  test('a target is host, port, database and table or statements, never a password', () => {
    const target = (options: object) => postgres.target(postgres.options.parse(options));
    expect(target({ url: 'postgres://user:secret@db.internal:5433/crm' })).toEqual([
      'db.internal',
      '5433',
      'crm',
      'suppressions',
    ]);
    expect(target({ url: 'postgres://user:secret@db.internal/crm', statements: STATEMENTS })).toEqual([
      'db.internal',
      '5432',
      'crm',
      STATEMENTS.apply,
      STATEMENTS.read_back,
    ]);
  });
});

describe('its own table', () => {
  test('is made once, by whichever of several workers is first', async () => {
    await using here = await given();
    const stores = await Promise.all(Array.from({ length: 4 }, () => here.open()));
    const outcomes = await Promise.all(
      stores.map((store, n) => store.apply([optOut(`${n}@example.com`)], signal())),
    );
    expect(outcomes.flat()).toEqual(stores.map(() => ({ kind: 'applied' })));
    expect(await here.rows('select key from suppressions where email order by key')).toHaveLength(4);
  });

  test('may have any name, in any schema', async () => {
    await using here = await given('create schema crm authorization abide_owner');
    const store = await here.open({ table: `crm.Who "opted" out; --` });
    await store.apply([optOut('ada@example.com')], signal());
    expect(await store.readBack([email('ada@example.com')], signal())).toEqual([
      { version: 1, suppressed: ['email'] },
    ]);
    expect(await here.rows(`select email from crm."Who ""opted"" out; --"`)).toEqual([{ email: true }]);
  });

  // The docs said that its schema is made as well; SQLSTATE 3F000 was all that was ever said of it.
  test('is not made in a schema that is missing: the check and the write say so, and the next write makes it', async () => {
    await using here = await given();
    const store = await here.open({ table: 'crm.supp' });
    const apply = () => store.apply([optOut('ada@example.com')], signal());
    const check = () => store.check!([optOut('ada@example.com')], signal());
    await expect(check()).rejects.toThrow('table "crm"."supp": no such schema (SQLSTATE 3F000).');
    await expect(apply()).rejects.toThrow('PostgreSQL answered SQLSTATE 3F000: no such schema.');

    await here.rows('create schema crm authorization abide_owner');
    await check();
    expect(await here.rows("select to_regclass('crm.supp') as made")).toEqual([{ made: null }]);
    expect(await apply()).toEqual([{ kind: 'applied' }]);
  });

  // Two push tokens fought over one row, and one of them was outstanding for ever.
  test.each([
    ['the type citext', 'type citext'],
    ['the type case_blind', 'type case_blind'],
    ['the collation folds', 'type text collate folds'],
  ])('whose key has %s, which takes two keys for one, is not used', async (what, change) => {
    await using here = await given(`
      create extension citext;
      create domain case_blind as citext check (value <> '');
      create collation folds (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`);
    const items = [optOut('ada@example.com')];
    await (await here.open()).apply(items, signal());
    await here.rows(`alter table suppressions alter key ${change}`);
    const store = await here.open();
    const refused = {
      code: 'STORE_FAILED',
      message: `The column key of table "suppressions" has ${what}, which takes two different keys for the same: make it text collate "C".`,
    };
    await expect(store.check!(items, signal())).rejects.toMatchObject(refused);
    await expect(store.apply(items, signal())).rejects.toMatchObject(refused);
    await expect(store.readBack([email('ada@example.com')], signal())).rejects.toMatchObject(refused);
    await here.rows('alter table suppressions alter key type varchar(300)');
    await store.check!(items, signal());
    expect(await store.apply([optOut('ada@example.com', 2)], signal())).toEqual([{ kind: 'applied' }]);
  });

  test('a sender finds true where suppressed, false where lifted, null where nothing was said', async () => {
    await using here = await given();
    const store = await here.open();
    await store.apply([optOut('ada@example.com', 1, ['email', 'sms', 'analytics'])], signal());
    const { seq, version, subject, key, effectiveAt, lane } = optOut('ada@example.com', 2);
    const suppressed = { sms: SINCE };
    const granted = { email: { at: SINCE, version: 2 }, analytics: { at: SINCE, version: 2 } };
    const grant = new Item({ seq, version, subject, key, suppressed, granted, effectiveAt, lane });
    await store.apply([grant], signal());
    expect(await here.rows('select version, email, sms, push, scopes from suppressions')).toEqual([
      { version: '2', email: false, sms: true, push: null, scopes: { analytics: false } },
    ]);
  });

  // The topic was appended to the list, never held, and each retry made the list longer.
  test.each(['[]', '[true]', '"email/newsletter"', 'null'])(
    'a row whose scopes somebody made %s holds no topic, and takes one',
    async (scopes) => {
      await using here = await given();
      const store = await here.open();
      const ada = 'ada@example.com';
      const optedOut = optOut(ada, 1, ['email', 'email/newsletter']);
      const set = `update suppressions set scopes = '${scopes}' returning version`;
      const heldNow = () => store.readBack([email(ada)], signal());
      await store.apply([optedOut], signal());

      await here.rows(set);
      expect(await heldNow()).toEqual([{ version: 1, suppressed: ['email'] }]);
      await store.apply([optedOut], signal());
      expect(await heldNow()).toEqual([{ version: 1, suppressed: ['email', 'email/newsletter'] }]);

      await here.rows(set);
      await store.apply([optOut(ada, 2, ['email'])], signal());
      expect(await here.rows('select scopes from suppressions')).toEqual([{ scopes: {} }]);
    },
  );

  test('a role that may not create tables is welcome to one that is there', async () => {
    await using here = await given();
    const restricted = await here.open({ url: here.database.urls.api });
    expect(await restricted.readBack([email('ada@example.com')], signal())).toEqual([undefined]);
    await expect(restricted.apply([optOut('ada@example.com')], signal())).rejects.toMatchObject({
      code: 'STORE_FAILED',
      message: 'PostgreSQL answered SQLSTATE 42501: not allowed to this role.',
    });

    await (await here.open()).apply([optOut('grace@example.com')], signal());
    await withClient(here.database.urls.owner, (client) =>
      client.query('grant select, insert, update on suppressions to abide_api'),
    );

    expect(await restricted.apply([optOut('ada@example.com')], signal())).toEqual([{ kind: 'applied' }]);
    expect(await restricted.readBack([email('ada@example.com')], signal())).toEqual([
      { version: 1, suppressed: ['email'] },
    ]);
  });

  test('a key that no row can hold is refused, and its neighbours are applied', async () => {
    await using here = await given();
    const store = await here.open();
    const batch = ['x'.repeat(2_601), 'é'.repeat(1_300), 'nul\0nul', 'ada@example.com'];
    expect(
      await store.apply(
        batch.map((key) => optOut(key)),
        signal(),
      ),
    ).toEqual([
      { kind: 'refused', code: 'KEY_TOO_LONG' },
      { kind: 'applied' },
      { kind: 'refused', code: 'KEY_NOT_TEXT' },
      { kind: 'applied' },
    ]);
  });

  // It failed the whole batch, and with it everybody who opted out in the half minute until it was parked.
  test('whom a constraint of theirs refuses is refused by its SQLSTATE, and the neighbours are applied', async () => {
    await using here = await given();
    const store = await here.open();
    await store.apply([optOut('first@example.com')], signal());
    await here.rows("alter table suppressions add constraint no check (key !~ '^no')");
    const apply = (...keys: string[]) =>
      store.apply(
        keys.map((key) => optOut(key)),
        signal(),
      );
    const refused = { kind: 'refused', code: 'SQLSTATE_23514' };
    const applied = { kind: 'applied' };
    expect(await apply('a@example.com', 'no@example.com', 'b@example.com', 'c@example.com')).toEqual([
      applied,
      refused,
      applied,
      applied,
    ]);
    expect(await apply('no@example.com')).toEqual([refused]);
    // Where nobody is taken, the table is at fault.
    await expect(apply('no1@example.com', 'no2@example.com')).rejects.toMatchObject({ code: 'STORE_FAILED' });
  });

  test('a replay writes nothing', async () => {
    await using here = await given();
    const store = await here.open();
    await store.apply([optOut('ada@example.com')], signal());
    const [before] = await here.rows('select xmin from suppressions');
    expect(await store.apply([optOut('ada@example.com')], signal())).toEqual([{ kind: 'already_newer' }]);
    expect(await here.rows('select xmin from suppressions')).toEqual([before]);
  });

  test('is never read whole to find a few, not even by a plan that was made while it was small', async () => {
    await using here = await given();
    const store = await here.open();
    const keys = ['ada', 'bob', 'cyd'].map((who) => `${who}@example.com`);
    await store.apply(
      keys.map((key) => optOut(key)),
      signal(),
    );
    await here.rows('analyze suppressions');
    expect(await store.readBack(keys.map(email), signal())).toEqual(
      keys.map(() => ({ version: 1, suppressed: ['email'] })),
    );
    await store[Symbol.asyncDispose]();
    // A session reports its statistics at the latest when it ends. Making the primary key is one sequential scan.
    await eventually(async () =>
      expect(await here.rows('select idx_scan, seq_scan from pg_stat_user_tables')).toEqual([
        { idx_scan: '6', seq_scan: '1' },
      ]),
    );
  });

  test('what is held is listed page by page, each subject once, whatever its letters', async () => {
    await using here = await given();
    const store = await here.open();
    await store.apply([optOut('ada@example.com')], signal());
    await withClient(here.database.urls.owner, (client) =>
      client.query(
        `insert into suppressions (kind, key, email)
         select 'email', chr(97 + n % 26) || case when n % 2 = 0 then 'É' else 'e' end || n || '@example.com', true
         from generate_series(1, 10500) as n`,
      ),
    );
    const first = await store.scan!(undefined, signal());
    const second = await store.scan!(first.at(-1), signal());
    expect([first.length, second.length]).toEqual([10_000, 501]);
    expect(await store.scan!(second.at(-1), signal())).toEqual([]);
    expect(new Set([...first, ...second].map(({ key }) => key)).size).toBe(10_501);
  });
});

// A store remembered for as long as it was open that its table existed, and failed every call until a restart.
describe('what is dropped under an open store', () => {
  const ada = 'ada@example.com';
  const failed = { code: 'STORE_FAILED', cause: { code: '42P01' } };

  test.each([
    ['its own table', 'suppressions', {}],
    ["the versions beside the user's tables", 'abide_versions', { statements: STATEMENTS }],
  ])('%s: one call fails, the next write makes it, reading makes nothing', async (_what, table, options) => {
    await using here = await given();
    await withClient(here.database.urls.owner, (client) => client.query(CONTACTS));
    const store = await here.open(options);
    const apply = (version: number) => store.apply([optOut(ada, version)], signal());
    const readBack = () => store.readBack([email(ada)], signal());
    const incarnation = () => store.incarnation!(signal());
    const made = () => here.rows(`select to_regclass('${table}') is not null as made`);
    // Two connections to write and two to read, each with its plans.
    await Promise.all([apply(1), apply(1)]);
    await Promise.all([readBack(), readBack()]);
    const first = await incarnation();

    await here.rows(`drop table ${table}`);
    await expect(readBack()).rejects.toMatchObject(failed);
    expect(await readBack()).toEqual([undefined]);
    expect(await made()).toEqual([{ made: false }]);
    expect(await apply(2)).toEqual([{ kind: 'applied' }]);
    expect(await readBack()).toEqual([{ version: 2, suppressed: ['email'] }]);
    const second = await incarnation();

    await here.rows(`drop table ${table}`);
    await expect(apply(3)).rejects.toMatchObject(failed);
    expect(await Promise.all([apply(3), apply(4)])).toContainEqual([{ kind: 'applied' }]);
    expect(await Promise.all([readBack(), readBack()])).toEqual([
      [{ version: 4, suppressed: ['email'] }],
      [{ version: 4, suppressed: ['email'] }],
    ]);
    expect(new Set([first, second, await incarnation()]).size).toBe(3);
  });

  test('the whole database: one that is made anew gets its table', async () => {
    await using here = await given();
    const store = await here.open();
    await store.apply([optOut(ada)], signal());
    const { superuserUrl, name } = here.database;
    await withClient(Object.assign(new URL(superuserUrl), { pathname: '/postgres' }).href, async (client) => {
      await client.query(`drop database ${name} with (force)`);
      await client.query(`create database ${name} owner abide_owner`);
    });
    await eventually(() => expect(here.warned).toEqual([{ code: '57P01' }]));

    await expect(store.apply([optOut(ada)], signal())).rejects.toMatchObject(failed);
    expect(await store.apply([optOut(ada)], signal())).toEqual([{ kind: 'applied' }]);
    expect(await store.readBack([email(ada)], signal())).toEqual([{ version: 1, suppressed: ['email'] }]);
  });

  test("a table of the user's own is theirs to make: every call fails until they do", async () => {
    await using here = await given();
    const contacts = () => withClient(here.database.urls.owner, (client) => client.query(CONTACTS));
    await contacts();
    const store = await here.open({ statements: STATEMENTS });
    const apply = () => store.apply([optOut(ada)], signal());
    const readBack = () => store.readBack([email(ada)], signal());
    await apply();

    await here.rows('drop table contacts');
    for (const call of [apply, apply, readBack, readBack]) await expect(call()).rejects.toMatchObject(failed);
    await contacts();
    expect(await apply()).toEqual([{ kind: 'applied' }]);
    expect(await readBack()).toEqual([{ version: 1, suppressed: ['email'] }]);
  });
});

describe("the user's own tables", () => {
  const contacts = `create table contacts (id int generated always as identity, address text, no_mail boolean default false);
    alter table contacts owner to abide_owner;
    insert into contacts (address) values ('ada@example.com'), ('ada@example.com');`;
  const statements = {
    apply: 'update contacts set no_mail = coalesce(:email, no_mail) where address = :key',
    read_back:
      'select no_mail as email, null::boolean as sms, null::boolean as push from contacts where address = :key',
  };

  test('of two contacts with one address both are suppressed, and one that is not is not painted over', async () => {
    await using here = await given(contacts);
    const store = await here.open({ statements });
    expect(await store.apply([optOut('ada@example.com')], signal())).toEqual([{ kind: 'applied' }]);
    expect(await store.readBack([email('ada@example.com')], signal())).toEqual([
      { version: 1, suppressed: ['email'] },
    ]);

    await withClient(here.database.urls.owner, (client) =>
      client.query("insert into contacts (address) values ('ada@example.com')"),
    );
    expect(await store.readBack([email('ada@example.com')], signal())).toEqual([
      { version: 1, suppressed: [] },
    ]);
  });

  test('somebody whom their statement does not find is absent, and suppressed once there', async () => {
    await using here = await given(contacts);
    const store = await here.open({ statements });
    const batch = [optOut('ada@example.com'), optOut('grace@example.com')];
    expect(await store.apply(batch, signal())).toEqual([{ kind: 'applied' }, { kind: 'absent' }]);
    expect(await here.rows('select key from abide_versions')).toEqual([{ key: 'ada@example.com' }]);

    await withClient(here.database.urls.owner, (client) =>
      client.query("insert into contacts (address) values ('grace@example.com')"),
    );
    expect(await store.apply(batch, signal())).toEqual([{ kind: 'applied' }, { kind: 'applied' }]);
  });

  test('a topic that their statement cannot say is refused, the channel is suppressed all the same', async () => {
    await using here = await given(contacts);
    const store = await here.open({ statements });
    expect(
      await store.apply([optOut('ada@example.com', 1, ['email', 'email/newsletter'])], signal()),
    ).toEqual([{ kind: 'refused', code: 'SCOPE_NOT_HELD' }]);
    expect(await here.rows('select distinct no_mail from contacts')).toEqual([{ no_mail: true }]);

    // It holds this version: an earlier consent that comes late lifts nothing.
    const late = new Item({
      ...optOut('ada@example.com', 4, []),
      granted: { email: { at: SINCE, version: 4 } },
    });
    const refused = optOut('ada@example.com', 5, ['email', 'email/newsletter']);
    expect(await store.apply([refused], signal())).toMatchObject([{ kind: 'refused' }]);
    expect(await store.apply([late], signal())).toEqual([{ kind: 'already_newer' }]);
    expect(await here.rows('select distinct no_mail from contacts')).toEqual([{ no_mail: true }]);
  });

  test('two stores in one database keep their versions apart', async () => {
    await using here = await given(contacts);
    const [crm, mail] = [await here.open({ statements }), await here.open({ statements }, 'mail')];
    await crm.apply([optOut('ada@example.com', 5)], signal());
    expect(await mail.apply([optOut('ada@example.com', 1)], signal())).toEqual([{ kind: 'applied' }]);
    expect(await here.rows('select store, version from abide_versions order by store')).toEqual([
      { store: 'crm', version: '5' },
      { store: 'mail', version: '1' },
    ]);
  });

  test('the version in their own row counts, where their statement reads one', async () => {
    await using here = await given(`${contacts} alter table contacts add version bigint`);
    const store = await here.open({
      statements: {
        apply: 'update contacts set no_mail = :email, version = :version where address = :key',
        read_back: statements.read_back.replace('select', 'select version,'),
      },
    });
    await store.apply([optOut('ada@example.com', 4)], signal());
    await withClient(here.database.urls.owner, (client) => client.query('update contacts set version = 3'));
    expect(await store.readBack([email('ada@example.com')], signal())).toEqual([
      { version: 3, suppressed: ['email'] },
    ]);
  });

  // Otherwise it would be older for ever than what the store acknowledged.
  test('the version in their own row is that of a decision that changes nothing there, and after a restore what it says counts', async () => {
    await using here = await given(`${contacts} alter table contacts add version bigint`);
    const store = await here.open({
      statements: {
        apply: statements.apply.replace('set', 'set version = :version,'),
        read_back: statements.read_back.replace('select', 'select version,'),
      },
    });
    const granted = { email: { at: SINCE, version: 2 } };
    const consent = new Item({ ...optOut('ada@example.com', 2, []), granted });
    const later = new Item({ ...optOut('ada@example.com', 3, []), granted });
    await store.apply([optOut('ada@example.com')], signal());
    await store.apply([consent], signal());
    await store.apply([later], signal());
    const lifted = [{ version: 3, suppressed: [] }];
    expect(await store.readBack([email('ada@example.com')], signal())).toEqual(lifted);

    await withClient(here.database.urls.owner, (client) =>
      client.query('update contacts set version = 1, no_mail = true'),
    );
    await store.apply([later], signal());
    expect(await store.readBack([email('ada@example.com')], signal())).toEqual(lifted);
  });

  test('what a trigger of theirs refuses is refused by its SQLSTATE, never told', async () => {
    await using here = await given(`${contacts}
      insert into contacts (address) values ('grace@example.com');
      create function refuse() returns trigger language plpgsql as $$
        begin raise exception 'not %', new.address using errcode = '22023'; end $$;
      create trigger refuse before update on contacts for each row
        when (new.address like 'grace%') execute function refuse()`);
    const store = await here.open({ statements });
    const batch = [optOut('ada@example.com'), optOut('grace@example.com')];
    expect(await store.apply(batch, signal())).toEqual([
      { kind: 'applied' },
      { kind: 'refused', code: 'SQLSTATE_22023' },
    ]);
    expect(await here.rows('select key from abide_versions')).toEqual([{ key: 'ada@example.com' }]);
  });

  test('an answered write is on disk, whatever the database has set', async () => {
    await using here = await given(contacts);
    await here.rows(`alter database ${here.database.name} set synchronous_commit = off`);
    const store = await here.open({
      statements: {
        ...statements,
        apply: `update contacts set no_mail = current_setting('synchronous_commit') = 'on' where address = :key`,
      },
    });
    await store.apply([optOut('ada@example.com')], signal());
    expect(await here.rows('select distinct no_mail from contacts')).toEqual([{ no_mail: true }]);
  });
});

describe('a server in trouble', () => {
  test('that is a replica is not believed', async () => {
    // A server in recovery, as far as the connector can see: our function is found before PostgreSQL's own.
    await using here = await given(
      "create function public.pg_is_in_recovery() returns boolean language sql as 'select true'",
    );
    await here.rows(`alter database ${here.database.name} set search_path = public, pg_catalog`);
    for (const options of [{}, { statements: STATEMENTS }]) {
      if ('statements' in options)
        await withClient(here.database.urls.owner, (client) => client.query(CONTACTS));
      const store = await here.open(options);
      await store.apply([optOut('ada@example.com')], signal());
      await expect(store.readBack([email('ada@example.com')], signal())).rejects.toMatchObject({
        code: 'STORE_FAILED',
        message: 'This PostgreSQL is a replica: it shows less than the primary holds.',
      });
      await expect(store.check!([optOut('ada@example.com')], signal())).rejects.toThrow('is a replica');
    }
  });

  test('that makes a statement wait ends it by itself', async () => {
    await using here = await given();
    const patient = await here.open();
    await patient.apply([optOut('ada@example.com')], signal());
    const store = await here.open({ statement_timeout_ms: 100 });
    await withClient(here.database.urls.owner, async (client) => {
      await client.query('begin; lock table suppressions');
      await expect(store.apply([optOut('ada@example.com', 2)], signal())).rejects.toMatchObject({
        code: 'STORE_TIMEOUT',
        message: 'PostgreSQL answered SQLSTATE 57014.',
      });
    });
    const outcomes = await eventually(() => store.apply([optOut('ada@example.com', 2)], signal()));
    expect(outcomes).toEqual([{ kind: 'applied' }]);
  });

  test('that drops idle connections is asked again on another, and it is said', async () => {
    await using here = await given();
    const store = await here.open();
    await store.apply([optOut('ada@example.com')], signal());
    await here.rows(
      `select pg_terminate_backend(pid) from pg_stat_activity
       where datname = current_database() and application_name = 'abide'`,
    );
    await eventually(() => expect(here.warned).toEqual([{ code: '57P01' }]));
    expect(await store.apply([optOut('ada@example.com', 2)], signal())).toEqual([{ kind: 'applied' }]);
  });

  test('that is not there, or not ours, is unreachable', async () => {
    await using here = await given();
    const away = await here.open({ url: 'postgres://127.0.0.1:1/crm' });
    await expect(away.apply([optOut('ada@example.com')], signal())).rejects.toMatchObject({
      code: 'STORE_UNREACHABLE',
      message: 'The connection to PostgreSQL failed: nothing listens there (ECONNREFUSED).',
    });
    // A proxy whose server is gone accepts the connection and ends it.
    const proxy = createServer((socket) => socket.once('data', () => socket.end())).listen(0, '127.0.0.1');
    await once(proxy, 'listening');
    const { port } = proxy.address() as AddressInfo;
    const ended = await here.open({ url: `postgres://127.0.0.1:${port}/crm` });
    await expect(ended.readBack([], signal())).rejects.toMatchObject({
      code: 'STORE_UNREACHABLE',
      message: 'The connection to PostgreSQL failed: the other side closed it (ECONNRESET).',
    });
    proxy.close();
    const unknown = Object.assign(new URL(here.database.urls.owner), { pathname: 'nowhere' }).href;
    await expect((await here.open({ url: unknown })).readBack([], signal())).rejects.toMatchObject({
      code: 'STORE_UNREACHABLE',
      message: 'PostgreSQL answered SQLSTATE 3D000: no such database.',
      cause: { code: '3D000' },
    });
    const stranger = Object.assign(new URL(here.database.urls.owner), {
      username: 'nobody',
      password: 'hunter2',
    });
    await expect((await here.open({ url: stranger.href })).readBack([], signal())).rejects.toMatchObject({
      code: 'STORE_UNREACHABLE',
      message: expect.stringMatching(/^PostgreSQL answered SQLSTATE (28P01|28000): the user .*is wrong/),
    });
  });
});
