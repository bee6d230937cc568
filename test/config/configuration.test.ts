import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { z } from 'zod';
import { DEFAULT_LIMITS, loadConfiguration } from '../../config/configuration.ts';
import type { Configuration } from '../../config/configuration.ts';
import { dataFolderOf } from '../../config/data-folder.ts';
import { defineConnector } from '../../connectors/contract/connector.ts';
import type { Connector } from '../../connectors/contract/connector.ts';
import { AbideError } from '../../suppression/errors.ts';

const sql = defineConnector({
  options: z.object({ url: z.url(), table: z.string().default('suppressions') }),
  accepts: ['email', 'phone'],
  topics: true,
  versions: 'stored',
  remembersUnknown: true,
  evidence: 'read_back',
  limits: { batch: 100, concurrent: 1 },
  target: ({ url, table }) => [new URL(url).host, table],
  open: () => Promise.reject(new Error('not in this test')),
});
const lists: Connector = { ...sql, scopeValue: z.object({ list: z.int() }) };

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'abide-config-'));
});
afterAll(() => rm(folder, { recursive: true }));

async function load(
  text: string,
  env: Record<string, string> = {},
  only?: string,
): Promise<Configuration & { asked: [string, string][] }> {
  const path = join(folder, 'abide.yaml');
  await writeFile(path, text);
  const asked: [string, string][] = [];
  const configuration = await loadConfiguration({
    path,
    env,
    only,
    loadConnector: (name, from) => {
      asked.push([name, from]);
      if (name === 'lists') return Promise.resolve(lists);
      if (name === 'mute') return Promise.resolve({ ...sql, evidence: 'applied' } as Connector);
      if (name === 'sql' || name.startsWith('./')) return Promise.resolve(sql as Connector);
      return Promise.reject(new AbideError('CONFIG_INVALID', `There is no connector ${name}.`));
    },
    embeddedStoreUrl: () => Promise.reject(new Error('not asked with a file')),
  });
  return { ...configuration, asked };
}

/** What is said of a wrong file, one line per fault. */
const faultsOf = async (text: string, env: Record<string, string> = {}): Promise<string[]> => {
  const error: unknown = await load(text, env).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(AbideError);
  expect((error as AbideError).code).toBe('CONFIG_INVALID');
  return (error as AbideError).message.split('\n  ').slice(1);
};

test('a stanza becomes a store, with the defaults of the design', async () => {
  const { stores, source, listen, opsListen, database } = await load(
    'stores:\n  crm: { connector: sql, url: "${CRM_URL}", scopes: [email, email/newsletter] }\n',
    { CRM_URL: 'postgres://abide:secret@crm.internal/crm' },
  );

  expect({ source, listen, opsListen, database }).toEqual({
    source: 'pgoutput',
    listen: { host: '127.0.0.1', port: 8080 },
    opsListen: { host: '127.0.0.1', port: 9464 },
    database: undefined,
  });
  expect(stores).toEqual([
    expect.objectContaining({
      name: 'crm',
      connectorName: 'sql',
      options: { url: 'postgres://abide:secret@crm.internal/crm', table: 'suppressions' },
      scopes: new Map([
        ['email', undefined],
        ['email/newsletter', undefined],
      ]),
      accepts: ['email', 'phone'],
      required: true,
      lateAfterSeconds: 10,
      key: 'plain',
      keyForm: 'plain',
      formerly: undefined,
    }),
  ]);
});

test('what a store suppresses by itself is recorded only where the stanza says so, and the store can be read', async () => {
  const { stores } = await load(
    `stores:
  crm: { connector: sql, url: "x:y", scopes: [email], accepts: [email] }
  mail: { connector: sql, url: "x:y", scopes: [email], accepts: [phone], record_own: true }
`,
  );
  expect(stores.map(({ recordOwn }) => recordOwn)).toEqual([false, true]);
  expect(
    await faultsOf('stores:\n  mail: { connector: mute, url: "x:y", scopes: [email], record_own: true }\n'),
  ).toEqual(['line 2, column 69: stores.mail.record_own needs a store that can be read, and mute cannot']);
});

