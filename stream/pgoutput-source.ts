// The ledger's own logical replication, read in this process through a temporary slot: it lives and dies with the
// connection, so it never retains WAL for a reader that is gone. What was committed while there was none comes from the
// ledger; that is why acknowledging a position before its decisions are settled is harmless here.
//
// States: connecting -> catching_up (the slot waits for every open write transaction of the server) -> ok -> down ->
// connecting …; `polling` where the server cannot replicate logically, looked at again every 30 s.
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { LogicalReplicationService, PgoutputPlugin } from 'pg-logical-replication';
import type { Decision } from '../suppression/decision.ts';
import type { SourceReport, SourceStatus } from '../suppression/acknowledgement.ts';
import type { ChangeListener, ChangeSource } from './change-source.ts';
import { toDecision } from './decision-row.ts';

const RETRY_MS_MAX = 5_000;
const POLLING_MS = 30_000;
const CONNECT_MS_MAX = 5_000;
const GOODBYE_MS_MAX = 1_000;
/** The server is asked for a sign of life after a third of it; silence beyond asks for a new connection. */
const SILENT_MS_MAX = 15_000;
/** A transaction is delivered at its commit, but never held beyond this many rows. */
const HELD_MAX = 5_000;

type SourceLog = Record<'debug' | 'info' | 'warn' | 'error', (fields: object, message: string) => void>;

type Message =
  | { tag: 'begin' | 'commit' | 'unreadable' }
  | { tag: 'insert'; relation: { name: string }; new: unknown }
  | { tag: string };

/** Makes the slot on the very connection that then replicates: a temporary slot belongs to it. */
class TemporarySlotPlugin extends PgoutputPlugin {
  override async start(client: pg.Client, slotName: string, _lastLsn: string): Promise<unknown> {
    // A session that waits for others' transactions does not notice that its client has gone unless it is told to look;
    // it begins to look with the statement after this one. Some systems cannot look.
    await client.query("set client_connection_check_interval = '1s'").catch(() => undefined);
    await client.query('select');
    await client.query(`CREATE_REPLICATION_SLOT "${slotName}" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT`);
    return await super.start(client, slotName, '0/0');
  }
  /** What the parser throws nobody would catch: it would end the process. Its text may quote the row. */
  override parse(buffer: Buffer): ReturnType<PgoutputPlugin['parse']> {
    try {
      return super.parse(buffer);
    } catch {
      return { tag: 'unreadable' } satisfies Message as never;
    }
  }
}

