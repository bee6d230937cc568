// A whole Abide with three real stores, each behind a line of its own that can be bad, and eyes that look into the stores past
// Abide: PostgreSQL, Redis and a program that speaks the HTTP contract.
import { randomBytes } from 'node:crypto';
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { createClient } from 'redis';
import { Agent, request } from 'undici';
import { createAbide } from '../../client/client.ts';
import type { Abide } from '../../client/client.ts';
import { sign } from '../../connectors/http.ts';
import type { LagReport, StoreLag } from '../../ledger/contract/propagation-lag.ts';
import { spawnAbide, startAbide } from '../harness/abide.ts';
import type { AbideProcess } from '../harness/abide.ts';
import { emptyDatabase } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { freePort } from '../harness/free-port.ts';
import { startTcpProxy } from '../harness/tcp-proxy.ts';
import type { Fault } from '../harness/tcp-proxy.ts';

export const STORES = ['crm', 'sessions', 'mail'] as const;
export type StoreName = (typeof STORES)[number];

export type Contents = ReadonlyMap<
  string,
  { readonly version: number | undefined; readonly suppressed: readonly string[] }
>;

/** How a store looks from outside of Abide. */
export type StoreEye = {
  /** The stanza of abide.yaml, through the line that can be bad. */
  readonly stanza: string;
  /** What the store itself holds suppressed for an email address; undefined: nobody is there. */
  held(email: string): Promise<readonly string[] | undefined>;
  /** How many subjects it holds. */
  count(): Promise<number>;
  /** Everything that it holds for email addresses, by address. */
  contents(): Promise<Contents>;
  /** Keeps a copy of everything that it holds now; the function that it gives puts that back in place. */
  backUp(): Promise<() => Promise<void>>;
  setFault(fault: Fault): void;
  /** Changes it past Abide, as an import, a restored backup or a careless hand would. */
  tamper(email: string, how: 'forget' | 'resurrect' | 'older' | 'ahead'): Promise<void>;
  /** Removes everything that it holds, at once. */
  wipe(how: 'truncate' | 'delete'): Promise<void>;
  /** Lets the store be read but take nothing. */
  refuseWrites(refuses: boolean): Promise<void>;
  /** Suppresses as the store's own page would, past Abide. */
  suppressByItself(email: string, scope: string): Promise<void>;
};

export type Answer = {
  readonly status: number;
  readonly headers: Record<string, unknown>;
  readonly text: string;
};
export type OptOutAnswer = {
  readonly id: string;
  readonly outcome: string;
  readonly propagation: { readonly state: string; readonly confirmed: number; readonly required: number };
};

export type Deployment = AsyncDisposable & {
  readonly stores: Readonly<Record<StoreName, StoreEye>>;
  /** Tries for a minute, whatever is down meanwhile. */
  readonly client: Abide;
  ask(method: 'GET' | 'POST', path: string, body?: object, headers?: object): Promise<Answer>;
  optOut(email: string, fields?: object, headers?: object): Promise<OptOutAnswer>;
  /** Measured after it was asked for; Abide itself may answer with a measurement that is a quarter of a second old. */
  lag(): Promise<LagReport>;
  lagOf(store: StoreName): Promise<StoreLag>;
};

/** A deployment that the test started itself, and may kill and start again. */
export type System = Deployment & {
  readonly abide: AbideProcess;
  /** Where the workers are processes of their own: one per store. */
  readonly workers: ReadonlyMap<StoreName, WorkerProcess>;
  /** abide.yaml with these stores. */
  config(...stanzas: string[]): string;
};

export type WorkerProcess = { kill(): Promise<void>; start(): Promise<void>; output(): string };

