import { describe, expect, test } from '@jest/globals';
import { Item } from '../../connectors/contract/connector.ts';
import type { Store } from '../../connectors/contract/connector.ts';
import mysql from '../../connectors/mysql.ts';
import { Address } from '../../suppression/subject.ts';
import { describeConnector } from '../conformance/connector.ts';
import type { Place } from '../conformance/connector.ts';
import { eventually } from '../harness/eventually.ts';
import { mariaDbDatabase, mariaDbLine, withMariaDb } from '../harness/mariadb.ts';

const urlOf = ({ options }: Place): string => (options as { url: string }).url;

describeConnector('mysql', {
  connector: mysql,
  async open() {
    const database = await mariaDbDatabase();
    return {
      options: { url: database.url },
      [Symbol.asyncDispose]: () => database[Symbol.asyncDispose](),
    };
  },
  line: {
    ...mariaDbLine(),
    through: (options, port) => ({
      ...options,
      url: Object.assign(new URL((options as { url: string }).url), { host: `127.0.0.1:${port}` }).href,
    }),
  },
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

/** An empty database, and stores on it. */
async function given(sql = '') {
  const stack = new AsyncDisposableStack();
  const database = stack.use(await mariaDbDatabase());
  if (sql !== '') await database.query(sql);
  const warned: object[] = [];
  const silent = (): void => undefined;
  const context = {
    log: { debug: silent, info: silent, error: silent, warn: (fields: object) => void warned.push(fields) },
    name: 'crm',
    scopes: new Map(),
  };
  return {
    database,
    warned,
    open: async (options: object = {}): Promise<Store> =>
      stack.use(await mysql.open(mysql.options.parse({ url: database.url, ...options }), context)),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

describe('options', () => {
  const faultsOf = (options: object): string[] =>
    mysql.options.safeParse(options).error!.issues.map(({ path, message }) => `${path.join('.')} ${message}`);

  test.each([
    ['postgres://localhost/crm', 'must be a mysql:// or mariadb:// URL'],
    ['mysql://localhost', 'must name the database as its path'],
    ['mysql://crm:100%@localhost/crm', 'has a % that begins no escape: write %25'],
    ['mysql://localhost/crm?sslmode=REQUIRED', 'may have the parameters ssl-mode and ssl-ca only'],
    [
      'mysql://localhost/crm?ssl-mode=require',
      'ssl-mode is one of DISABLED, REQUIRED, VERIFY_CA, VERIFY_IDENTITY',
    ],
    ['mysql://localhost/crm?ssl-mode=VERIFY_CA&ssl-ca=/nowhere.pem', 'names an ssl-ca that cannot be read'],
    [
      'mysql://10.0.0.7/crm?ssl-mode=VERIFY_IDENTITY',
      'ssl-mode=VERIFY_IDENTITY needs the name of the host, not its number',
    ],
    [
      'mysql://[::1]/crm?ssl-mode=VERIFY_IDENTITY',
      'ssl-mode=VERIFY_IDENTITY needs the name of the host, not its number',
    ],
    ['mysql://localhost/crm?ssl-ca=package.json', 'ssl-ca needs an ssl-mode that verifies'],
  ])('%s: %s', (url, wanted) => {
    expect(faultsOf({ url })).toEqual([`url ${wanted}`]);
  });

  test('a target is host, port, database and table, never a password', () => {
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

  test('one with a collation that takes two keys for one is not used', async () => {
    await using here = await given();
    await (await here.open()).apply([decided('grace@example.com')], signal());
    await here.database.query(
      'alter table suppressions modify `key` varchar(700) collate utf8mb4_general_ci',
    );
    const store = await here.open();
    const refused = {
      code: 'STORE_FAILED',
      message: expect.stringContaining('collation utf8mb4_general_ci, which takes two keys for one'),
    };
    await expect(store.apply([decided('ada@example.com')], signal())).rejects.toMatchObject(refused);
    await expect(store.readBack([email('grace@example.com')], signal())).rejects.toMatchObject(refused);
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
    await here.database.query(`
      insert into suppressions (kind, \`key\`, email)
      select 'email', concat(char(97 + seq % 26), if(seq % 2, 'É', 'e'), seq, '@example.com'), true from seq_1_to_10500`);
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
      message: 'MySQL answered error 1142 (SQLSTATE 42000).',
    });
    await (await here.open()).apply([decided('grace@example.com')], signal());
    expect(await restricted.apply([decided('ada@example.com')], signal())).toEqual([{ kind: 'applied' }]);
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

describe('a server', () => {
  test('that is set to other modes and times than ours takes the same', async () => {
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
    await using here = await given();
    const store = await here.open();
    await store.apply([decided('ada@example.com')], signal());
    await here.database.query('set global read_only = 1');
    try {
      const refused = {
        code: 'STORE_FAILED',
        message: expect.stringContaining('read-only, as a replica is'),
      };
      // An administrator's writes pass all the same: what they left there must not count as held by the primary.
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
      cause: { code: 'ECONNREFUSED' },
    });
    const unknown = Object.assign(new URL(here.database.url), { pathname: 'nowhere' }).href;
    await expect((await here.open({ url: unknown })).readBack([], signal())).rejects.toMatchObject({
      code: 'STORE_UNREACHABLE',
      message: 'MySQL answered error 1049 (SQLSTATE 42000).',
    });
  });

  test('that is asked for TLS and has none is not spoken to', async () => {
    await using here = await given();
    const store = await here.open({ url: `${here.database.url}?ssl-mode=REQUIRED` });
    await expect(store.apply([decided('ada@example.com')], signal())).rejects.toMatchObject({
      code: 'STORE_UNREACHABLE',
    });
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

test('four writers with batches of the same new people stand in nobody’s way', async () => {
  await using here = await given();
  const stores = await Promise.all(Array.from({ length: 4 }, () => here.open()));
  const keys = Array.from({ length: 300 }, (_, n) => `${(n * 7919) % 300}@example.com`);
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
  const held = await stores[0]!.readBack(keys.map(email), signal());
  expect(new Set(held.map((one) => one?.version))).toEqual(new Set([6]));
});
