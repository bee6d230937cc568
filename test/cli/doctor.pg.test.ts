// What doctor finds, in words, with what to do about it.
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { makeKeyRing } from '../../ledger/key-ring.ts';
import { startEmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import { runAbide, spawnAbide, startAbide } from '../harness/abide.ts';
import { emptyDatabase, withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { createSend } from '../harness/http.ts';
import { startTcpProxy } from '../harness/tcp-proxy.ts';

type Finding = { what: string; state: 'fine' | 'attention' | 'broken'; says: string; fix?: string };

/** The exit code, and what is not fine, by what it is about. */
async function examine(
  env: Readonly<Record<string, string>>,
): Promise<{ code: number | null; found: Record<string, Omit<Finding, 'what'>> }> {
  const { code, stdout } = await runAbide(['doctor', '--json'], env);
  const findings = JSON.parse(stdout) as Finding[];
  return {
    code,
    found: Object.fromEntries(
      findings.filter(({ state }) => state !== 'fine').map(({ what, ...rest }) => [what, rest]),
    ),
  };
}

test('an embedded Abide: all is fine, then its ring, its store and its database are missing', async () => {
  await using abide = await startAbide();
  const env = { ABIDE_DATA: abide.dataFolder };
  await eventually(async () => expect(await examine(env)).toEqual({ code: 0, found: {} }));
  expect((await runAbide(['doctor'], env)).output).toMatch(
    /^ok {4}roles: the API's role can only add decisions\n/m,
  );

  const ring = join(abide.dataFolder, 'keys.json');
  await rename(ring, `${ring}.away`);
  const admin = await abide.connect('postgres');
  await admin.query('alter database crm with allow_connections false');
  await admin.query("select pg_terminate_backend(pid) from pg_stat_activity where datname = 'crm'");
  await admin.end();
  const { code, found } = await examine(env);
  expect(code).toBe(3);
  expect(found).toMatchObject({
    keys: {
      state: 'broken',
      says: expect.stringContaining(`there is no ${ring}: Abide will not start again`) as unknown,
      fix: 'Restore it from its backup, or set ABIDE_KEYS.',
    },
    'store crm': {
      state: 'broken',
      says: expect.stringMatching(/PostgreSQL/) as unknown,
      fix: expect.stringMatching(/^Check that it runs and lets Abide in\. Its opt-outs wait/) as unknown,
    },
  });
  const printed = await runAbide(['doctor'], env);
  expect(printed.code).toBe(3);
  expect(printed.output).toMatch(/^FAIL {2}keys: .*\n {6}Restore it from its backup, or set ABIDE_KEYS\.$/m);

  await abide.stop();
  expect(await examine(env)).toMatchObject({
    code: 3,
    found: {
      database: {
        state: 'broken',
        says: expect.stringContaining('ECONNREFUSED') as unknown,
        fix: expect.stringContaining('npm start') as unknown,
      },
    },
  });
});

/** A start without workers, which makes ring and tables and then ends; gives what it printed. */
async function runToReadyAndStop(env: Readonly<Record<string, string>>): Promise<string> {
  const { child, ended, output } = spawnAbide(['serve', '--no-workers'], env);
  await eventually(() => expect(output()).toMatch(/ready after|^abide: (?!starting|listening)/m));
  child.kill('SIGTERM');
  expect(await ended).toBe(0);
  return output();
}

test('a database elsewhere: wal_level too low, one role for all, no worker, another ring', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'abide-doctor-'));
  const silent = (): void => undefined;
  const postgres = await startEmbeddedPostgres({
    dataFolder: join(folder, 'elsewhere'),
    log: { info: silent, warn: silent, error: silent },
    settings: { fsync: 'off', wal_level: 'replica' },
  });
  const dataFolder = join(folder, 'data');
  const env = { ABIDE_DATA: dataFolder, ABIDE_CONFIG: join(folder, 'abide.yaml') };
  const crm = await postgres.createDatabase('crm');
  await writeFile(
    env.ABIDE_CONFIG,
    `database: ${postgres.urls.owner}\nlisten: 127.0.0.1:0\nstores:\n  crm: { connector: postgres, url: '${crm}', scopes: [email] }\n`,
  );
  try {
    const served = await runToReadyAndStop(env);
    expect(served).toContain('one database role does the work of several');
    expect(served).toContain('listening at');
    // Found by reading: a table of that name in a schema that is nothing to us made the whole database broken.
    await withClient(postgres.urls.owner, (client) =>
      client.query('create schema warehouse; create table warehouse.decisions ()'),
    );

    await withClient(postgres.superuserUrl, async (client) => {
      await client.query("alter system set synchronous_standby_names = '*'");
      await client.query('select pg_reload_conf()');
    });
    await eventually(async () => {
      const { rows } = await withClient(postgres.superuserUrl, (client) =>
        client.query('show synchronous_standby_names'),
      );
      expect(rows).toEqual([{ synchronous_standby_names: '*' }]);
    });

    const { code, found } = await examine(env);

    // Nothing of this stops an opt-out from being recorded.
    expect(code).toBe(0);
    expect(found).toEqual({
      roles: {
        state: 'attention',
        says: "the API's role may change or delete decisions",
        fix: 'Name owner_database and replication_database in abide.yaml, with roles of their own.',
      },
      stream: {
        state: 'attention',
        says: 'wal_level is replica: decisions arrive by polling the ledger every 250 ms',
        fix: 'Set wal_level = logical in postgresql.conf and restart PostgreSQL.',
      },
      // The stream confirmed for a standby what only the primary had, which then was lost.
      standby: {
        state: 'attention',
        says: "synchronous_standby_names is *: Abide's own stream counts as a standby, and keeps nothing",
        fix: 'Name the standbys in it: an opt-out that was answered may otherwise be on this server alone.',
      },
      replication: {
        state: 'attention',
        says: 'the role may not replicate',
        fix: 'Run `alter role … replication`; until then the ledger is polled.',
      },
      'lag of crm': {
        state: 'attention',
        says: expect.stringMatching(/^unknown, oldest outstanding /) as unknown,
        fix: 'No worker reports: is one running?',
      },
    });

    const ring = join(dataFolder, 'keys.json');
    await rename(ring, `${ring}.away`);
    expect((await examine(env)).found['keys']).toEqual({
      state: 'attention',
      says: 'there is no key ring here to check',
      fix: 'Set ABIDE_KEYS, or ABIDE_DATA to its folder.',
    });
    await writeFile(ring, makeKeyRing(), { mode: 0o644 });
    const other = await examine(env);
    expect(other.code).toBe(3);
    expect(other.found).toMatchObject({
      keys: {
        state: 'broken',
        says: 'the ring lacks pepper key 1, storage key 2, signing key 3',
        fix: expect.stringContaining('Abide does not start without') as unknown,
      },
      'keys.json': { says: 'others on this machine may read it', fix: `chmod 600 ${ring}` },
    });

    await writeFile(env.ABIDE_CONFIG, 'stores:\n  crm: { connector: nobody }\n');
    expect(await examine(env)).toMatchObject({
      code: 3,
      found: { configuration: { says: expect.stringContaining('line 2, column 21') as unknown } },
    });
  } finally {
    await postgres.stop();
    await rm(folder, { recursive: true });
  }
});

