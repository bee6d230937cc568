// The whole of Abide over Kafka on one machine, without containers: PostgreSQL, broker, registry, Connect with Debezium, API, and a
// worker per store, each a process of its own that is started again when it ends.
//
//   PostgreSQL ─▶ migrated, keys ─┐
//   broker ─▶ topics ─▶ workers ──┼─▶ Connect ─▶ connector registered, task runs ─▶ API, whose port opens last
//   registry ─────────────────────┘
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect as connectTo } from 'node:net';
import { extname, join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Kafka } from 'kafkajs';
import { request } from 'undici';
import { loadConfiguration } from '../../config/configuration.ts';
import type { Address, Configuration } from '../../config/configuration.ts';
import type { Log } from '../../connectors/contract/connector.ts';
import { createConnectApi, registerAndWait } from '../../debezium/connect-api.ts';
import { ensureTopics, withAdmin } from '../../debezium/ensure-topics.ts';
import { fillProperties } from '../../debezium/files.ts';
import { createKafka } from '../../stream/kafka-client.ts';
import { groupOf } from '../../stream/kafka-source.ts';
import { AbideError } from '../../suppression/errors.ts';
import { startEmbeddedPostgres } from '../embedded-postgres.ts';
import type { EmbeddedPostgres } from '../embedded-postgres.ts';
import { freePort } from '../free-port.ts';
import { isLoopback, lackingSecrets } from '../given-secrets.ts';
import { loadConnector } from '../load-connector.ts';
import { openDatabase, urlsOf } from '../open-database.ts';
import type { DatabaseUrls } from '../open-database.ts';
import { environmentOfJava, environmentOfWorker } from './environment.ts';
import { findJava } from './find-java.ts';
import { choosePorts, stackFolderOf, writeConfiguration } from './layout.ts';
import type { Ports } from './layout.ts';
import {
  endLeftovers,
  endOfLog,
  findRunning,
  logFileOf,
  startProgram,
  takeBack,
  writeDown,
} from './program.ts';
import type { Program } from './program.ts';
import { resolveStack } from './resolve-stack.ts';
import { makeWorkerKeys } from './worker-keys.ts';

const READY_MS_MAX = 90_000;
const STOP_MS_MAX = 3_000;
const CLI = fileURLToPath(new URL(`../../cli/abide${extname(import.meta.filename)}`, import.meta.url));
const DEBEZIUM = fileURLToPath(new URL('../../debezium/', import.meta.url));

/**
 * On two cores the second compiler and a parallel collector only cost: together these flags bring the start of all three
 * from 19 s to 10 s, and their memory to 0.7 GiB.
 */
const LEAN = ['-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1', '-XX:-UsePerfData'];

export type Stack = {
  readonly url: string;
  readonly ports: Ports;
  readonly configFile: string;
  stop(): Promise<void>;
};

type Parts = {
  readonly programs: Map<string, Program>;
  postgres: EmbeddedPostgres | undefined;
  /** Releases the claim on the ports. */
  release: () => void;
};