test('an environment variable may stand bare within a flow map', async () => {
  const { stores } = await load(
    'stores:\n  crm: { connector: sql, url: ${CRM_URL}, scopes: [email], key: { hmac: ${SALT} } } # not ${THIS}\n',
    { CRM_URL: 'postgres://crm', SALT: 'sixteen characters' },
  );

  expect(stores[0]).toMatchObject({
    options: { url: 'postgres://crm' },
    key: { hmac: 'sixteen characters' },
  });
});

test('every variable that is missing is named with its line and column', async () => {
  expect(
    await faultsOf(
      'database: ${DATABASE_URL}\nstores:\n  crm: { connector: sql, url: ${CRM_URL}, scopes: [email] }\n',
    ),
  ).toEqual([
    'line 1, column 11: database needs the environment variable DATABASE_URL, which is not set',
    'line 3, column 31: stores.crm.url needs the environment variable CRM_URL, which is not set',
  ]);
});

test('all faults of a file are said at once, in the order of its lines, and a variable that is not set once', async () => {
  expect(
    await faultsOf(
      'listn: 127.0.0.1:8080\nstores:\n  crm: { connector: sql, url: ${CRM_URL}, tabel: x, scopes: [email, fax] }\n' +
        '  mail: { connector: nobody, scopes: [email] }\n  sms: { connector: sql, url: "x:y" }\n  push: {}\n',
      { PORT: 'http' },
    ),
  ).toEqual([
    'line 1, column 1: listn is not known here',
    'line 3, column 31: stores.crm.url needs the environment variable CRM_URL, which is not set',
    'line 3, column 43: stores.crm.tabel is not known here',
    'line 3, column 69: stores.crm.scopes.1 fax is not a scope: email, sms, push, a topic such as email/newsletter, or a purpose',
    'line 4, column 22: stores.mail.connector There is no connector nobody.',
    'line 5, column 8: stores.sms.scopes must be a list of scopes, or a map from scope to value',
    'line 6, column 9: stores.push.connector is missing',
    'the environment variable PORT is not a port',
  ]);
  expect(await faultsOf('')).toEqual(['line 1, column 1: stores is missing']);
});

test('a field that nobody knows is refused by name, at every level', async () => {
  expect(await faultsOf('sauce: kafka\nstores: {}\n')).toEqual(['line 1, column 1: sauce is not known here']);
  expect(
    await faultsOf(
      'stores:\n  crm:\n    connector: sql\n    url: postgres://crm\n    scopes: [email]\n    requird: false\n',
    ),
  ).toEqual(['line 6, column 5: stores.crm.requird is not known here']);
  expect(
    await faultsOf(
      'stores:\n  crm: { connector: lists, url: postgres://crm, scopes: { email: { list: 1, lst: 2 } } }\n',
    ),
  ).toEqual(['line 2, column 77: stores.crm.scopes.email.lst is not known here']);
});