async function crmStore(stack: AsyncDisposableStack): Promise<StoreEye> {
  const database = stack.use(await emptyDatabase());
  const { hostname, port } = new URL(database.urls.owner);
  const proxy = stack.use(await startTcpProxy({ host: hostname, port: Number(port) }));
  const pool = new pg.Pool({ connectionString: database.urls.owner, max: 2 });
  pool.on('error', () => undefined);
  stack.defer(() => pool.end());
  const url = Object.assign(new URL(database.urls.owner), { port: String(proxy.port) }).href;
  const isThere = async (): Promise<boolean> =>
    (await pool.query<{ there: boolean }>("select to_regclass('suppressions') is not null as there")).rows[0]!
      .there;
  return {
    stanza: `crm: { connector: postgres, url: '${url}', scopes: [email, sms, push], late_after_seconds: 1 }`,
    held: async (email) => {
      if (!(await isThere())) return undefined;
      const { rows } = await pool.query<Record<string, boolean | null>>(
        `select email, sms, push from suppressions where kind = 'email' and key = $1`,
        [email],
      );
      const row = rows[0];
      return row && Object.keys(row).filter((scope) => row[scope] === true);
    },
    count: async () =>
      (await isThere())
        ? (await pool.query<{ n: number }>('select count(*)::int as n from suppressions')).rows[0]!.n
        : 0,
    contents: async () => {
      if (!(await isThere())) return new Map();
      const { rows } = await pool.query<
        { key: string; version: string | null } & Record<string, boolean | string | null>
      >(`select key, version, email, sms, push from suppressions where kind = 'email'`);
      return new Map(
        rows.map(({ key, version, ...scopes }) => [
          key,
          {
            version: version === null ? undefined : Number(version),
            suppressed: Object.keys(scopes).filter((scope) => scopes[scope] === true),
          },
        ]),
      );
    },
    backUp: async () => {
      await pool.query('drop table if exists kept; create table kept as table suppressions');
      return async () => {
        await pool.query('begin; truncate suppressions; insert into suppressions table kept; commit');
      };
    },
    setFault: (fault) => proxy.setFault(fault),
    tamper: async (email, how) => {
      const change = {
        forget: 'delete from suppressions',
        resurrect: 'update suppressions set email = null, sms = false, push = null',
        older: 'update suppressions set email = null, version = version - 1',
        ahead: 'update suppressions set version = version + 7',
      }[how];
      const { rowCount } = await pool.query(`${change} where kind = 'email' and key = $1`, [email]);
      if (rowCount !== 1) throw new Error('nobody there to tamper with');
    },
    wipe: async (how) => {
      await pool.query(how === 'truncate' ? 'truncate suppressions' : 'delete from suppressions');
    },
    refuseWrites: async (refuses) => {
      await pool.query(
        refuses
          ? `create function refuse() returns trigger language plpgsql as $$ begin raise exception 'no' using errcode = '53100'; end $$;
             create trigger refuse before insert or update on suppressions for each row execute function refuse()`
          : 'drop function refuse() cascade',
      );
    },
    suppressByItself: async (email, scope) => {
      await pool.query(
        `insert into suppressions (kind, key, ${pg.escapeIdentifier(scope)}) values ('email', $1, true)
         on conflict (kind, key) do update set ${pg.escapeIdentifier(scope)} = true`,
        [email],
      );
    },
  };
}

async function sessionsStore(stack: AsyncDisposableStack): Promise<StoreEye> {
  const prefix = `abide-test:${randomBytes(6).toString('hex')}:`;
  const client = createClient({ url: 'redis://127.0.0.1:6379' });
  client.on('error', () => undefined);
  await client.connect();
  const all = async (): Promise<string[]> => {
    const names: string[] = [];
    for await (const page of client.scanIterator({ MATCH: `${prefix}*`, COUNT: 5_000 })) names.push(...page);
    return [...new Set(names)];
  };
  const wipe = async (): Promise<void> => {
    const names = await all();
    if (names.length > 0) await client.unlink(names);
  };
  stack.defer(async () => {
    await wipe();
    await client.close();
  });
  const proxy = stack.use(await startTcpProxy({ host: '127.0.0.1', port: 6379 }));
  return {
    stanza: `sessions: { connector: redis, url: 'redis://127.0.0.1:${proxy.port}', prefix: '${prefix}', scopes: [email, sms, push], late_after_seconds: 1 }`,
    held: async (email) => {
      const fields = await client.hGetAll(`${prefix}email:${email}`);
      const names = Object.keys(fields);
      return names.length === 0 ? undefined : names.filter((name) => fields[name] === 'suppressed');
    },
    count: async () => (await all()).length,
    contents: async () => {
      const start = `${prefix}email:`;
      const names = (await all()).filter((name) => name.startsWith(start));
      const found = await Promise.all(names.map((name) => client.hGetAll(name)));
      return new Map(
        names.map((name, n) => [
          name.slice(start.length),
          {
            version: found[n]!['version'] === undefined ? undefined : Number(found[n]!['version']),
            suppressed: Object.keys(found[n]!).filter((field) => found[n]![field] === 'suppressed'),
          },
        ]),
      );
    },
    backUp: () => Promise.reject(new Error('not here')),
    setFault: (fault) => proxy.setFault(fault),
    tamper: async (email, how) => {
      const name = `${prefix}email:${email}`;
      if (how === 'forget') await client.del(name);
      else if (how === 'resurrect')
        await client.hSet(name, { email: 'granted', sms: 'granted', push: 'granted' });
      else await client.hIncrBy(name, 'version', how === 'ahead' ? 7 : -1);
    },
    wipe,
    refuseWrites: () => Promise.reject(new Error('not here')),
    suppressByItself: async (email, scope) => {
      await client.hSet(`${prefix}email:${email}`, scope, 'suppressed');
    },
  };
}