/** Returns when everything runs and the API answers. If a step fails, what was started is stopped again. */
export async function runStack({
  configPath,
  dataFolder,
  env,
  log,
  print,
  signal,
}: {
  configPath: string | undefined;
  dataFolder: string;
  env: NodeJS.ProcessEnv;
  log: Log;
  print: (line: string) => void;
  /** Ends a start that is under way. */
  signal: AbortSignal;
}): Promise<Stack> {
  const began = performance.now();
  const progress = (line: string): void =>
    print(`abide: ${line} (${((performance.now() - began) / 1000).toFixed(1)} s)`);
  const folder = stackFolderOf(dataFolder);
  refuseItsOwn(configPath ?? env['ABIDE_CONFIG'], folder);
  await lookAhead({ configPath, env, folder });
  mkdirSync(dataFolder, { recursive: true });
  // Where nothing may be written, a recursive one says that there is no such folder.
  if (!existsSync(folder)) mkdirSync(folder);
  await refuseSecond(folder);
  // First of all, and looked at once more below: what follows may take a minute, in which another stack may start as well. The
  // later one would end the programs of the earlier one as leftovers, and that one would start them again.
  await writeDown(folder, 'stack');
  const { java, installed } = await findInstalled({ env, print, signal }).catch((error: unknown) => {
    takeBack(folder, 'stack');
    throw error;
  });
  await refuseSecond(folder);
  const left = await endLeftovers(folder);
  if (left.length > 0) print(`abide: ended what a killed stack had left running: ${left.join(', ')}`);

  const parts: Parts = { programs: new Map(), postgres: undefined, release: () => undefined };
  const stopping = new AbortController();
  const stop = async (): Promise<void> => {
    stopping.abort();
    await stopAll(parts);
    takeBack(folder, 'stack');
  };
  try {
    const starting = AbortSignal.any([signal, stopping.signal]);
    const start = (
      name: string,
      command: string,
      args: readonly string[],
      environment: NodeJS.ProcessEnv,
      cwd?: string,
    ): void => {
      starting.throwIfAborted();
      parts.programs.set(
        name,
        startProgram({ name, command, args, env: environment, cwd, folder, shows: name === 'api', print }),
      );
    };
    const started = await startAll({
      configPath,
      dataFolder,
      folder,
      env,
      java,
      installed,
      log,
      progress,
      parts,
      start,
      signal: starting,
    });
    return { ...started, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

async function findInstalled({
  env,
  print,
  signal,
}: {
  env: NodeJS.ProcessEnv;
  print: (line: string) => void;
  signal: AbortSignal;
}): Promise<{ java: string; installed: string }> {
  const java = await findJava(env);
  return { java: java.java, installed: await resolveStack({ java, env, print, signal }) };
}

/** The stack would copy its own last configuration, without anything that its user has changed since. */
function refuseItsOwn(path: string | undefined, folder: string): void {
  if (!path || resolve(path) !== join(folder, 'abide.yaml')) return;
  throw new AbideError(
    'CONFIG_INVALID',
    `${path} is what the stack makes of your abide.yaml at each start: name your own, or unset ABIDE_CONFIG.`,
  );
}

/** What can be refused before anything is made or started, which takes a minute the first time: a wrong configuration, a taken port. */
async function lookAhead({
  configPath,
  env,
  folder,
}: {
  configPath: string | undefined;
  env: NodeJS.ProcessEnv;
  folder: string;
}): Promise<void> {
  const { listen } = await loadConfiguration({
    path: configPath,
    env,
    loadConnector,
    // The server that would be named does not run yet; who reads this only wants to know where the API listens.
    embeddedStoreUrl: () => Promise.resolve('postgres://127.0.0.1/crm'),
  });
  // What listens may be of this folder: a running stack is refused as such, and what a killed one left is ended first.
  if ((await findRunning(folder)).length === 0) await refuseTaken(listen);
}

async function refuseTaken({ host, port }: Address): Promise<void> {
  if (port !== 0 && (await listens(host, port)))
    throw new AbideError('STACK_FAILED', `Port ${port} is taken: set PORT to another one.`);
}

async function refuseSecond(folder: string): Promise<void> {
  const other = (await findRunning(folder)).find(({ name }) => name === 'stack');
  if (other === undefined || other.pid === process.pid) return;
  throw new AbideError(
    'STACK_FAILED',
    `A stack runs on ${folder} already (process ${other.pid}): stop it with \`abide stack stop\`, or set ABIDE_DATA to another folder.`,
  );
}

type Start = (
  name: string,
  command: string,
  args: readonly string[],
  environment: NodeJS.ProcessEnv,
  /** For a program that would take a character of the folder's path for one of its own, such as a comma in a list. */
  cwd?: string,
) => void;

async function startAll({
  configPath,
  dataFolder,
  folder,
  env,
  java,
  installed,
  log,
  progress,
  parts,
  start,
  signal,
}: {
  configPath: string | undefined;
  dataFolder: string;
  folder: string;
  env: NodeJS.ProcessEnv;
  java: string;
  installed: string;
  log: Log;
  progress: (line: string) => void;
  parts: Parts;
  start: Start;
  signal: AbortSignal;
}): Promise<Omit<Stack, 'stop'>> {
  const { ports, release } = await choosePorts(folder);
  parts.release = release;
  const jvm = { java, installed, folder, ports, env: environmentOfJava(env), start, signal };
  // Both are awaited once the database is there. A start that ends before that throws its own reason, which makes these fail.
  const broker = startBroker(jvm);
  broker.catch(() => undefined);
  startRegistry(jvm);
  const registry = untilAnswers(
    `http://127.0.0.1:${ports.registry}/apis/ccompat/v7/subjects`,
    'registry',
    folder,
    signal,
  );
  registry.catch(() => undefined);
  const kafka = createKafka({
    address: { brokers: [`127.0.0.1:${ports.broker}`] },
    clientId: 'abide-stack',
    log,
  });

  const database = await startDatabase({ configPath, dataFolder, env, log, parts });
  startConnect(jvm, database.urls);
  const configFile = writeConfiguration({ folder, own: database.own, ports, storeUrl: database.storeUrl });
  const { configuration } = database;
  const { host } = configuration.listen;
  // Workers have to know it before the API listens: of 0, any, one is chosen here.
  const port = configuration.listen.port || (await freePort());
  const url = `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
  await refuseTaken({ host, port });

  await broker;
  await untilTopics(kafka, ports.broker, folder, signal);
  progress('the broker runs');
  const text = database.own === undefined ? undefined : readFileSync(database.own.path, 'utf8');
  for (const store of configuration.stores) {
    const { name } = store;
    start(`worker-${name}`, process.execPath, [...NODE, CLI, 'worker', '--store', name], {
      ...environmentOfWorker(env, name, text),
      ABIDE_CONFIG: configFile,
      ABIDE_URL: url,
      ABIDE_KEY: database.keys.get(name),
    });
  }
  await registry;
  progress('the registry runs');
  const connect = createConnectApi(`http://127.0.0.1:${ports.connect}`);
  await untilAnswers(`http://127.0.0.1:${ports.connect}/connectors`, 'connect', folder, signal);
  const root = await request(`http://127.0.0.1:${ports.connect}/`);
  const { kafka_cluster_id: clusterId } = (await root.body.json()) as { kafka_cluster_id: string };
  refuseOthers('Connect', ports.connect, clusterId, folder);
  await registerAndWait(connect, { withinMs: READY_MS_MAX, signal });
  progress("Connect runs, and Debezium's task in it");
  await untilJoined(
    kafka,
    configuration.stores.map(({ name }) => name),
    folder,
    signal,
  );
  progress(`${configuration.stores.length} worker(s) run`);
  start('api', process.execPath, [...NODE, CLI, 'serve', '--no-workers', '--data', resolve(dataFolder)], {
    ...env,
    ABIDE_CONFIG: configFile,
    PORT: String(port),
  });
  await until('api', folder, signal, () => listens(host, port));
  // Beyond loopback, health is asked for elsewhere and answers 404 here.
  await until('api', folder, signal, async () => [200, 404].includes(await statusOf(`${url}/readyz`)));
  return { url, ports, configFile };
}

const NODE = ['--disable-warning=ExperimentalWarning'];

type Jvm = {
  readonly java: string;
  readonly installed: string;
  readonly folder: string;
  readonly ports: Ports;
  readonly env: NodeJS.ProcessEnv;
  readonly start: Start;
  readonly signal: AbortSignal;
};

const kafkaArgs = ({ installed }: Jvm): string[] => [
  ...LEAN,
  `-Dlog4j2.configurationFile=${join(DEBEZIUM, 'log4j2.properties')}`,
  '-cp',
  join(installed, 'libs/*'),
];

async function startBroker(jvm: Jvm): Promise<void> {
  const { java, folder, ports, env, start, signal } = jvm;
  const file = join(folder, 'broker.properties');
  writeFileSync(
    file,
    fillProperties('broker.properties', {
      broker_port: ports.broker,
      controller_port: ports.controller,
    }),
  );
  if (!existsSync(join(folder, 'kafka/meta.properties'))) {
    const format = ['kafka.tools.StorageTool', 'format', '--standalone', '-t', makeClusterId()];
    await runToEnd(java, [...kafkaArgs(jvm), ...format, '-c', file], { env, cwd: folder, signal });
  }
  start('broker', java, ['-Xms192m', '-Xmx384m', ...kafkaArgs(jvm), 'kafka.Kafka', file], env, folder);
}

/** Base64url of 16 bytes, of which the first does not become a minus: that would look like an option. */
function makeClusterId(): string {
  const bytes = randomBytes(16);
  bytes[0]! &= 0x7f;
  return bytes.toString('base64url');
}

/** The cluster of this folder, which tells its broker and its Connect from another stack's. */
const clusterIdOf = (folder: string): string | undefined =>
  /^cluster\.id=(.+)$/m.exec(readFileSync(join(folder, 'kafka/meta.properties'), 'utf8'))?.[1];

function refuseOthers(what: string, port: number, clusterId: unknown, folder: string): void {
  if (clusterId === clusterIdOf(folder)) return;
  throw new AbideError('STACK_FAILED', `Another ${what} answers at port ${port}: stop it, or start again.`);
}

function startConnect(jvm: Jvm, urls: DatabaseUrls): void {
  const { java, installed, folder, ports, env, start } = jvm;
  const file = join(folder, 'connect.properties');
  writeFileSync(
    file,
    fillProperties('connect.properties', {
      brokers: `127.0.0.1:${ports.broker}`,
      listener: `http://127.0.0.1:${ports.connect}`,
      advertised_host: '127.0.0.1',
      plugins: join(installed, 'plugins'),
    }),
  );
  const url = new URL(urls.replication);
  start(
    'connect',
    java,
    ['-Xms192m', '-Xmx512m', ...kafkaArgs(jvm), 'org.apache.kafka.connect.cli.ConnectDistributed', file],
    {
      ...env,
      ABIDE_REPLICATION_HOST: url.hostname,
      ABIDE_REPLICATION_PORT: url.port || '5432',
      ABIDE_REPLICATION_DATABASE: decodeURIComponent(url.pathname.slice(1)),
      ABIDE_REPLICATION_USER: decodeURIComponent(url.username),
      ABIDE_REPLICATION_PASSWORD: decodeURIComponent(url.password),
      ABIDE_REPLICATION_SSLMODE: url.searchParams.get('sslmode') ?? 'prefer',
      ABIDE_REGISTRY: `http://127.0.0.1:${ports.registry}/apis/registry/v2`,
      ABIDE_REGISTRY_USER: '',
      ABIDE_REGISTRY_PASSWORD: '',
    },
  );
}

/** Its schemas lie in a file: in memory they would be gone with it, and no new consumer could read old records. */
function startRegistry({ java, installed, folder, ports, env, start }: Jvm): void {
  const registry = join(installed, 'registry');
  const args = [
    '-Xmx256m',
    ...LEAN,
    '-Dquarkus.http.host=127.0.0.1',
    `-Dquarkus.http.port=${ports.registry}`,
    '-Dquarkus.http.access-log.enabled=false',
    // Without WRITE_DELAY=0 a kill right after a registration loses it.
    '-Dquarkus.datasource.jdbc.url=jdbc:h2:file:./registry/schemas;WRITE_DELAY=0',
    '-Dquarkus.datasource.jdbc.initial-size=2',
    '-Dquarkus.datasource.jdbc.min-size=2',
    '-Dquarkus.datasource.jdbc.max-size=10',
    '-Djava.util.logging.manager=org.jboss.logmanager.LogManager',
    '-jar',
    join(registry, runnerOf(registry)),
  ];
  start('registry', java, args, env, folder);
}

function runnerOf(folder: string): string {
  const pom = readFileSync(join(DEBEZIUM, 'pom.xml'), 'utf8');
  const version = /<registry>([^<]+)</.exec(pom)?.[1] ?? '';
  const name = `apicurio-registry-app-${version}-runner.jar`;
  if (!existsSync(join(folder, name)))
    throw new AbideError('STACK_FAILED', `${name} is missing in ${folder}.`);
  return name;
}

async function runToEnd(
  command: string,
  args: readonly string[],
  options: { readonly env: NodeJS.ProcessEnv; readonly cwd: string; readonly signal: AbortSignal },
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    execFile(command, [...args], options, (error, _stdout, stderr) => {
      if (error === null) resolve();
      else
        reject(
          new AbideError('STACK_FAILED', `The broker's storage cannot be made: ${stderr.slice(-500)}`, {
            cause: error,
          }),
        );
    });
  });
}

type Database = {
  readonly configuration: Configuration;
  readonly own: { readonly path: string } | undefined;
  readonly urls: DatabaseUrls;
  readonly storeUrl: string | undefined;
  /** Each worker's key, by its store. */
  readonly keys: ReadonlyMap<string, string>;
};

/** PostgreSQL, unless the user's configuration names one; migrated, with a key for each worker. */
async function startDatabase({
  configPath,
  dataFolder,
  env,
  log,
  parts,
}: {
  configPath: string | undefined;
  dataFolder: string;
  env: NodeJS.ProcessEnv;
  log: Log;
  parts: Parts;
}): Promise<Database> {
  const startEmbedded = async (): Promise<EmbeddedPostgres> =>
    (parts.postgres ??= await startEmbeddedPostgres({ dataFolder, log }));
  let storeUrl: string | undefined;
  const configuration = await loadConfiguration({
    path: configPath,
    env,
    loadConnector,
    embeddedStoreUrl: async () => (storeUrl = await (await startEmbedded()).createDatabase('crm')),
  });
  const lacking = lackingSecrets(configuration, dataFolder, env);
  if (lacking !== undefined) throw new Error(lacking);
  const urls = urlsOf(configuration, log) ?? (await startEmbedded()).urls;
  const { pool } = await openDatabase({
    urls,
    whose: configuration.database === undefined ? 'embedded' : 'elsewhere',
    dataFolder,
    env,
    mayMakeSecrets: isLoopback(configuration.listen.host),
    log,
  });
  const stores = configuration.stores.map(({ name }) => name);
  const keys = await makeWorkerKeys(pool, stores, join(stackFolderOf(dataFolder), 'keys')).finally(() =>
    pool.end(),
  );
  const { path } = configuration;
  return { configuration, own: path === undefined ? undefined : { path }, urls, storeUrl, keys };
}

/** Stops those who read before those who serve them; PostgreSQL last. */
async function stopAll(parts: Parts): Promise<void> {
  const { programs } = parts;
  const named = (isFirst: boolean): Program[] =>
    [...programs.values()].filter(
      ({ name }) => (name === 'connect' || name.startsWith('worker-')) === isFirst,
    );
  await Promise.all(named(true).map((program) => program.stop(STOP_MS_MAX)));
  await Promise.all(named(false).map((program) => program.stop(STOP_MS_MAX)));
  await parts.postgres?.stop();
  parts.release();
}

/** Repeats a look until it holds. Throws STACK_FAILED with the end of the program's log if it takes too long. */
async function until(
  name: string,
  folder: string,
  signal: AbortSignal,
  holds: () => Promise<boolean>,
): Promise<void> {
  const end = performance.now() + READY_MS_MAX;
  for (;;) {
    signal.throwIfAborted();
    if (await holds().catch(() => false)) return;
    if (performance.now() > end) {
      throw new AbideError(
        'STACK_FAILED',
        `${name} was not ready within ${READY_MS_MAX / 1000} s. The end of ${logFileOf(folder, name)}:\n${endOfLog(folder, name)}`,
      );
    }
    await delay(50, undefined, { signal });
  }
}

const untilAnswers = (url: string, name: string, folder: string, signal: AbortSignal): Promise<void> =>
  until(name, folder, signal, async () => (await statusOf(url)) === 200);

async function statusOf(url: string): Promise<number> {
  const { statusCode, body } = await request(url, { headersTimeout: 5_000, bodyTimeout: 5_000 });
  await body.dump();
  return statusCode;
}

const untilTopics = async (
  kafka: Kafka,
  port: number,
  folder: string,
  signal: AbortSignal,
): Promise<void> => {
  // The client would pause up to a second between its own tries.
  await until('broker', folder, signal, () => listens('127.0.0.1', port));
  await until('broker', folder, signal, async () => {
    await withAdmin(kafka, (admin) => ensureTopics(admin));
    return true;
  });
  const { clusterId } = await withAdmin(kafka, (admin) => admin.describeCluster());
  refuseOthers('Kafka', port, clusterId, folder);
};

/** Waits until the workers are members of their groups: then they miss nothing that is recorded from here on. */
async function untilJoined(
  kafka: Kafka,
  stores: readonly string[],
  folder: string,
  signal: AbortSignal,
): Promise<void> {
  await withAdmin(kafka, async (admin) => {
    for (const store of stores) {
      await until(`worker-${store}`, folder, signal, async () => {
        const { groups } = await admin.describeGroups([groupOf(store)]);
        return groups[0]?.state === 'Stable' && groups[0].members.length > 0;
      });
    }
  });
}

const listens = (host: string, port: number): Promise<boolean> =>
  new Promise((resolve) => {
    const socket = connectTo({ host, port, timeout: 1_000 });
    const done = (is: boolean) => () => {
      socket.destroy();
      resolve(is);
    };
    socket.once('connect', done(true)).once('error', done(false)).once('timeout', done(false));
  });

/**
 * Removes topics, offsets and schemas, and says whether there were any; the ledger stays, and drives again whatever a store has not
 * acknowledged.
 */
export async function resetStack(dataFolder: string): Promise<boolean> {
  const folder = stackFolderOf(dataFolder);
  const running = await findRunning(folder);
  if (running.length > 0) {
    throw new AbideError(
      'STACK_FAILED',
      `${running.map(({ name }) => name).join(', ')} run(s): \`abide stack stop\` first.`,
    );
  }
  const parts = ['kafka', 'registry', 'logs', 'ports.json']
    .map((part) => join(folder, part))
    .filter((part) => existsSync(part));
  for (const part of parts) rmSync(part, { recursive: true });
  return parts.length > 0;
}
