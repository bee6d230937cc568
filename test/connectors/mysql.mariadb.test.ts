import { inspect } from 'node:util';
import { describe, expect, test } from '@jest/globals';
import { Item } from '../../connectors/contract/connector.ts';
import type { Store } from '../../connectors/contract/connector.ts';
import mysql, { positional } from '../../connectors/mysql.ts';
import { Address } from '../../suppression/subject.ts';
import { describeConnector } from '../conformance/connector.ts';
import type { Place } from '../conformance/connector.ts';
import { eventually } from '../harness/eventually.ts';
import { hasTls, holdSettings, mariaDbDatabase, mariaDbLine, withMariaDb } from '../harness/mariadb.ts';
import { startTcpProxy } from '../harness/tcp-proxy.ts';

const urlOf = ({ options }: Place): string => (options as { url: string }).url;

const line = {
  ...mariaDbLine(),
  through: (options: object, port: number) => ({
    ...options,
    url: Object.assign(new URL((options as { url: string }).url), { host: `127.0.0.1:${port}` }).href,
  }),
};

describeConnector('mysql with a table of its own', {
  connector: mysql,
  async open() {
    const database = await mariaDbDatabase();
    return {
      options: { url: database.url },
      [Symbol.asyncDispose]: () => database[Symbol.asyncDispose](),
    };
  },
  line,
  byItself: (place, { kind, key }, scope, isSuppressed) =>
    withMariaDb(urlOf(place), async (connection) => {
      await connection.query(
        `insert into suppressions (kind, \`key\`, ${scope}) values (?, ?, ?)
         on duplicate key update ${scope} = values(${scope})`,
        [kind, key, isSuppressed],
      );
    }),
  badKey: () => Promise.resolve('x'.repeat(761)),
});

/** A data team's table: what may not be sent, in their words, and an address that they will not have. */
const CONTACTS = `
  create table contacts (
    sort varchar(20),
    address varchar(200) character set utf8mb4 collate utf8mb4_bin check (address <> 'nobody@example.com'),
    no_mail boolean default false, no_texts bit(1) default 0, no_push boolean default false,
    no_more json default ('{}'), primary key (sort, address))`;
const STATEMENTS = {
  apply: `
    insert into contacts (sort, address, no_mail, no_texts, no_push, no_more)
    values (:kind, :key, coalesce(:email, false), coalesce(:sms, false), coalesce(:push, false), :scopes)
    on duplicate key update no_mail = coalesce(:email, no_mail), no_texts = coalesce(:sms, no_texts),
      no_push = coalesce(:push, no_push), no_more = json_merge_patch(no_more, :scopes)`,
  read_back: `
    select no_mail as email, no_texts as sms, no_push as push, no_more as scopes
    from contacts where sort = :kind and address = :key`,
};

describeConnector("mysql with tables of the user's own", {
  connector: mysql,
  async open() {
    const database = await mariaDbDatabase();
    await database.query(CONTACTS);
    return {
      options: { url: database.url, statements: STATEMENTS },
      [Symbol.asyncDispose]: () => database[Symbol.asyncDispose](),
    };
  },
  line,
  byItself: (place, { kind, key }, scope, isSuppressed) =>
    withMariaDb(urlOf(place), async (connection) => {
      const column = { email: 'no_mail', sms: 'no_texts', push: 'no_push' }[scope];
      await connection.query(
        `insert into contacts (sort, address, ${column}) values (?, ?, ?)
         on duplicate key update ${column} = values(${column})`,
        [kind, key, isSuppressed],
      );
    }),
  badKey: () => Promise.resolve('nobody@example.com'),
});

// --- what only MySQL does

const SINCE = '2026-11-24T09:00:00.000Z';
const signal = (): AbortSignal => AbortSignal.timeout(10_000);

type Stated = {
  version?: number;
  suppressed?: readonly string[];
  granted?: Readonly<Record<string, number>>;
  kind?: 'email' | 'push_token';
};

function decided(key: string, { version = 1, suppressed, granted = {}, kind = 'email' }: Stated = {}): Item {
  return new Item({
    seq: version,
    version,
    subject: { kind, value: new Address(key) },
    key,
    suppressed: Object.fromEntries((suppressed ?? ['email']).map((scope) => [scope, SINCE])),
    granted: Object.fromEntries(
      Object.entries(granted).map(([scope, at]) => [scope, { at: SINCE, version: at }]),
    ),
    effectiveAt: SINCE,
    lane: 'live',
  });
}
const email = (key: string) => ({ kind: 'email', key }) as const;

/** Writers of the same people, each in an order of its own, two versions at a time; the last version is 6. */
async function writeAtOnce(stores: readonly Store[], keys: readonly string[]): Promise<void> {
  for (let version = 1; version <= 5; version += 1) {
    await Promise.all(
      stores.map((store, n) =>
        store.apply(
          [...keys]
            .sort(() => Math.random() - 0.5)
            .map((key) => decided(key, { version: version + (n % 2) })),
          signal(),
        ),
      ),
    );
  }
}