async function mailStore(stack: AsyncDisposableStack): Promise<StoreEye> {
  const folder = await mkdtemp(join(tmpdir(), 'abide-mail-'));
  stack.defer(() => rm(folder, { recursive: true, force: true }));
  const file = join(folder, 'suppressions.json');
  const port = await freePort();
  const program = fileURLToPath(new URL('../../docs/examples/http-store.mjs', import.meta.url));
  const secret = 'whsec_c2VjcmV0IG9mIHRoZSB0ZXN0cw==';
  const child = spawn(process.execPath, [program], {
    env: { PATH: process.env['PATH'], SECRET: secret, PORT: String(port), FILE: file },
    stdio: 'ignore',
  });
  stack.defer(async () => {
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill();
    await ended;
  });
  const proxy = stack.use(await startTcpProxy({ host: '127.0.0.1', port }));
  type Row = { version: number | null; scopes: Record<string, boolean> };
  const rows = async (): Promise<Record<string, Row>> =>
    JSON.parse(await readFile(file, 'utf8').catch(() => '{}')) as Record<string, Row>;
  await eventually(async () => (await request(`http://127.0.0.1:${port}/`)).body.dump());
  return {
    stanza: `mail: { connector: http, url: 'http://127.0.0.1:${proxy.port}/suppressions', secret: '${secret}', allow_private: true, scopes: [email, sms, push], late_after_seconds: 1 }`,
    held: async (email) => {
      const row = (await rows())[`email:${email}`];
      return row && Object.keys(row.scopes).filter((scope) => row.scopes[scope] === true);
    },
    count: async () => Object.keys(await rows()).length,
    contents: async () =>
      new Map(
        Object.entries(await rows())
          .filter(([name]) => name.startsWith('email:'))
          .map(([name, { version, scopes }]) => [
            name.slice('email:'.length),
            {
              version: version ?? undefined,
              suppressed: Object.keys(scopes).filter((scope) => scopes[scope] === true),
            },
          ]),
      ),
    backUp: () => Promise.reject(new Error('not here')),
    setFault: (fault) => proxy.setFault(fault),
    tamper: () => Promise.reject(new Error('the example store lets nobody past it')),
    wipe: () => Promise.reject(new Error('not here')),
    refuseWrites: () => Promise.reject(new Error('not here')),
    // It has no page of its own: told again in the version that it holds, it suppresses just what it is told.
    suppressByItself: async (email, scope) => {
      const version = (await rows())[`email:${email}`]?.version ?? 0;
      const suppressed = { [scope]: new Date().toISOString() };
      const body = JSON.stringify({
        items: [{ version, kind: 'email', key: email, suppressed, granted: {} }],
      });
      const answer = await request(`http://127.0.0.1:${port}/`, {
        method: 'POST',
        headers: sign(secret, 'msg_own', Math.floor(Date.now() / 1000), body),
        body,
      });
      await answer.body.dump();
      if (answer.statusCode !== 200) throw new Error(`the store answered ${answer.statusCode}`);
    },
  };
}

/** The three stores; they end with `stack`. */
export async function openStores(stack: AsyncDisposableStack): Promise<Record<StoreName, StoreEye>> {
  const [crm, sessions, mail] = await Promise.all([crmStore(stack), sessionsStore(stack), mailStore(stack)]);
  return { crm, sessions, mail };
}