test.each([
  ['stores:\n  crm: { connector: sql, scopes: [email] }', /^line 2, column 8: stores\.crm\.url /],
  ['stores:\n  Crm: { connector: sql }', /^line 2, column 3: stores\.Crm must begin with a letter/],
  [
    'stores:\n  crm: { connector: sqll }',
    /^line 2, column 21: stores\.crm\.connector There is no connector sqll/,
  ],
  [
    'stores:\n  a: { connector: sql, url: "x:y", scopes: [fax] }',
    /^line 2, column 45: .*scopes\.0 fax is not a scope/,
  ],
  ['stores:\n  a: { connector: sql, url: "x:y", scopes: [] }', /scopes names no scope/],
  [
    'stores:\n  a: { connector: sql, url: "x:y", scopes: [sms] }\n  b: { connector: sql, url: "x:y", scopes: [email] }',
    /^line 3, column \d+: stores\.b is the same place as a, /,
  ],
  ['stores:\n  a: { connector: sql, url: "x:y", scopes: [sms, sms] }', /scopes\.1 sms is named twice/],
  [
    'stores:\n  a: { connector: sql, url: "x:y", scopes: { sms: 1 } }',
    /scopes\.sms sql takes scopes as a list/,
  ],
  [
    'stores:\n  a: { connector: sql, url: "x:y", scopes: [sms], accepts: [person_id] }',
    /accepts\.0 sql does not accept/,
  ],
  [
    'stores:\n  a: { connector: sql, url: "x:y", scopes: [sms], key: { hmac: short } }',
    /^line 2, column 64: .*key\.hmac /,
  ],
  [
    'stores:\n  a: { connector: sql, url: "x:y", scopes: [sms], late_after_seconds: 0 }',
    /late_after_seconds /,
  ],
  ['listen: 8080\nstores: {}', /^line 1, column 9: listen /],
  ['listen: localhost\nstores: {}', /^line 1, column 9: listen must be host:port/],
  ['database: mysql://x\nstores: {}', /^line 1, column 11: database must be a URL beginning with postgres:/],
  ['owner_database: postgres://x\nstores: {}', /^line 1, column 1: owner_database needs database as well/],
  ['default_region: uk\nstores: {}', /default_region must be a country/],
  ['source: kafka\nsource: kafka\nstores: {}', /^line 2, column 1: Map keys must be unique/],
  ['listen: *:8080\nstores: {}', /^line 1, column 9: begins with \*, which names an anchor/],
  ['stores:\n  - a\n b', /^line \d+, column \d+: /],
  ['', /^line 1, column 1: stores /],
])('%j is refused where it is wrong', async (text, said) => {
  expect((await faultsOf(text))[0]).toMatch(said);
});

test('an error never repeats a value, which may be a secret', async () => {
  const said = await faultsOf(
    'stores:\n  crm: { connector: sql, url: ${CRM_URL}, scopes: [email], required: ${CRM_URL} }',
    {
      CRM_URL: 'hunter2 is no url',
    },
  );

  expect(said).toHaveLength(2);
  expect(said.join()).not.toContain('hunter2');
  expect((await faultsOf('stores:\n  crm: { connector: sql, url: *hunter2 }')).join()).not.toContain(
    'hunter2',
  );
});

test('another target is another fingerprint, another password is not', async () => {
  const fingerprint = async (url: string): Promise<string> =>
    (
      await load(`stores:\n  crm: { connector: sql, url: "${url}", scopes: [email] }`)
    ).stores[0]!.fingerprint.toString('hex');

  const before = await fingerprint('postgres://abide:one@crm/db');

  expect(await fingerprint('postgres://abide:two@crm/db')).toBe(before);
  expect(await fingerprint('postgres://abide:one@other/db')).not.toBe(before);
});

test('another value of a scope is another store: who is on the one list is not on the other', async () => {
  const store = async (list: number) =>
    (await load(`stores:\n  mail: { connector: lists, url: 'x:y', scopes: { email: { list: ${list} } } }`))
      .stores[0]!;
  const [one, same, other] = [await store(42), await store(42), await store(43)];
  for (const digest of ['fingerprint', 'stanza'] as const) {
    expect(one[digest]).toEqual(same[digest]);
    expect(one[digest]).not.toEqual(other[digest]);
  }
});

test('another secret is another key form, and the form does not hold it', async () => {
  const keyForm = async (secret: string): Promise<string> =>
    (await load(`stores:\n  a: { connector: sql, url: "x:y", scopes: [sms], key: { hmac: ${secret} } }`))
      .stores[0]!.keyForm;

  expect(await keyForm('one-secret-of-many')).not.toBe(await keyForm('another-secret-of-many'));
  expect(await keyForm('one-secret-of-many')).not.toContain('one-secret');
});

