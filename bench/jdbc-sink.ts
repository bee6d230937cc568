// The peer of the Kafka path: Debezium's JDBC sink, in a Connect of its own on the stack's broker. "Tuned" reads the very
// topic that Abide's workers read; "default" a second Debezium source that leaves every interval as it comes.
import { execFile, spawn } from 'node:child_process';
import { mkdir, rename, rm, stat, writeFile } from 'node:fs/promises';
import { openSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { request } from 'undici';
import { readConnector } from '../debezium/connect-api.ts';
import { fillProperties } from '../debezium/files.ts';
import { findJava, findMaven } from '../processes/stack/find-java.ts';
import type { Ports } from '../processes/stack/layout.ts';
import { resolveStack } from '../processes/stack/resolve-stack.ts';
import { eventually } from '../test/harness/eventually.ts';
import { freePort } from '../test/harness/free-port.ts';

const run = promisify(execFile);
const here = (path: string): string => fileURLToPath(new URL(path, import.meta.url));

export type Peer = 'tuned' | 'default';
export const TABLES: Readonly<Record<Peer, string>> = {
  tuned: 'decisions_tuned',
  default: 'decisions_default',
};

export type JdbcSinks = AsyncDisposable & {
  /**
   * Lets one of the two run, or with `undefined` none; a sink that is resumed catches up first. The resting one is stopped: a
   * source that is only paused goes on reading the log until its queue is full.
   */
  only(peer: Peer | undefined): Promise<void>;
};

async function resolveSink(): Promise<string> {
  const folder = here('../.abide-stack/jdbc-sink');
  if (await stat(folder).then(Boolean, () => false)) return folder;
  const unfinished = `${folder}-${process.pid}`;
  await mkdir(unfinished, { recursive: true });
  try {
    const maven = await findMaven(process.env);
    await run(maven, ['-B', '-q', '-U', '-f', here('jdbc-sink.pom.xml'), 'package', `-Dout=${unfinished}`]);
    await rename(unfinished, folder);
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
  return folder;
}

const DEFAULTS = [
  'poll.interval.ms',
  'max.batch.size',
  'max.queue.size',
  'status.update.interval.ms',
  'heartbeat.interval.ms',
  'heartbeat.action.query',
];

/** `replication` reads the ledger, `target` is the peer's own database. */
export async function startJdbcSinks({
  folder,
  ports,
  replication,
  target,
}: {
  folder: string;
  ports: Ports;
  replication: string;
  target: string;
}): Promise<JdbcSinks> {
  const { java } = await findJava(process.env);
  const installed = await resolveStack({
    java: await findJava(process.env),
    env: process.env,
    print: () => undefined,
    signal: new AbortController().signal,
  });
  const sink = await resolveSink();
  const port = await freePort();
  const own = fillProperties('connect.properties', {
    brokers: `127.0.0.1:${ports.broker}`,
    listener: `http://127.0.0.1:${port}`,
    advertised_host: '127.0.0.1',
    plugins: `${installed}/plugins,${sink}`,
  }).replaceAll('abide-connect', 'peer-connect');
  const file = join(folder, 'peer-connect.properties');
  await writeFile(file, own);
  const log = openSync(join(folder, 'peer-connect.log'), 'a');
  // The C2 compiler pays off for bulk, so this Connect has it; the stack's own does without.
  const jvm = [
    '-XX:+UseSerialGC',
    '-Xmx1g',
    `-Dlog4j2.configurationFile=${here('../debezium/log4j2.properties')}`,
  ];
  const child = spawn(
    java,
    [...jvm, '-cp', join(installed, 'libs/*'), 'org.apache.kafka.connect.cli.ConnectDistributed', file],
    { stdio: ['ignore', log, log] },
  );
  const ended = new Promise((resolve) => child.once('exit', resolve));

  async function call(method: 'GET' | 'PUT' | 'POST', path: string, body?: object): Promise<unknown> {
    const answer = await request(`http://127.0.0.1:${port}/${path}`, {
      method,
      headers: { 'content-type': 'application/json' },
      body: body === undefined ? null : JSON.stringify(body),
    });
    const text = await answer.body.text();
    if (answer.statusCode >= 300) throw new Error(`${method} ${path} answered ${answer.statusCode}: ${text}`);
    return text === '' ? undefined : JSON.parse(text);
  }
  type Status = { connector: { state: string }; tasks: { state: string; trace?: string }[] };
  const until = (name: string, state: string): Promise<void> =>
    eventually(async () => {
      const { connector, tasks } = (await call('GET', `connectors/${name}/status`)) as Status;
      const failed = tasks.find((task) => task.state === 'FAILED');
      if (failed !== undefined) process.stderr.write(`${name}: ${failed.trace?.slice(0, 500)}\n`);
      const isThere = state === 'STOPPED' ? tasks.length === 0 : tasks.length > 0;
      if (connector.state !== state || !isThere || tasks.some((task) => task.state !== state))
        throw new Error(`${name} is ${connector.state}`);
    }, 60_000);

  const registry = `http://127.0.0.1:${ports.registry}/apis/registry/v2`;
  const from = new URL(replication);
  const to = new URL(target);
  const source = {
    ...Object.fromEntries(Object.entries(readConnector()).filter(([name]) => !DEFAULTS.includes(name))),
    'database.hostname': from.hostname,
    'database.port': from.port,
    'database.dbname': from.pathname.slice(1),
    'database.user': from.username,
    'database.password': from.password,
    'database.sslmode': 'disable',
    'topic.prefix': 'peer',
    'slot.name': 'peer_default',
    'predicates.isDecision.pattern': 'peer\\.public\\.decisions',
    'value.converter.apicurio.registry.url': registry,
    'snapshot.mode': 'no_data',
  };
  const sinkOf = (peer: Peer): object => ({
    'connector.class': 'io.debezium.connector.jdbc.JdbcSinkConnector',
    'tasks.max': '1',
    topics: peer === 'tuned' ? 'abide.public.decisions' : 'peer.public.decisions',
    'connection.url': `jdbc:postgresql://${to.hostname}:${to.port}${to.pathname}`,
    'connection.username': to.username,
    'connection.password': to.password,
    'insert.mode': 'upsert',
    'primary.key.mode': 'record_value',
    'primary.key.fields': 'id',
    'schema.evolution': 'basic',
    'collection.name.format': TABLES[peer],
    'consumer.override.auto.offset.reset': 'earliest',
    'key.converter': 'org.apache.kafka.connect.storage.StringConverter',
    'value.converter': 'io.apicurio.registry.utils.converter.AvroConverter',
    'value.converter.apicurio.registry.url': registry,
    'value.converter.apicurio.registry.as-confluent': 'true',
    'value.converter.apicurio.registry.use-id': 'contentId',
    'value.converter.apicurio.registry.headers.enabled': 'false',
  });
  const names: Readonly<Record<Peer, readonly string[]>> = {
    tuned: ['sink-tuned'],
    default: ['source-default', 'sink-default'],
  };
  const set = async (peer: Peer, runs: boolean): Promise<void> => {
    for (const name of names[peer]) {
      await call('PUT', `connectors/${name}/${runs ? 'resume' : 'stop'}`);
      await until(name, runs ? 'RUNNING' : 'STOPPED');
    }
  };
  const dispose = async (): Promise<void> => {
    child.kill('SIGTERM');
    await ended;
  };
  try {
    await eventually(() => call('GET', 'connectors'), 60_000);
    await call('PUT', 'connectors/source-default/config', source);
    await until('source-default', 'RUNNING');
    for (const peer of ['tuned', 'default'] as const) {
      await call('PUT', `connectors/sink-${peer}/config`, sinkOf(peer));
      await until(`sink-${peer}`, 'RUNNING');
    }
  } catch (error) {
    await dispose();
    throw error;
  }
  return {
    only: async (wanted) => {
      for (const peer of ['tuned', 'default'] as const) if (peer !== wanted) await set(peer, false);
      if (wanted !== undefined) await set(wanted, true);
    },
    [Symbol.asyncDispose]: dispose,
  };
}