/** How to ask an Abide, whoever started it; the line ends with `stack`. */
export function speakWith(
  { url, key }: { readonly url: string; readonly key: string },
  stack: AsyncDisposableStack,
): Pick<Deployment, 'client' | 'ask' | 'optOut' | 'lag' | 'lagOf'> {
  const agent = new Agent({ connections: 64 });
  stack.defer(() => agent.close());
  const ask: Deployment['ask'] = async (method, path, body, headers = {}) => {
    const answer = await request(url + path, {
      method,
      dispatcher: agent,
      headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json', ...headers },
      body: body === undefined ? null : JSON.stringify(body),
    });
    return { status: answer.statusCode, headers: answer.headers, text: await answer.body.text() };
  };
  const lag: Deployment['lag'] = async () => {
    for (const askedAt = Date.now(); ; await delay(25)) {
      const { status, text: body } = await ask('GET', '/v1/propagation-lag');
      if (status !== 200) throw new Error(`the lag answered ${status}`);
      const report = JSON.parse(body) as LagReport;
      if (Date.parse(report.as_of) > askedAt) return report;
    }
  };
  return {
    client: createAbide({ url, key, timeoutMs: 60_000, triesMax: 1_000 }),
    ask,
    optOut: async (email, fields = {}, headers = {}) => {
      const answer = await ask('POST', '/v1/opt-outs', { subject: { email }, ...fields }, headers);
      if (answer.status >= 300) throw new Error(`POST answered ${answer.status}: ${answer.text}`);
      return JSON.parse(answer.text) as OptOutAnswer;
    },
    lag,
    lagOf: async (name) => {
      const found = (await lag()).stores.find(({ store }) => store === name);
      if (found === undefined) throw new Error(`the lag does not know ${name}`);
      return found;
    },
  };
}

/** `workersApart`: each worker is a process that reaches the API over HTTP alone. `first`: the stores that it begins with. */
export async function startSystem({
  workersApart = false,
  first = STORES,
  canarySeconds,
  recordOwn = [],
  instead = {},
  env = {},
  dataFolder,
}: {
  workersApart?: boolean;
  first?: readonly StoreName[];
  /** Undefined: no canaries, so that the stores hold what the test put there and nothing else. */
  canarySeconds?: number;
  /** Stores whose own suppressions are recorded. */
  recordOwn?: readonly StoreName[];
  /** Stores of the test's own under these names. */
  instead?: Partial<Record<StoreName, StoreEye>>;
  /** Environment of Abide's process. */
  env?: Readonly<Record<string, string>>;
  /** Undefined: a new one. */
  dataFolder?: string | undefined;
} = {}): Promise<System> {
  await using stack = new AsyncDisposableStack();
  const stores = { ...(await openStores(stack)), ...instead };
  const canary = canarySeconds === undefined ? '' : `canary: { every_seconds: ${canarySeconds} }\n`;
  const config = (...stanzas: string[]): string =>
    `${canary}stores:\n${stanzas.map((one) => `  ${one}\n`).join('')}`;
  const text = config(
    ...first.map((name) =>
      recordOwn.includes(name)
        ? stores[name].stanza.replace('scopes:', 'record_own: true, scopes:')
        : stores[name].stanza,
    ),
  );
  const abide = stack.use(
    await startAbide({ config: text, dataFolder, args: workersApart ? ['--no-workers'] : [], env }),
  );
  const spoken = speakWith(abide, stack);

  const workers = new Map<StoreName, WorkerProcess>();
  if (workersApart) {
    const { url, dataFolder, configFile: config } = abide;
    await Promise.all(
      STORES.map(async (name) => {
        const worker = await startWorkerProcess({ url, dataFolder, config }, name);
        workers.set(name, worker);
        stack.defer(() => worker.kill());
      }),
    );
  }
  const owned = stack.move();
  return { ...spoken, abide, stores, workers, config, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

/** A worker that reaches, over HTTP, the Abide at `url` with the given folder and configuration. */
export async function startWorkerProcess(
  { url, dataFolder, config }: { readonly url: string; readonly dataFolder: string; readonly config: string },
  name: StoreName,
): Promise<WorkerProcess> {
  const made = spawnAbide(['keys', 'create', '--client', `${name}-worker`, '--store', name], {
    ABIDE_DATA: dataFolder,
    ABIDE_CONFIG: config,
    ABIDE_LOG: 'silent',
  });
  if ((await made.ended) !== 0) throw new Error(made.output());
  const args = ['worker', '--store', name, '--config', config];
  const env = { ABIDE_URL: url, ABIDE_KEY: made.output().trim() };
  let running = spawnAbide(args, env);
  const started = (): Promise<void> =>
    eventually(() => {
      if (!running.output().includes('carrying decisions')) throw new Error(running.output());
    });
  await started();
  return {
    kill: async () => {
      running.child.kill('SIGKILL');
      await running.ended;
    },
    start: async () => {
      running = spawnAbide(args, env);
      await started();
    },
    output: () => running.output(),
  };
}