test('PORT beats listen, and nonsense in it is refused', async () => {
  expect((await load('listen: "[::1]:9000"\nstores: {}', { PORT: '7000' })).listen).toEqual({
    host: '::1',
    port: 7000,
  });
  expect(await faultsOf('stores: {}', { PORT: 'http' })).toEqual([
    'the environment variable PORT is not a port',
  ]);
});

test("a connector of one's own is looked for from the file's folder", async () => {
  const { asked } = await load('stores:\n  crm: { connector: ./ours.ts, url: "x:y", scopes: [email] }');

  expect(asked).toEqual([['./ours.ts', folder]]);
});

test("a worker's machine need not have the secrets of other stores", async () => {
  const text =
    'database: ${DATABASE_URL}\nstores:\n  crm: { connector: sql, url: "x:y", scopes: [email] }\n  b: { connector: b, url: ${B} }\n';

  expect((await load(text, {}, 'crm')).stores.map(({ name }) => name)).toEqual(['crm']);
});

test('a text that YAML takes for an alias is a fault for the worker of another store as well', async () => {
  const text =
    'stores:\n  crm: { connector: sql, url: "x:y", scopes: [email] }\n  b: { connector: sql, url: *x }\n';

  await expect(load(text, {}, 'crm')).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: expect.stringMatching(/line 3, column 29: begins with \*/),
  });
});

// A store's `email/newsleter` beside `topics: { email: [newsletter] }` was accepted: no opt-out ever went there, and each of them
// counted as complete without it.
test('a store that names a topic or purpose beside the declared ones is a fault that names those', async () => {
  const text =
    'topics: { email: [newsletter, offers] }\npurposes: [analytics]\nstores:\n' +
    '  crm: { connector: sql, url: "x:y", scopes: [email, email/newsleter, profiling] }\n' +
    '  mail: { connector: lists, url: "x:y", scopes: { email/newsletter: { list: 1 }, email/ofers: { list: 2 } } }\n';

  expect(await faultsOf(text)).toEqual([
    'line 4, column 54: stores.crm.scopes.1 email/newsleter is not declared under topics, which are email/newsletter, email/offers',
    'line 4, column 71: stores.crm.scopes.2 profiling is not declared under purposes, which are analytics',
    'line 5, column 95: stores.mail.scopes.email/ofers email/ofers is not declared under topics, which are email/newsletter, email/offers',
  ]);
  // A worker of one store is told the same.
  await expect(load(text, {}, 'crm')).rejects.toThrow('email/newsleter is not declared under topics');
});

test('a store may have lists of its own for a channel of which no topic is declared', async () => {
  const { stores } = await load(
    'topics: { email: [newsletter] }\nstores:\n' +
      '  crm: { connector: sql, url: "x:y", scopes: [email/newsletter, sms/alerts, analytics] }\n',
  );

  expect([...stores[0]!.scopes.keys()]).toEqual(['email/newsletter', 'sms/alerts', 'analytics']);
});

test('a fault in the declarations is said there, and not at every store as well', async () => {
  expect(
    await faultsOf(
      'topics: { email: [News] }\nstores:\n  crm: { connector: sql, url: "x:y", scopes: [email/news] }\n',
    ),
  ).toEqual([expect.stringMatching(/^line 1, column 19: topics\.email\.0 must have at most/)]);
});

test('without a file the embedded default runs: one PostgreSQL store for all three channels', async () => {
  const { stores, path } = await loadConfiguration({
    env: {},
    loadConnector: () => Promise.resolve(sql as Connector),
    embeddedStoreUrl: () => Promise.resolve('postgres://127.0.0.1:5555/crm'),
  });

  expect(path).toBeUndefined();
  expect(stores).toMatchObject([
    { name: 'crm', connectorName: 'postgres', options: { url: 'postgres://127.0.0.1:5555/crm' } },
  ]);
  expect([...stores[0]!.scopes.keys()]).toEqual(['email', 'sms', 'push']);
});