/** Reads publication `publication` as a role with REPLICATION. Never gives up, never throws after start(). */
export function createPgoutputSource({
  url,
  publication,
  log,
  silentMsMax = SILENT_MS_MAX,
}: {
  url: string;
  publication: string;
  log: SourceLog;
  silentMsMax?: number;
}): ChangeSource {
  const stopping = new AbortController();
  let status: SourceStatus = 'unknown';
  let position: string | undefined;
  let heardAt = performance.now();
  let parked = 0;
  let running: Promise<void> = Promise.resolve();
  let saidPolling = false;

  async function canReplicate(): Promise<boolean> {
    const client = new pg.Client({
      connectionString: url,
      connectionTimeoutMillis: CONNECT_MS_MAX,
      query_timeout: CONNECT_MS_MAX,
    });
    client.on('error', () => undefined);
    const stop = (): void => void client.connection.stream.destroy();
    stopping.signal.addEventListener('abort', stop, { once: true });
    try {
      await client.connect();
      const { rows } = await client.query<{ level: string }>("select current_setting('wal_level') as level");
      return rows[0]?.level === 'logical';
    } finally {
      stopping.signal.removeEventListener('abort', stop);
      // A half-open line never answers the goodbye.
      await Promise.race([client.end(), delay(GOODBYE_MS_MAX, undefined, { ref: false })]).catch(
        () => undefined,
      );
    }
  }

  /** One connection's life; resolves when it ended, rejects where it failed. */
  async function replicate(listener: ChangeListener): Promise<void> {
    const service = new LogicalReplicationService(
      {
        connectionString: url,
        connectionTimeoutMillis: CONNECT_MS_MAX,
        // Making the slot may rightly take for ever; only TCP can tell then whether anybody is there.
        keepAlive: true,
        keepAliveInitialDelayMillis: 10_000,
        application_name: 'abide stream',
      },
      { acknowledge: { auto: false, timeoutSeconds: 10 } },
    );
    let held: Decision[] = [];
    const deliver = (): void => {
      if (held.length === 0) return;
      const batch = held;
      held = [];
      // A worker that cannot keep up catches up from the ledger: nobody is waited for.
      listener.decisions(batch).catch((error: unknown) => log.error({ error }, 'a listener failed'));
    };
    const park = (error?: unknown): void => {
      parked += 1;
      log.error(
        { error, position },
        'a row on the stream cannot be read, the ledger will drive its decision',
      );
    };
    let isStreaming = false;
    const failed = Promise.withResolvers<never>();
    failed.promise.catch(() => undefined);
    service.on('error', (error: Error) => failed.reject(error));
    service.on('start', () => {
      heardAt = performance.now();
      isStreaming = true;
      status = 'ok';
      listener.live();
    });
    service.on('heartbeat', (lsn: string, _at: number, shouldRespond: boolean) => {
      heardAt = performance.now();
      position = lsn;
      if (shouldRespond) void service.acknowledge(lsn);
    });
    service.on('data', (lsn: string, message: Message) => {
      heardAt = performance.now();
      position = lsn;
      if (message.tag === 'commit') deliver();
      else if (message.tag === 'unreadable') park();
      else if ('relation' in message && message.tag === 'insert' && message.relation.name === 'decisions') {
        try {
          held.push(toDecision(message.new));
        } catch (error) {
          park(error);
        }
        if (held.length >= HELD_MAX) deliver();
      }
    });
    const silence = setInterval(() => {
      const silentMs = performance.now() - heardAt;
      if (!isStreaming || silentMs < silentMsMax / 3) return;
      if (silentMs > silentMsMax) failed.reject(new Error('the server fell silent'));
      else if (position !== undefined) void service.acknowledge(position, true);
    }, silentMsMax / 6);
    const stop = (): void => failed.reject(new Error('stopped'));
    stopping.signal.addEventListener('abort', stop, { once: true });
    try {
      status = 'catching_up';
      const plugin = new TemporarySlotPlugin({ protoVersion: 1, publicationNames: [publication] });
      const slot = `abide_${process.pid}_${randomBytes(4).toString('hex')}`;
      await Promise.race([service.subscribe(plugin, slot), failed.promise]);
      throw new Error('the replication connection ended');
    } finally {
      clearInterval(silence);
      stopping.signal.removeEventListener('abort', stop);
      service.removeAllListeners();
      service.on('error', () => undefined);
      await Promise.race([service.destroy(), delay(GOODBYE_MS_MAX, undefined, { ref: false })]).catch(
        () => undefined,
      );
    }
  }

  async function run(listener: ChangeListener): Promise<void> {
    for (let failures = 0; !stopping.signal.aborted;) {
      try {
        const can = await canReplicate();
        // From here to where replicate() listens for the end nothing is awaited.
        if (stopping.signal.aborted) return;
        if (!can) {
          status = 'polling';
          listener.down('wal_level is not logical');
          if (!saidPolling) {
            log.warn(
              { fix: 'set wal_level = logical and restart PostgreSQL' },
              'the server cannot stream decisions: the ledger is polled every 250 ms instead',
            );
          }
          saidPolling = true;
          await delay(POLLING_MS, undefined, { signal: stopping.signal });
          continue;
        }
        await replicate(listener);
      } catch (error) {
        if (stopping.signal.aborted) return;
        failures = status === 'ok' ? 1 : failures + 1;
        status = 'down';
        listener.down(error instanceof Error && 'code' in error ? String(error.code) : 'connection lost');
        const pauseMs = Math.min(RETRY_MS_MAX, 100 * 2 ** failures) * (0.5 + Math.random() / 2);
        log.debug({ error, pauseMs }, 'the stream is down, connecting again');
        await delay(pauseMs, undefined, { signal: stopping.signal }).catch(() => undefined);
      }
    }
  }

  return {
    start: (listener) => {
      running = run(listener).catch((error: unknown) => {
        if (!stopping.signal.aborted) log.error({ error }, 'the stream stopped');
      });
    },
    report: (): SourceReport => ({
      kind: 'pgoutput',
      status,
      position,
      positionAgeSeconds:
        position === undefined ? undefined : Math.round((performance.now() - heardAt) / 100) / 10,
      parked,
    }),
    [Symbol.asyncDispose]: async () => {
      stopping.abort();
      await running;
    },
  };
}