test('two stores that are one place under two names are told from two places, by what their workers saw', async () => {
  await using database = await emptyDatabase();
  const { owner } = database.urls;
  const { hostname: host, port } = new URL(owner);
  await using proxy = await startTcpProxy({ host, port: Number(port) });
  const alias = Object.assign(new URL(owner), { port: `${proxy.port}` }).href;
  const stanza = (url: string, more = ''): string =>
    `{ connector: postgres, url: '${url}', scopes: [email]${more} }`;
  await using abide = await startAbide({
    config: `stores:\n  crm: ${stanza(owner)}\n  alias: ${stanza(alias)}\n  mail: ${stanza(alias, ', table: mail')}\n`,
  });
  const { status } = await createSend(abide.url)('POST', '/v1/opt-outs', {
    key: abide.key,
    body: { subject: { email: 'ada@example.com' } },
  });
  expect(status).toBe(201);
  const env = { ABIDE_DATA: abide.dataFolder, ABIDE_CONFIG: join(abide.dataFolder, 'abide.yaml') };

  await eventually(async () =>
    expect(await examine(env)).toEqual({
      code: 0,
      found: {
        'place of alias': {
          state: 'attention',
          says: expect.stringMatching(/^it says of itself what crm says: it is the same place/) as unknown,
          fix: expect.stringContaining('name all scopes in one stanza') as unknown,
        },
      },
    }),
  );
});

test('what listens beyond this machine without its secrets is told what to give, before it starts', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'abide-doctor-'));
  try {
    const ABIDE_CONFIG = join(folder, 'abide.yaml');
    await writeFile(ABIDE_CONFIG, 'listen: 0.0.0.0:8080\nstores: {}\n');
    const { found } = await examine({ ABIDE_CONFIG, ABIDE_DATA: join(folder, 'data') });
    expect(found).toMatchObject({
      secrets: {
        state: 'attention',
        says: expect.stringMatching(/ABIDE_KEYS .* and ABIDE_ADMIN_KEY/) as unknown,
      },
    });
  } finally {
    await rm(folder, { recursive: true });
  }
});

// Its tokens were answered 503, and both commands found everything fine.
test('an issuer of tokens that does not give out its keys is named, by config check as well', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'abide-doctor-'));
  let asked = 0;
  const issuer = createServer((_, response) => {
    asked += 1;
    response.writeHead(404).end();
  });
  await new Promise<void>((resolve) => issuer.listen(0, '127.0.0.1', resolve));
  const env = { ABIDE_CONFIG: join(folder, 'abide.yaml'), ABIDE_DATA: join(folder, 'data') };
  const jwks = `http://127.0.0.1:${(issuer.address() as AddressInfo).port}/jwks`;
  await writeFile(
    env.ABIDE_CONFIG,
    `database: postgres://127.0.0.1:1/none\nstores: {}\noauth:\n  login: { issuer: 'https://login.test', audience: abide, jwks: '${jwks}' }\n`,
  );
  const says = 'its keys cannot be had: it answers 404';
  try {
    const { code, found } = await examine(env);
    expect(code).toBe(3);
    expect(found['issuer login']).toEqual({
      state: 'broken',
      says,
      fix: expect.stringContaining('Check oauth.login in abide.yaml') as unknown,
    });
    expect(await runAbide(['config', 'check'], env)).toMatchObject({
      code: 3,
      output: `configuration: fine, 0 store(s)\nissuer login: ${says}\n`,
    });
    expect(asked).toBe(2);
    expect((await runAbide(['config', 'check', '--offline'], env)).code).toBe(0);
    expect(asked).toBe(2);
  } finally {
    issuer.close();
    issuer.closeAllConnections();
    await rm(folder, { recursive: true });
  }
});