test('a file that was asked for and is not there is an error, not the default', async () => {
  await expect(
    loadConfiguration({
      env: { ABIDE_CONFIG: join(folder, 'missing.yaml') },
      loadConnector: () => Promise.resolve(sql as Connector),
      embeddedStoreUrl: () => Promise.resolve('postgres://x'),
    }),
  ).rejects.toMatchObject({
    code: 'CONFIG_INVALID',
    message: `There is no file ${join(folder, 'missing.yaml')}.`,
  });
});

test('the data folder is .abide unless the environment names another', () => {
  expect(dataFolderOf({})).toBe(join(process.cwd(), '.abide'));
  expect(dataFolderOf({ ABIDE_DATA: '/srv/abide' })).toBe('/srv/abide');
});

test('what a guard watches is read with the store, and must be something that the store holds', async () => {
  const stanza = (guard: string): string =>
    `stores:\n  crm: { connector: sql, url: "postgres://crm", scopes: [email], guard: ${guard} }\n`;
  const { stores } = await load(stanza('[{ table: a.contacts, key: mail, may_send: { email: ok } }]'));
  expect(stores[0]?.guard).toEqual([
    { table: 'a.contacts', key: 'mail', kind: 'email', may_send: { email: 'ok' }, suppressed: {} },
  ]);
  const wrong =
    '[{ table: contacts, key: token, kind: push_token, suppressed: { push: no } }, { table: c, key: k }]';
  expect(await faultsOf(stanza(wrong))).toEqual([
    'line 2, column 151: stores.crm.guard.1 names no column: give may_send or suppressed',
  ]);
  expect(
    await faultsOf(stanza('[{ table: contacts, key: token, kind: push_token, suppressed: { push: no } }]')),
  ).toEqual([
    expect.stringMatching(/: stores\.crm\.guard\.0\.kind the store does not accept push_token$/),
    expect.stringMatching(/: stores\.crm\.guard\.0\.suppressed\.push the store does not hold push$/),
  ]);
});

test('whom to tell of a weakness is a URI of one line, and a policy needs somebody to tell', async () => {
  const withLines = (lines: string): string => `${lines}\nstores: {}\n`;
  const { security } = await load(
    withLines('security_contact: mailto:security@example.com\nsecurity_policy: https://example.com/policy'),
  );
  expect(security).toEqual({
    contact: 'mailto:security@example.com',
    policy: 'https://example.com/policy',
  });
  expect((await load(withLines('source: pgoutput'))).security).toBeUndefined();
  for (const wrong of [
    'security@example.com',
    'http://example.com',
    '"mailto:a@b.c\\nContact: mailto:x@y.z"',
  ])
    expect(await faultsOf(withLines(`security_contact: ${wrong}`))).toEqual([
      expect.stringMatching(/security_contact must be a URI beginning with mailto:, https:\/\/ or tel:$/),
    ]);
  expect(await faultsOf(withLines('security_policy: https://example.com/policy'))).toEqual([
    expect.stringMatching(/security_policy needs security_contact as well$/),
  ]);
});

test('limits are numbers from 1, or false for none, and what the file does not name has its default', async () => {
  const withLimits = (limits: string): string => `limits: ${limits}\nstores: {}\n`;
  expect((await load('stores: {}\n')).limits).toEqual(DEFAULT_LIMITS);
  const { limits } = await load(
    withLimits('{ writes_per_second: 500, reads_per_second: false, checks_per_day: 1000000 }'),
  );
  expect(limits).toEqual({
    ...DEFAULT_LIMITS,
    writesPerSecond: 500,
    readsPerSecond: undefined,
    checksPerDay: 1_000_000,
  });
  for (const wrong of ['0', '-1', '1.5', 'true', '"10"'])
    expect(await faultsOf(withLimits(`{ checks_per_second: ${wrong} }`))).toEqual([
      expect.stringMatching(
        /limits\.checks_per_second must be a whole number from 1, or false for no limit$/,
      ),
    ]);
  expect(await faultsOf(withLimits('{ opt_outs_per_day: 5 }'))).toEqual([
    expect.stringMatching(/limits\.opt_outs_per_day is not known here$/),
  ]);
});
