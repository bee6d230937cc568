import { randomUUID } from 'node:crypto';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { startEmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import { quietLog } from '../../processes/log.ts';
import type { Decision } from '../../suppression/decision.ts';
import { createPgoutputSource } from '../../stream/pgoutput-source.ts';
import { decide, describeChangeSource } from '../conformance/change-source.ts';
import type { SourcePlace } from '../conformance/change-source.ts';
import { freshDatabase, withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { startTcpProxy } from '../harness/tcp-proxy.ts';

async function open(limits: { quietMsMax?: number; silentMsMax?: number } = {}): Promise<SourcePlace> {
  const stack = new AsyncDisposableStack();
  const db = stack.use(await freshDatabase());
  const { hostname, port } = new URL(db.urls.replication);
  const line = stack.use(await startTcpProxy({ host: hostname, port: Number(port) }));
  const url = Object.assign(new URL(db.urls.replication), { host: `127.0.0.1:${line.port}` }).href;
  const source = stack.use(createPgoutputSource({ url, publication: 'abide', log: quietLog, ...limits }));
  return {
    source,
    databaseUrl: db.superuserUrl,
    line,
    expectNothingLeft: () => eventually(async () => expect(await left(db.superuserUrl)).toEqual([])),
    [Symbol.asyncDispose]: () => stack.disposeAsync(),
  };
}

/** Slots and replication sessions of the database. */
const left = (superuserUrl: string): Promise<object[]> =>
  withClient(superuserUrl, async (client) => {
    const { rows } = await client.query<object>(
      `select slot_name as name from pg_replication_slots where database = current_database()
       union all
       select application_name from pg_stat_activity
       where datname = current_database() and backend_type = 'walsender'`,
    );
    return rows;
  });

describeChangeSource('pgoutput', {
  open: (hangs) => open(hangs ? { silentMsMax: 600 } : {}),
  heldMax: 5_000,
  waits: false,
});

/** A listener that hears whether the stream is live, and nothing else. */
function audience() {
  const said: string[] = [];
  return {
    said,
    decisions: () => Promise.resolve(),
    live: () => void said.push('live'),
    down: (reason: string) => void said.push(reason),
  };
}

test('the slot waits for open write transactions: until then the stream is not live, and given up it leaves nothing', async () => {
  await using place = await open();
  await using other = await open();
  await withClient(place.databaseUrl, async (writer) => {
    await writer.query('begin');
    await writer.query('select pg_current_xact_id()');
    const [hears, givesUp] = [audience(), audience()];
    place.source.start(hears);
    other.source.start(givesUp);
    for (const { databaseUrl } of [place, other])
      await eventually(async () => expect(await left(databaseUrl)).toHaveLength(2));
    expect(place.source.report()).toMatchObject({ status: 'catching_up' });
    await other.source[Symbol.asyncDispose]();
    await other.expectNothingLeft?.();
    expect(hears.said).toEqual([]);
    await writer.query('commit');
    await eventually(() => expect(hears.said).toEqual(['live']));
    expect(givesUp.said).toEqual([]);
  });
});

// Every decision was one that cannot be read, and was left to the ledger.
test('a database that writes its dates in another style is read as it means them', async () => {
  await using place = await open();
  const name = new URL(place.databaseUrl).pathname.slice(1);
  const heard: Decision[] = [];
  const listener = {
    ...audience(),
    decisions: (batch: readonly Decision[]) => Promise.resolve(void heard.push(...batch)),
  };
  await withClient(place.databaseUrl, (client) =>
    client.query(
      `alter database ${name} set datestyle = 'German, DMY'; alter database ${name} set timezone = 'Asia/Kathmandu'`,
    ),
  );
  place.source.start(listener);
  await eventually(() => expect(listener.said).toEqual(['live']));

  await withClient(place.databaseUrl, (client) => decide(client, [{ subjectId: randomUUID() }]));

  await eventually(() => expect(heard).toHaveLength(1));
  const { rows } = await withClient(place.databaseUrl, (client) =>
    client.query<{ ms: number }>(
      'select extract(epoch from recorded_at)::float8 * 1000 as ms from decisions',
    ),
  );
  expect(Date.parse(heard[0]!.recordedAt)).toBe(Math.floor(rows[0]!.ms));
});

test('a slot does not outlive its connection, whoever ends it', async () => {
  await using place = await open();
  const hears = audience();
  const slots = async () => (await left(place.databaseUrl)).map((one) => Object.values(one)[0] as string);
  place.source.start(hears);
  await eventually(() => expect(hears.said).toEqual(['live']));
  const [slot] = await slots();
  expect(slot).toMatch(/^abide_\d+_[0-9a-f]{8}$/);
  await withClient(place.databaseUrl, (client) =>
    client.query(
      "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and backend_type = 'walsender'",
    ),
  );
  await eventually(() => expect(hears.said).toEqual(['live', '57P01', 'live']));
  await eventually(async () => expect(await slots()).not.toContain(slot));
  place.line.setFault('refuse');
  await place.expectNothingLeft?.();
});

test('a server that is silent for a moment is said to be, so that the ledger is read meanwhile, and keeps its connection', async () => {
  await using place = await open({ quietMsMax: 100, silentMsMax: 60_000 });
  const hears = audience();
  place.source.start(hears);
  await eventually(() => expect(hears.said[0]).toBe('live'));
  const before = await left(place.databaseUrl);
  place.line.setFault('slow');
  await eventually(() => expect(hears.said).toContain('silent'));
  place.line.setFault('none');
  await eventually(() => expect(hears.said.at(-1)).toBe('live'));
  expect(place.source.report()).toMatchObject({ status: 'ok' });
  expect(await left(place.databaseUrl)).toEqual(before);
  expect(new Set(hears.said)).toEqual(new Set(['live', 'silent']));
});

const READY = Buffer.from([0x5a, 0, 0, 0, 5, 0x49]);
const FIELDS = Buffer.from('SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0');
const FATAL = Buffer.concat([Buffer.from([0x45, 0, 0, 0, FIELDS.length + 4]), FIELDS]);

/** Lets the first replication connection end in the very packet that confirms it. */
async function endAtOnce(to: { host: string; port: number }) {
  let isDone = false;
  const server = createServer((client) => {
    const upstream = connect(to);
    let replicates = false;
    client.on('data', (chunk) => {
      replicates ||= (chunk as Buffer).includes('abide stream');
      upstream.write(chunk);
    });
    upstream.on('data', (chunk: Buffer) => {
      if (isDone || !replicates || !chunk.subarray(-READY.length).equals(READY)) return client.write(chunk);
      isDone = true;
      upstream.destroy();
      return client.end(Buffer.concat([chunk, FATAL]));
    });
    for (const [one, other] of [
      [client, upstream],
      [upstream, client],
    ] as const)
      one.on('error', () => undefined).on('close', () => other.end());
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    port: (server.address() as AddressInfo).port,
    isDone: () => isDone,
    [Symbol.asyncDispose]: () => new Promise<void>((resolve) => server.close(() => resolve())),
  };
}

test('a server that ends in the moment in which the connection is made ends nothing but the connection', async () => {
  await using stack = new AsyncDisposableStack();
  const db = stack.use(await freshDatabase());
  const { hostname, port } = new URL(db.urls.replication);
  const line = stack.use(await endAtOnce({ host: hostname, port: Number(port) }));
  const url = Object.assign(new URL(db.urls.replication), { host: `127.0.0.1:${line.port}` }).href;
  const source = stack.use(createPgoutputSource({ url, publication: 'abide', log: quietLog }));
  const hears = audience();
  source.start(hears);
  await eventually(() => expect(hears.said).toEqual(['57P01', 'live']));
  expect(line.isDone()).toBe(true);
});

test('where wal_level is too low the ledger is polled, and one warning says what to do', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'abide-replica-'));
  // As root the server runs as another user, which must get in.
  await chmod(folder, 0o711);
  const postgres = await startEmbeddedPostgres({
    dataFolder: folder,
    log: quietLog,
    settings: { wal_level: 'replica', fsync: 'off' },
  });
  try {
    const warnings: unknown[] = [];
    const hears = audience();
    const source = createPgoutputSource({
      url: postgres.urls.replication,
      publication: 'abide',
      log: { ...quietLog, warn: (fields, message) => warnings.push([fields, message]) },
    });
    source.start(hears);
    await eventually(() => expect(source.report()).toMatchObject({ status: 'polling' }));
    expect(hears.said).toEqual(['wal_level is not logical']);
    expect(warnings).toEqual([
      [
        { fix: 'set wal_level = logical and restart PostgreSQL' },
        expect.stringContaining('the ledger is polled'),
      ],
    ]);
    const began = performance.now();
    await source[Symbol.asyncDispose]();
    expect(performance.now() - began).toBeLessThan(10_000);
  } finally {
    await postgres.stop();
    await rm(folder, { recursive: true });
  }
});