/** A database made by `sql`, and stores on it. */
async function given(sql = '') {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await mariaDbDatabase());
  if (sql !== '') await database.query(sql);
  const warned: object[] = [];
  const silent = (): void => undefined;
  const context = {
    log: { debug: silent, info: silent, error: silent, warn: (fields: object) => void warned.push(fields) },
  };
  return {
    database,
    warned,
    open: async (options: object = {}, name = 'crm', scopes = ['email']): Promise<Store> =>
      stack.use(
        await mysql.open(mysql.options.parse({ url: database.url, ...options }), {
          ...context,
          name,
          scopes: new Map(scopes.map((scope) => [scope, undefined])),
        }),
      ),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

describe('named parameters', () => {
  test('become positional ones, each as often as it is used', () => {
    expect(positional('update c set a = :email, b = :email where k = :key')).toEqual({
      text: 'update c set a = ?, b = ? where k = ?',
      parameters: ['email', 'email', 'key'],
      faults: [],
    });
  });

  test.each([
    ['a text', `select ':email ?', 'it''s :sms', "say "":sms"" '?" from c where k = :key`],
    ['a text with escapes', String.raw`select '\':email', '\\', "\":email ?" from c where k = :key`],
    ['a text of several lines', "select 'one\n:email?' from c where k = :key"],
    ['a name', 'select `:email``?` from c where k = :key'],
    ['a comment', 'select 1 -- :email ?\nfrom c where k = :key'],
    ['a comment that a tab begins', 'select 1 --\t:email ?\nfrom c where k = :key'],
    ['a comment of nothing', 'select 1 --\nfrom c where k = :key'],
    ['a comment at the end', 'select 1 from c where k = :key --'],
    ['a comment after a number sign', "select 1 # :email's ?\nfrom c where k = :key"],
    ['a long comment', 'select 1 /* :email\n ? */ from c where k = :key'],
    ['a hint', 'select /*+ max_execution_time(:email) */ 1 from c where k = :key'],
    ['an assignment', 'select @x := 1, @y:=2 from c where k = :key'],
  ])('are not looked for in %s', (_where, sql) => {
    expect(positional(sql)).toEqual({ text: sql.replace(':key', '?'), parameters: ['key'], faults: [] });
  });

  test.each([
    ['what is no comment', 'select 5--1, :key', 'select 5--1, ?'],
    ['what a hyphen follows', 'select 1---:key', 'select 1---?'],
    ['a comment that is run', 'select /*! :key */ /*M!100500 + 1 */', 'select /*! ? */ /*M!100500 + 1 */'],
    ['an assignment of one', 'select @x:=:key', 'select @x:=?'],
  ])('are found in %s', (_where, sql, text) => {
    expect(positional(sql)).toEqual({ text, parameters: ['key'], faults: [] });
  });

  test.each([
    ['select 1', [':key is missing']],
    ['select :kye', [expect.stringMatching(/^:kye is not one of :key /), ':key is missing']],
    ['select ?, :key', ['? is not a named parameter']],
    ["select '\\\\', ?, ':key'", ['? is not a named parameter', ':key is missing']],
  ])('of %s are refused by name', (sql, faults) => {
    expect(positional(sql).faults).toEqual(faults);
  });
});

describe('options', () => {
  const faultsOf = (options: object): string[] =>
    mysql.options.safeParse(options).error!.issues.map(({ path, message }) => `${path.join('.')} ${message}`);

  test.each([
    ['postgres://localhost/crm', 'must be a mysql:// or mariadb:// URL'],
    ['mysql://localhost', 'must name the database as its path'],
    ['mysql://crm:100%@localhost/crm', 'has a % that does not begin an escape: write %25'],
    ['mysql://localhost/crm?sslmode=REQUIRED', 'may have the parameters ssl-mode and ssl-ca only'],
    [
      'mysql://localhost/crm?ssl-mode=require',
      'ssl-mode must be one of DISABLED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY',
    ],
    ['mysql://localhost/crm?ssl-mode=VERIFY_CA&ssl-ca=/nowhere.pem', 'names an ssl-ca that cannot be read'],
    [
      'mysql://10.0.0.7/crm?ssl-mode=VERIFY_IDENTITY',
      'ssl-mode=VERIFY_IDENTITY needs the name of the host, not its address',
    ],
    [
      'mysql://[::1]/crm?ssl-mode=VERIFY_IDENTITY',
      'ssl-mode=VERIFY_IDENTITY needs the name of the host, not its address',
    ],
    ['mysql://localhost/crm?ssl-ca=package.json', 'ssl-ca needs an ssl-mode that verifies'],
  ])('%s: %s', (url, wanted) => {
    expect(faultsOf({ url })).toEqual([`url ${wanted}`]);
  });

  test('give a table or statements, with the key in each', () => {
    const url = 'mysql://localhost/crm';
    expect(faultsOf({ url, table: 'a.b.c' })).toEqual(['table must be a table or database.table']);
    expect(faultsOf({ url, statements: { ...STATEMENTS, apply: 'select 1' } })).toEqual([
      'statements.apply :key is missing',
    ]);
    expect(faultsOf({ url, table: 'a', statements: STATEMENTS })).toEqual([
      'statements give either table or statements',
    ]);
  });

  test('a target is host, port, database and table or statements, never a password', () => {
    const target = (options: object) => mysql.target(mysql.options.parse(options));
    expect(target({ url: 'mysql://user:secret@db.internal:3307/crm', table: 'a.b' })).toEqual([
      'db.internal',
      '3307',
      'crm',
      'a.b',
    ]);
    expect(target({ url: 'mariadb://db.internal/crm' })).toEqual([
      'db.internal',
      '3306',
      'crm',
      'suppressions',
    ]);
    expect(target({ url: 'mysql://user:secret@db.internal/crm', statements: STATEMENTS })).toEqual([
      'db.internal',
      '3306',
      'crm',
      STATEMENTS.apply,
      STATEMENTS.read_back,
    ]);
  });
});

describe('its table', () => {
  test('is made once, by whichever of several workers is first', async () => {
    await using here = await given();
    const stores = await Promise.all(Array.from({ length: 4 }, () => here.open()));
    const outcomes = await Promise.all(
      stores.map((store, n) => store.apply([decided(`${n}@example.com`)], signal())),
    );
    expect(outcomes.flat()).toEqual(stores.map(() => ({ kind: 'applied' })));
    expect(await here.database.query('select `key` from suppressions where email')).toHaveLength(4);
  });

  test('may have any name, in any database', async () => {
    await using here = await given();
    await using other = await mariaDbDatabase();
    const store = await here.open({ table: `${other.name}.Who \`opted\` out; --` });
    expect(await store.readBack([email('ada@example.com')], signal())).toEqual([undefined]);
    await store.apply([decided('ada@example.com')], signal());
    expect(await store.readBack([email('ada@example.com')], signal())).toEqual([
      { version: 1, suppressed: ['email'] },
    ]);
    expect(await other.query("select email from `Who ``opted`` out; --` where kind = 'email'")).toEqual([
      { email: 1 },
    ]);
  });

  test('a sender finds 1 where suppressed, 0 where lifted, null where nothing was said', async () => {
    await using here = await given();
    const store = await here.open();
    await store.apply([decided('ada@example.com', { suppressed: ['email', 'sms', 'analytics'] })], signal());
    const grant = { version: 2, suppressed: ['sms'], granted: { email: 2, analytics: 2 } };
    await store.apply([decided('ada@example.com', grant)], signal());
    expect(
      await here.database.query(
        "select version, email, sms, push, scopes, effective_at from suppressions where kind = 'email'",
      ),
    ).toEqual([
      {
        version: 2,
        email: 0,
        sms: 1,
        push: null,
        scopes: '{"analytics": false}',
        effective_at: expect.any(Date),
      },
    ]);
    expect(
      await here.database.query("select `key` from suppressions where effective_at = '2026-11-24 09:00'"),
    ).toEqual([{ key: 'ada@example.com' }]);
  });

  test('a grant of a topic lifts what was held before it, and no opt-out that came after', async () => {
    await using here = await given();
    const store = await here.open();
    const topics = ['email/news', 'email/offers', 'analytics'];
    const people = ['ada@example.com', 'grace@example.com'];
    await store.apply(
      people.map((key, n) => decided(key, { version: 1 + 5 * n, suppressed: topics })),
      signal(),
    );
    const granted = { 'email/news': 3, analytics: 8 };
    await store.apply(
      people.map((key) => decided(key, { version: 8, suppressed: ['sms'], granted })),
      signal(),
    );
    expect(await store.readBack(people.map(email), signal())).toEqual([
      { version: 8, suppressed: ['sms', 'email/offers'] },
      { version: 8, suppressed: ['sms', 'email/news', 'email/offers'] },
    ]);
  });

  test('keys that differ in case or accent are two people', async () => {
    await using here = await given();
    const store = await here.open();
    const keys = ['Token-a', 'token-a', 'tokén-a', 'token-á'];
    await store.apply(
      keys.map((key, n) => decided(key, { version: n + 1, kind: 'push_token', suppressed: ['push'] })),
      signal(),
    );
    const asked = [...keys, 'TOKEN-A'].map((key) => ({ kind: 'push_token', key }) as const);
    expect((await store.readBack(asked, signal())).map((held) => held?.version)).toEqual([
      1,
      2,
      3,
      4,
      undefined,
    ]);
  });

  test.each([
    ['ends in a space, which the collation ignores', 'ada@example.com '],
    ['has half a character', 'ada\ud83d@example.com'],
    ['has a NUL', 'ada\0@example.com'],
  ])('a key that %s is refused and its neighbours are applied', async (_what, bad) => {
    await using here = await given();
    const store = await here.open();
    expect(await store.apply([decided('ada@example.com'), decided(bad)], signal())).toEqual([
      { kind: 'applied' },
      { kind: 'refused', code: 'KEY_NOT_TEXT' },
    ]);
  });

  test('a key of 760 characters of four bytes each is held', async () => {
    await using here = await given();
    const store = await here.open();
    const key = '😀'.repeat(760);
    expect(await store.apply([decided(key)], signal())).toEqual([{ kind: 'applied' }]);
    expect(await store.readBack([email(key)], signal())).toEqual([{ version: 1, suppressed: ['email'] }]);
  });

  test.each(['[]', '[true]', '"email/newsletter"', 'null'])(
    'a row whose scopes somebody made %s holds no topic, and takes one',
    async (scopes) => {
      await using here = await given();
      const store = await here.open();
      const ada = 'ada@example.com';
      const optedOut = decided(ada, { suppressed: ['email', 'email/newsletter'] });
      const heldNow = () => store.readBack([email(ada)], signal());
      await store.apply([optedOut], signal());
      await here.database.query(`update suppressions set scopes = '${scopes}' where \`key\` = '${ada}'`);

      expect(await heldNow()).toEqual([{ version: 1, suppressed: ['email'] }]);
      await store.apply([optedOut], signal());
      expect(await heldNow()).toEqual([{ version: 1, suppressed: ['email', 'email/newsletter'] }]);
    },
  );

  test('one with a collation that takes two keys for one is not used', async () => {
    await using here = await given();
    await (await here.open()).apply([decided('grace@example.com')], signal());
    await here.database.query(
      'alter table suppressions modify `key` varchar(700) collate utf8mb4_general_ci',
    );
    const store = await here.open();
    const refused = {
      code: 'STORE_FAILED',
      message: expect.stringContaining(
        'collation utf8mb4_general_ci, which takes two different keys for the same',
      ),
    };
    await expect(store.apply([decided('ada@example.com')], signal())).rejects.toMatchObject(refused);
    await expect(store.readBack([email('grace@example.com')], signal())).rejects.toMatchObject(refused);
  });

  test('is not made in a database that is missing: the check says so, as the write does', async () => {
    await using here = await given();
    const store = await here.open({ table: 'no_such_database.supp' });
    const items = [decided('ada@example.com')];
    await expect(store.check!(items, signal())).rejects.toThrow('no such database');
    await expect(store.apply(items, signal())).rejects.toThrow('no such database');

    const url = await here.database.user('create, select, insert, update', 'supp');
    const allowed = await here.open({ url, table: `${here.database.name}.supp` });
    await allowed.check!(items, signal());
    expect(await allowed.apply(items, signal())).toEqual([{ kind: 'applied' }]);
  });

  test('a replay writes nothing, also of what was lifted', async () => {
    await using here = await given();
    const store = await here.open();
    const decision = decided('ada@example.com', {
      version: 3,
      suppressed: ['email', 'analytics'],
      granted: { sms: 2 },
    });
    await store.apply([decision], signal());
    await here.database.query("update suppressions set updated_at = '2001-01-01'");
    const before = await here.database.query('select * from suppressions');
    await store.apply([decision], signal());
    expect(await here.database.query('select * from suppressions')).toEqual(before);
  });

  test('is listed to its end, whatever the keys are', async () => {
    await using here = await given();
    const store = await here.open();
    await store.apply([decided('ada@example.com'), decided('t', { kind: 'push_token' })], signal());
    const letter = (n: number): string => String.fromCharCode(97 + (n % 26));
    const keys = Array.from(
      { length: 10_500 },
      (_, n) => `${letter(n)}${n % 2 === 1 ? 'É' : 'e'}${n}@example.com`,
    );
    await here.database.query('insert into suppressions (kind, `key`, email) values ?', [
      keys.map((key) => ['email', key, true]),
    ]);
    const found = new Set<string>();
    for (let page = await store.scan!(undefined, signal()); page.length > 0;) {
      for (const { kind, key } of page) found.add(`${kind}:${key}`);
      page = await store.scan!(page.at(-1), signal());
    }
    expect(found.size).toBe(10_502);
  });

  test('a user who may not create tables is welcome to one that is there', async () => {
    await using here = await given();
    const restricted = await here.open({ url: await here.database.user('select, insert, update') });
    expect(await restricted.readBack([email('ada@example.com')], signal())).toEqual([undefined]);
    await expect(restricted.apply([decided('ada@example.com')], signal())).rejects.toMatchObject({
      code: 'STORE_FAILED',
      message: 'MySQL answered error 1142 (SQLSTATE 42000): not allowed to this user.',
    });
    await (await here.open()).apply([decided('grace@example.com')], signal());
    expect(await restricted.apply([decided('ada@example.com')], signal())).toEqual([{ kind: 'applied' }]);
  });
});

test('whom a check of theirs refuses in the table is refused by its number, and the neighbours are applied', async () => {
  await using here = await given();
  const store = await here.open();
  await store.apply([decided('first@example.com')], signal());
  await here.database.query("alter table suppressions add constraint refused check (`key` not like 'no%')");
  const apply = (...keys: string[]) =>
    store.apply(
      keys.map((key) => decided(key)),
      signal(),
    );
  const numberOf = { MariaDB: 4025, MySQL: 3819 }[await here.database.product()];
  const refused = { kind: 'refused', code: `ERROR_${numberOf}` };
  const applied = { kind: 'applied' };
  expect(await apply('a@example.com', 'no@example.com', 'b@example.com')).toEqual([
    applied,
    refused,
    applied,
  ]);
  await expect(apply('no1@example.com', 'no2@example.com')).rejects.toMatchObject({ code: 'STORE_FAILED' });
});

describe("the user's own tables", () => {
  const contacts = `create table contacts (id int auto_increment primary key, address varchar(100),
      no_mail boolean default false) engine = InnoDB;
    insert into contacts (address) values ('ada@example.com'), ('ada@example.com');`;
  const statements = {
    apply: 'update contacts set no_mail = coalesce(:email, no_mail) where address = :key',
    read_back: 'select no_mail as email, null as sms, null as push from contacts where address = :key',
  };
  const [ada, grace] = ['ada@example.com', 'grace@example.com'];

  test('of two contacts with one address both are suppressed, and one that is not is not painted over', async () => {
    await using here = await given(contacts);
    const store = await here.open({ statements });
    expect(await store.apply([decided(ada)], signal())).toEqual([{ kind: 'applied' }]);
    expect(await store.readBack([email(ada)], signal())).toEqual([{ version: 1, suppressed: ['email'] }]);

    await here.database.query('insert into contacts (address) values (?)', [ada]);
    expect(await store.readBack([email(ada)], signal())).toEqual([{ version: 1, suppressed: [] }]);
  });

  test('somebody whom their statement does not find is absent, and suppressed once there', async () => {
    await using here = await given(contacts);
    const store = await here.open({ statements });
    const batch = [decided(ada), decided(grace)];
    expect(await store.apply(batch, signal())).toEqual([{ kind: 'applied' }, { kind: 'absent' }]);
    expect(await here.database.query("select `key` from abide_versions where kind = 'email'")).toEqual([
      { key: ada },
    ]);
    expect(await store.readBack([email(ada), email(grace)], signal())).toEqual([
      { version: 1, suppressed: ['email'] },
      undefined,
    ]);

    await here.database.query('insert into contacts (address) values (?)', [grace]);
    expect(await store.apply(batch, signal())).toEqual([{ kind: 'applied' }, { kind: 'applied' }]);
  });

  test('somebody of whom nothing had to change is not absent, whatever the server counts', async () => {
    await using here = await given(`${contacts} update contacts set no_mail = true`);
    const store = await here.open({
      statements: {
        ...statements,
        apply: 'update contacts set no_mail = :email where address = :key and not no_mail',
      },
    });
    expect(await store.apply([decided(ada)], signal())).toEqual([{ kind: 'applied' }]);
  });

  test('no old decision undoes a newer one, though their row has no version', async () => {
    await using here = await given(contacts);
    const store = await here.open({ statements });
    await store.apply([decided(ada, { version: 5 })], signal());
    const grant = (version: number) => decided(ada, { version, suppressed: [], granted: { email: version } });
    expect(await store.apply([grant(4)], signal())).toEqual([{ kind: 'already_newer' }]);
    expect(await store.readBack([email(ada)], signal())).toEqual([{ version: 5, suppressed: ['email'] }]);
    expect(await store.apply([grant(6)], signal())).toEqual([{ kind: 'applied' }]);
    expect(await store.readBack([email(ada)], signal())).toEqual([{ version: 6, suppressed: [] }]);
  });

  test('a topic that their statement cannot say is refused, the channel is suppressed all the same', async () => {
    await using here = await given(contacts);
    const store = await here.open({ statements });
    expect(
      await store.apply([decided(ada, { suppressed: ['email', 'email/newsletter'] })], signal()),
    ).toEqual([{ kind: 'refused', code: 'SCOPE_NOT_HELD' }]);
    expect(await here.database.query('select distinct no_mail from contacts')).toEqual([{ no_mail: 1 }]);

    // It holds this version: an earlier consent that comes late lifts nothing.
    const late = decided(ada, { version: 4, suppressed: [], granted: { email: 4 } });
    const refused = decided(ada, { version: 5, suppressed: ['email', 'email/newsletter'] });
    expect(await store.apply([refused], signal())).toMatchObject([{ kind: 'refused' }]);
    expect(await store.apply([late], signal())).toEqual([{ kind: 'already_newer' }]);
    expect(await here.database.query('select distinct no_mail from contacts')).toEqual([{ no_mail: 1 }]);
  });

  test('two stores in one database keep their versions apart', async () => {
    await using here = await given(contacts);
    const [crm, mail] = [await here.open({ statements }), await here.open({ statements }, 'mail')];
    await crm.apply([decided(ada, { version: 5 })], signal());
    expect(await mail.apply([decided(ada, { version: 1 })], signal())).toEqual([{ kind: 'applied' }]);
    expect(
      await here.database.query(
        "select store, version from abide_versions where kind = 'email' order by store",
      ),
    ).toEqual([
      { store: 'crm', version: 5 },
      { store: 'mail', version: 1 },
    ]);
  });

  test('the version in their own row counts, where their statement reads one', async () => {
    await using here = await given(
      `${contacts} alter table contacts add version bigint, add since datetime(3)`,
    );
    const store = await here.open({
      statements: {
        apply:
          'update contacts set no_mail = :email, version = :version, since = :effective_at where address = :key',
        read_back: statements.read_back.replace('select', 'select version,'),
      },
    });
    await store.apply([decided(ada, { version: 4 })], signal());
    expect(await here.database.query('select distinct cast(since as char) as since from contacts')).toEqual([
      { since: '2026-11-24 09:00:00.000' },
    ]);
    await here.database.query('update contacts set version = 3');
    expect(await store.readBack([email(ada)], signal())).toEqual([{ version: 3, suppressed: ['email'] }]);
  });

  test.each([
    [
      'a trigger of theirs',
      `create trigger refuse before update on contacts for each row
         if new.address like 'grace%' then signal sqlstate '45000' set message_text = 'not grace'; end if`,
      statements.apply,
      'ERROR_1644',
    ],
    [
      'a column of theirs',
      'alter table contacts add login varchar(12)',
      'update contacts set no_mail = :email, login = if(address like "grace%", :key, null) where address = :key',
      'ERROR_1406',
    ],
    [
      'a procedure of theirs, half done,',
      `create procedure opt_out (who varchar(100), stop_mail boolean) begin
         update contacts set no_mail = stop_mail where address = who;
         if who like 'grace%' then signal sqlstate '45000' set message_text = 'not grace'; end if; end`,
      'call opt_out(:key, :email)',
      'ERROR_1644',
    ],
  ])(
    'what %s refuses is refused by its number, and its neighbours are applied',
    async (_what, sql, apply, code) => {
      await using here = await given(
        `${contacts} insert into contacts (address) values ('grace@example.com')`,
      );
      await here.database.query(sql);
      const store = await here.open({ statements: { ...statements, apply } });
      const batch = [decided(ada), decided(grace), decided('nobody@example.com')];
      expect(await store.apply(batch, signal())).toEqual([
        { kind: 'applied' },
        { kind: 'refused', code },
        { kind: 'absent' },
      ]);
      expect(await here.database.query('select address from contacts where no_mail')).toEqual([
        { address: ada },
        { address: ada },
      ]);
      expect(await here.database.query("select `key` from abide_versions where kind = 'email'")).toEqual([
        { key: ada },
      ]);
    },
  );

  test('a key that no row of the versions can hold is refused, and its neighbours are applied', async () => {
    await using here = await given(contacts);
    const store = await here.open({ statements }, 'n'.repeat(63));
    expect(
      await store.apply(
        [decided('x'.repeat(741)), decided('é'.repeat(740)), decided('a '), decided(ada)],
        signal(),
      ),
    ).toEqual([
      { kind: 'refused', code: 'KEY_TOO_LONG' },
      { kind: 'absent' },
      { kind: 'refused', code: 'KEY_NOT_TEXT' },
      { kind: 'applied' },
    ]);
  });

  test('a version is read with the row that it is of, also while somebody writes', async () => {
    await using here = await given(`${contacts} insert into contacts (address) values ('grace@example.com')`);
    const late = `get_lock('${here.database.name}', 20)`;
    const [store, writer] = [
      await here.open({
        statements: { ...statements, read_back: statements.read_back.replace('select', `select ${late},`) },
      }),
      await here.open({ statements }),
    ];
    await store.apply([decided(ada, { version: 1 })], signal());
    await withMariaDb(here.database.url, async (connection) => {
      await connection.query(`select ${late}`);
      const reading = store.readBack([email(grace), email(ada)], signal());
      await eventually(async () => {
        const waiting =
          "select id from information_schema.processlist where db = database() and state = 'User lock'";
        expect(await here.database.query(waiting)).toHaveLength(1);
      });
      const grant = { version: 2, suppressed: [], granted: { email: 2 } };
      expect(await writer.apply([decided(ada, grant)], signal())).toEqual([{ kind: 'applied' }]);
      await connection.query(`select release_lock('${here.database.name}')`);
      expect(await reading).toEqual([
        { version: undefined, suppressed: [] },
        { version: 1, suppressed: ['email'] },
      ]);
    });
  });

  test('scopes that are no JSON are not held, and not told of', async () => {
    await using here = await given(contacts);
    const store = await here.open({
      statements: {
        ...statements,
        read_back: statements.read_back.replace('select', 'select address as scopes,'),
      },
    });
    await store.apply([decided(ada)], signal());
    const failed: unknown = await store.readBack([email(ada)], signal()).catch((error: unknown) => error);
    expect(failed).toMatchObject({
      code: 'STORE_FAILED',
      message: 'What the store holds as scopes is not JSON.',
    });
    expect(inspect(failed, { depth: 9 })).not.toContain(ada);
  });

  test('a server that is read-only is not believed', async () => {
    await using _ = await holdSettings();
    await using here = await given(contacts);
    const store = await here.open({ statements });
    await store.apply([decided(ada)], signal());
    await here.database.query('set global read_only = 1');
    try {
      await expect(store.readBack([email(ada)], signal())).rejects.toThrow('read-only, like a replica');
      await expect(store.check!([decided(ada)], signal())).rejects.toThrow('read-only, like a replica');
    } finally {
      await here.database.query('set global read_only = 0');
    }
  });

  test('of a worker that is gone without a word the server gives back the locks', async () => {
    await using here = await given(contacts);
    await using line = await startTcpProxy(mariaDbLine());
    const url = Object.assign(new URL(here.database.url), { host: `127.0.0.1:${line.port}` }).href;
    const [gone, other] = [
      await here.open({ url, statements, statement_timeout_ms: 3_000 }),
      await here.open({ statements, statement_timeout_ms: 10_000 }),
    ];
    await gone.apply([decided(ada)], signal());
    await withMariaDb(here.database.url, async (connection) => {
      await connection.query('start transaction; update contacts set no_mail = false');
      const hanging = gone.apply([decided(ada, { version: 2 })], AbortSignal.timeout(20_000));
      await eventually(async () => {
        const waiting =
          "select id from information_schema.processlist where db = database() and info like 'update contacts%'";
        expect(await here.database.query(waiting)).toHaveLength(1);
      });
      line.setFault('hang');
      await connection.query('commit');
      expect(await other.apply([decided(ada, { version: 3 })], signal())).toEqual([{ kind: 'applied' }]);
      line.setFault('none');
      await expect(hanging).rejects.toMatchObject({ code: 'STORE_UNREACHABLE' });
    });
  });

  test('four writers of the same people, there and not there, stand in nobody’s way', async () => {
    await using here = await given(
      'create table contacts (address varchar(100) primary key, no_mail boolean default false) engine = InnoDB',
    );
    const stores = await Promise.all(Array.from({ length: 4 }, () => here.open({ statements })));
    const keys = Array.from({ length: 200 }, (_, n) => `${n}@example.com`);
    await here.database.query('insert into contacts (address) values ?', [
      keys.slice(0, 100).map((key) => [key]),
    ]);
    await writeAtOnce(stores, keys);
    const held = await stores[0]!.readBack(keys.map(email), signal());
    expect(held).toEqual(keys.map((_, n) => (n < 100 ? { version: 6, suppressed: ['email'] } : undefined)));
    expect(
      await here.database.query("select `key` from abide_versions where version = 0 or kind = 'email'"),
    ).toHaveLength(100);
  });

  test('whose versions were emptied or dropped are another store, and those of another one are not', async () => {
    await using here = await given(contacts);
    const [crm, mail] = [await here.open({ statements }), await here.open({ statements }, 'mail')];
    const incarnation = (of = crm): Promise<string | null | undefined> => of.incarnation!(signal());
    expect(await incarnation()).toBeNull();
    await crm.apply([decided(ada)], signal());
    await mail.apply([decided(ada)], signal());
    const [first, ofMail] = [await incarnation(), await incarnation(mail)];
    expect(first!.length).toBeLessThan(200);
    expect(ofMail).not.toBe(first);
    expect(await incarnation(await here.open({ statements }))).toBe(first);

    await here.database.query("delete from abide_versions where store = 'crm'");
    expect([await incarnation(), await incarnation(mail)]).toEqual([null, ofMail]);
    const before = new Set([first]);
    for (const accident of ['truncate table abide_versions', 'drop table abide_versions']) {
      await crm.apply([decided(ada)], signal());
      const next = await incarnation();
      expect(before).not.toContain(next);
      before.add(next);
      await here.database.query(accident);
      expect(await incarnation()).toBeNull();
    }
    expect(await crm.apply([decided(ada)], signal())).toEqual([{ kind: 'applied' }]);
  });
});

describe('a check of the configuration', () => {
  test('leaves no table, and none of what it tries in one', async () => {
    await using here = await given();
    const store = await here.open();
    await store.check!([decided('nobody@example.com')], signal());
    expect(await here.database.query('show tables')).toEqual([]);
    await store.apply([decided('ada@example.com')], signal());
    await store.check!([decided('nobody@example.com')], signal());
    expect(await here.database.query("select `key` from suppressions where kind = 'email'")).toEqual([
      { key: 'ada@example.com' },
    ]);
  });

  test.each([
    ['select, insert, update', 'table suppressions, create: not allowed to this user (error 1142).'],
    [
      'create, select, insert',
      'table suppressions, insert and update: not allowed to this user (error 1142).',
    ],
  ])('says what %s does not allow, before there is a table', async (rights, message) => {
    await using here = await given();
    const store = await here.open({ url: await here.database.user(rights) });
    await expect(store.check!([decided('nobody@example.com')], signal())).rejects.toMatchObject({
      code: 'STORE_FAILED',
      message,
    });
  });
});

describe('a check of statements', () => {
  const contacts = `create table contacts (address varchar(60) primary key, plan varchar(9) not null,
    no_mail boolean not null default false, no_more json default ('{}')) engine = InnoDB`;
  const statements = {
    apply: `insert into contacts (address, plan, no_mail) values (:key, 'free', :email)
      on duplicate key update no_mail = coalesce(:email, no_mail)`,
    read_back: 'select no_mail as email, null as sms, null as push from contacts where address = :key',
  };
  const changed = (name: keyof typeof statements, from: string, to: string): object => {
    expect(statements[name]).toContain(from);
    return { ...statements, [name]: statements[name].replace(from, to) };
  };
  const nobody = [decided('nobody@example.com')];

  test('leaves no table and no row, with and without versions', async () => {
    await using here = await given(contacts);
    const store = await here.open({ statements });
    await store.check!(nobody, signal());
    expect(await here.database.query('show tables')).toHaveLength(1);
    await store.apply([decided('ada@example.com')], signal());
    await store.check!(nobody, signal());
    expect(await here.database.query('select address from contacts')).toEqual([
      { address: 'ada@example.com' },
    ]);
    expect(await here.database.query("select `key` from abide_versions where kind = 'email'")).toEqual([
      { key: 'ada@example.com' },
    ]);
  });

  test.each([
    [
      changed('apply', 'on duplicate key update', 'on duplicate key'),
      'statements.apply: a syntax error (error 1064).',
    ],
    [
      changed('apply', 'update no_mail =', 'update no_mails ='),
      'statements.apply: no such column (error 1054).',
    ],
    [changed('read_back', 'contacts', 'contact'), 'statements.read_back: no such table (error 1146).'],
    [changed('apply', 'plan, ', ''), 'statements.apply: more or fewer values than columns (error 1136).'],
    [
      changed('apply', "'free'", 'null'),
      'statements.apply: a column that must not be null is left null (error 1048).',
    ],
    [
      changed('apply', "'free'", ':key'),
      'statements.apply: a text that is too long for its column (error 1406).',
    ],
    [
      changed('apply', "'free'", 'plan_of(:key)'),
      /^statements.apply: no such function or procedure \(error 1305\)/,
    ],
    [changed('apply', ':email)', ':key)'), /^statements.apply: .* \(error \d+\)\.$/],
    [changed('read_back', 'no_mail as email, ', ''), 'statements.read_back: gives no boolean column email.'],
    [
      changed('read_back', 'no_mail as email', "'yes' as email"),
      'statements.read_back: gives no boolean column email.',
    ],
    [
      changed('apply', "'free', :email)", "'free', not :email)"),
      'statements.read_back does not show the email that statements.apply suppressed.',
    ],
  ])('says which is wrong and why, without a value: %#', async (wrong, message) => {
    await using here = await given(contacts);
    const store = await here.open({ statements: wrong });
    const failed: unknown = await store.check!(nobody, signal()).catch((error: unknown) => error);
    expect(failed).toMatchObject({
      code: 'STORE_FAILED',
      message: message instanceof RegExp ? expect.stringMatching(message) : message,
    });
    expect(inspect(failed, { depth: 9 })).not.toContain('nobody@example.com');
    expect(await here.database.query('select address from contacts')).toEqual([]);
  });

  test.each([
    ['select, insert, update', 'table abide_versions, create: not allowed to this user (error 1142).'],
    [
      'select, insert, update, create',
      'table abide_versions, delete: not allowed to this user (error 1142).',
    ],
  ])('says what %s does not allow, before there are versions', async (rights, message) => {
    await using here = await given(contacts);
    const store = await here.open({ statements, url: await here.database.user(rights) });
    await expect(store.check!(nobody, signal())).rejects.toMatchObject({ code: 'STORE_FAILED', message });
  });

  test('asks for a column of topics and purposes only where the store holds some', async () => {
    await using here = await given(contacts);
    const topics = ['email', 'email/newsletter'];
    const check = async (read_back: string): Promise<void> =>
      await (
        await here.open({ statements: { ...statements, read_back } }, 'crm', topics)
      ).check!(nobody, signal());
    await expect(check(statements.read_back)).rejects.toThrow(
      'statements.read_back: gives no JSON column scopes.',
    );
    await check(statements.read_back.replace('select', 'select no_more as scopes,'));
  });

  test('says of a table without transactions that it keeps what was tried', async () => {
    await using here = await given(contacts.replace('InnoDB', 'MyISAM'));
    const store = await here.open({ statements });
    await expect(store.check!(nobody, signal())).rejects.toMatchObject({
      code: 'STORE_FAILED',
      message: 'what was tried: a table without transactions keeps the change: make it InnoDB (error 1196).',
    });
  });
});

describe('a server', () => {
  test('that is set to other modes and times than ours takes the same', async () => {
    await using _ = await holdSettings();
    await using here = await given();
    const modes = await here.database.query('select @@global.sql_mode as mode, @@global.time_zone as zone');
    await here.database.query(
      "set global sql_mode = 'ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT', global time_zone = '-11:00'",
    );
    try {
      const store = await here.open();
      const key = `o'neil"\\@example.com`;
      await store.apply([decided(key)], signal());
      expect(await store.readBack([email(key)], signal())).toEqual([{ version: 1, suppressed: ['email'] }]);
      const since =
        'select cast(effective_at as char) as since from suppressions where updated_at > utc_timestamp() - interval 1 hour and version = 1';
      expect(await here.database.query(since)).toEqual([{ since: '2026-11-24 09:00:00.000' }]);
    } finally {
      const { mode, zone } = modes[0]!;
      await here.database.query('set global sql_mode = ?, global time_zone = ?', [mode, zone]);
    }
  });

  test('whose packets are small takes a batch all the same', async () => {
    await using _ = await holdSettings();
    await using here = await given();
    const [set] = await here.database.query('select @@global.max_allowed_packet as bytes');
    await here.database.query('set global max_allowed_packet = 1048576');
    try {
      const store = await here.open();
      const batch = Array.from({ length: 1_000 }, (_, n) => decided(`${'é'.repeat(700)}${n}@example.com`));
      expect(await store.apply(batch, signal())).toEqual(batch.map(() => ({ kind: 'applied' })));
      expect((await store.readBack(batch.slice(0, 3), signal())).map((held) => held?.version)).toEqual([
        1, 1, 1,
      ]);
    } finally {
      await here.database.query('set global max_allowed_packet = ?', [set!['bytes']]);
    }
  });

  test('that is read-only, as a replica is, is not believed', async () => {
    await using _ = await holdSettings();
    await using here = await given();
    const store = await here.open();
    await store.apply([decided('ada@example.com')], signal());
    await here.database.query('set global read_only = 1');
    try {
      const refused = {
        code: 'STORE_FAILED',
        message: expect.stringContaining('read-only, like a replica'),
      };
      // An administrator's writes still pass: what they left there must not count as held by the primary.
      expect(await store.apply([decided('ada@example.com', { version: 2 })], signal())).toEqual([
        { kind: 'applied' },
      ]);
      await expect(store.readBack([email('ada@example.com')], signal())).rejects.toMatchObject(refused);
      await expect(store.check!([decided('nobody@example.com')], signal())).rejects.toMatchObject(refused);
    } finally {
      await here.database.query('set global read_only = 0');
    }
  });

  test('that makes a statement wait ends it by itself', async () => {
    await using here = await given();
    const store = await here.open({ statement_timeout_ms: 1_000 });
    await store.apply([decided('ada@example.com')], signal());
    await withMariaDb(here.database.url, async (connection) => {
      await connection.query('start transaction; select * from suppressions for update');
      await expect(store.apply([decided('ada@example.com', { version: 2 })], signal())).rejects.toMatchObject(
        {
          code: 'STORE_TIMEOUT',
          message: expect.stringMatching(/^MySQL answered error (1205|1969) \(SQLSTATE (HY000|70100)\)\.$/),
        },
      );
      await connection.query('rollback');
    });
    expect(await store.apply([decided('ada@example.com', { version: 2 })], signal())).toEqual([
      { kind: 'applied' },
    ]);
  });

  test('that drops idle connections is asked again on another, and it is said', async () => {
    await using here = await given();
    const store = await here.open();
    await store.apply([decided('ada@example.com')], signal());
    const [idle] = await here.database.query(
      'select id from information_schema.processlist where db = database() and id <> connection_id()',
    );
    await here.database.query(`kill ${String(idle!['id'])}`);
    await eventually(() => expect(here.warned).toHaveLength(1));
    expect(await store.apply([decided('ada@example.com', { version: 2 })], signal())).toEqual([
      { kind: 'applied' },
    ]);
  });

  test('that is not there, or does not let us in, is unreachable, and says no password', async () => {
    await using here = await given();
    const away = await here.open({ url: 'mysql://127.0.0.1:1/crm' });
    await expect(away.apply([decided('ada@example.com')], signal())).rejects.toMatchObject({
      code: 'STORE_UNREACHABLE',
      message: 'The connection to MySQL failed: nothing listens there (ECONNREFUSED).',
      cause: { code: 'ECONNREFUSED' },
    });
    const unknown = Object.assign(new URL(here.database.url), { pathname: 'nowhere' }).href;
    await expect((await here.open({ url: unknown })).readBack([], signal())).rejects.toMatchObject({
      code: 'STORE_UNREACHABLE',
      message: 'MySQL answered error 1049 (SQLSTATE 42000): no such database.',
      cause: { code: '1049' },
    });
    const stranger = Object.assign(new URL(here.database.url), { password: 'hunter2' }).href;
    await expect((await here.open({ url: stranger })).readBack([], signal())).rejects.toMatchObject({
      code: 'STORE_UNREACHABLE',
      message: expect.stringMatching(
        /^MySQL answered error (1045|1698) \(SQLSTATE 28000\): the user or password is wrong\.$/,
      ),
    });
  });

  test('that is asked for TLS and has none is not spoken to', async () => {
    await using here = await given();
    const store = await here.open({ url: `${here.database.url}?ssl-mode=REQUIRED` });
    const applying = store.apply([decided('ada@example.com')], signal());
    // MariaDB 11.4 and MySQL make a certificate of their own.
    if (await hasTls(here.database.url)) expect(await applying).toEqual([{ kind: 'applied' }]);
    else await expect(applying).rejects.toMatchObject({ code: 'STORE_UNREACHABLE' });
  });
});

test('a table that was emptied, dropped or made again is another store, and one that is opened again is not', async () => {
  await using here = await given();
  const [store, other] = [await here.open(), await here.open()];
  const incarnation = (of = store): Promise<string | null | undefined> => of.incarnation!(signal());
  expect(await incarnation()).toBeNull();
  await store.apply([decided('ada@example.com')], signal());
  const first = await incarnation();
  expect(first!.length).toBeLessThan(200);
  await other.apply([decided('grace@example.com')], signal());
  expect([await incarnation(), await incarnation(other), await incarnation(await here.open())]).toEqual([
    first,
    first,
    first,
  ]);

  const before = new Set([first]);
  for (const accident of [
    'truncate table suppressions',
    'delete from suppressions',
    'drop table suppressions',
  ]) {
    await here.database.query(accident);
    expect(await incarnation()).toBeNull();
    await store.apply([decided('ada@example.com')], signal());
    const next = await incarnation();
    expect(before).not.toContain(next);
    before.add(next);
  }
});

// A store remembered that its table existed until it was asked what it is, which a worker does not ask while it fails.
describe('what is dropped under an open store', () => {
  const ada = 'ada@example.com';
  const failed = { code: 'STORE_FAILED', cause: { code: '1146' } };

  test.each([
    ['its own table', 'suppressions', {}],
    ["the versions beside the user's tables", 'abide_versions', { statements: STATEMENTS }],
  ])('%s: one call fails, the next write makes it, reading makes nothing', async (_what, table, options) => {
    await using here = await given(CONTACTS);
    const store = await here.open(options);
    const apply = (version: number) => store.apply([decided(ada, { version })], signal());
    const readBack = () => store.readBack([email(ada)], signal());
    // Two connections to write and two to read, each with its plans.
    await Promise.all([apply(1), apply(1)]);
    await Promise.all([readBack(), readBack()]);

    await here.database.query(`drop table ${table}`);
    await expect(readBack()).rejects.toMatchObject(failed);
    expect(await readBack()).toEqual([undefined]);
    expect(await here.database.query(`show tables like '${table}'`)).toEqual([]);
    expect(await apply(2)).toEqual([{ kind: 'applied' }]);
    expect(await readBack()).toEqual([{ version: 2, suppressed: ['email'] }]);

    await here.database.query(`drop table ${table}`);
    await expect(apply(3)).rejects.toMatchObject(failed);
    expect(await Promise.all([apply(3), apply(4)])).toContainEqual([{ kind: 'applied' }]);
    expect(await Promise.all([readBack(), readBack()])).toEqual([
      [{ version: 4, suppressed: ['email'] }],
      [{ version: 4, suppressed: ['email'] }],
    ]);
    // It is marked as well, which tells it from the one before.
    expect(await here.database.query(`select * from ${table} where kind = 'abide'`)).toHaveLength(1);
  });

  test('the whole database: one that is made anew gets its table', async () => {
    await using here = await given();
    const store = await here.open();
    await store.apply([decided(ada)], signal());
    await store.readBack([email(ada)], signal());
    const { name } = here.database;
    await here.database.query(`drop database ${name}; create database ${name} character set latin1`);

    await expect(store.apply([decided(ada)], signal())).rejects.toMatchObject(failed);
    expect(await store.apply([decided(ada)], signal())).toEqual([{ kind: 'applied' }]);
    expect(await store.readBack([email(ada)], signal())).toEqual([{ version: 1, suppressed: ['email'] }]);
  });

  test('before a second call has found it: the table is marked again as well', async () => {
    await using here = await given();
    const store = await here.open();
    await store.apply([decided(ada)], signal());
    await here.database.query('drop table suppressions');
    expect(await store.apply([decided(ada)], signal())).toEqual([{ kind: 'applied' }]);
    expect(await store.incarnation!(signal())).not.toBeNull();
  });

  test("a table of the user's own is theirs to make: every call fails until they do", async () => {
    await using here = await given(CONTACTS);
    const store = await here.open({ statements: STATEMENTS });
    const apply = () => store.apply([decided(ada)], signal());
    const readBack = () => store.readBack([email(ada)], signal());
    await apply();

    await here.database.query('drop table contacts');
    for (const call of [apply, apply, readBack, readBack]) await expect(call()).rejects.toMatchObject(failed);
    await here.database.query(CONTACTS);
    expect(await apply()).toEqual([{ kind: 'applied' }]);
    expect(await readBack()).toEqual([{ version: 1, suppressed: ['email'] }]);
  });
});

test('four writers with batches of the same new people stand in nobody’s way', async () => {
  await using here = await given();
  const stores = await Promise.all(Array.from({ length: 4 }, () => here.open()));
  const keys = Array.from({ length: 300 }, (_, n) => `${(n * 7919) % 300}@example.com`);
  await writeAtOnce(stores, keys);
  const held = await stores[0]!.readBack(keys.map(email), signal());
  expect(new Set(held.map((one) => one?.version))).toEqual(new Set([6]));
});
