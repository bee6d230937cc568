// The ledger's own logical replication, read in this process through a temporary slot. The slot lives and dies with the connection,
// so it never retains WAL for a reader that is gone. What was committed while there was none comes from the ledger; that is why
// acknowledging a position before its decisions are settled is harmless here.
//
// States: connecting -> catching_up (the slot waits for every open write transaction of the server) -> ok -> down -> connecting …;
// ok -> down -> ok if the server was silent for a moment; `polling` if it cannot replicate logically, which is looked at again
// every 30 s.
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import { PgoutputPlugin } from 'pg-logical-replication';
import type { Decision } from '../suppression/decision.ts';
import type { SourceReport, SourceStatus } from '../suppression/acknowledgement.ts';
import type { ChangeListener, ChangeSource } from './change-source.ts';
import { toDecision } from './decision-row.ts';

const RETRY_MS_MAX = 5_000;
const POLLING_MS = 30_000;
const CONNECT_MS_MAX = 5_000;
const GOODBYE_MS_MAX = 1_000;
/**
 * After a third of this silence the server is asked for a sign of life. Longer silence counts as down, before missing decisions
 * count as lost by the stream (worker.ts).
 */
const QUIET_MS_MAX = 3_500;
/** Longer silence makes us reconnect, and the new slot may have to wait: a server that is only slow is given longer. */
const SILENT_MS_MAX = 15_000;
/** A transaction is delivered at its commit, but never held beyond this many rows. */
const HELD_MAX = 5_000;

type SourceLog = Record<'debug' | 'info' | 'warn' | 'error', (fields: object, message: string) => void>;

type Message =
  | { tag: 'begin' | 'commit' | 'unreadable' }
  | { tag: 'insert'; relation: { name: string }; new: unknown }
  | { tag: string };

/** What the driver does not declare of a connection in copy mode. */
type ReplicationConnection = pg.Connection & { sendCopyFromChunk(chunk: Buffer): void };

/** PostgreSQL's "Streaming Replication Protocol": what may come in CopyData, and what is sent back. */
const XLOG_DATA = 0x77;
const XLOG_DATA_HEADER_BYTES = 25;
const KEEPALIVE = 0x6b;
const KEEPALIVE_ASKS_AT = 17;
const STATUS_UPDATE = 0x72;

/** Everything up to `lsn` is written, flushed and applied. The time of sending, which the server only shows, is left out. */
function statusUpdate(lsn: bigint, pleaseAnswer: boolean): Buffer {
  const message = Buffer.alloc(34);
  message.writeUInt8(STATUS_UPDATE, 0);
  for (const offset of [1, 9, 17]) message.writeBigUInt64BE(lsn, offset);
  message.writeUInt8(pleaseAnswer ? 1 : 0, 33);
  return message;
}

/** A position as PostgreSQL writes it: two halves in hexadecimal. */
const toText = (lsn: bigint): string =>
  `${(lsn >> 32n).toString(16)}/${(lsn & 0xffffffffn).toString(16)}`.toUpperCase();

/** An exception of the parser would leave through a socket's event and end the process. Its text may quote the row. */
class ForgivingPlugin extends PgoutputPlugin {
  override parse(buffer: Buffer): ReturnType<PgoutputPlugin['parse']> {
    try {
      return super.parse(buffer);
    } catch {
      return { tag: 'unreadable' } satisfies Message as never;
    }
  }
}

/** The wait is limited, since a half-open line never answers. */
const sayGoodbye = async (client: pg.Client): Promise<void> => {
  await Promise.race([client.end(), delay(GOODBYE_MS_MAX, undefined, { ref: false })]).catch(() => undefined);
};

/** Reads publication `publication` as a role with REPLICATION. Never gives up, never throws after start(). */
export function createPgoutputSource({
  url,
  publication,
  log,
  quietMsMax = QUIET_MS_MAX,
  silentMsMax = SILENT_MS_MAX,
}: {
  url: string;
  publication: string;
  log: SourceLog;
  quietMsMax?: number;
  silentMsMax?: number;
}): ChangeSource {
  const stopping = new AbortController();
  let status: SourceStatus = 'unknown';
  let position: string | undefined;
  let heardAt = performance.now();
  let parked = 0;
  let running: Promise<void> = Promise.resolve();
  let saidPolling = false;
  /** Whether the latest connection delivered. */
  let hasStood = false;

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
      await sayGoodbye(client);
    }
  }

  /**
   * One connection's life: rejects with what ended it. The library's own service is not used: it listens for errors only some time
   * after its connection is made, and an error that came in between ended the process.
   */
  async function replicate(listener: ChangeListener): Promise<void> {
    const config = {
      connectionString: url,
      connectionTimeoutMillis: CONNECT_MS_MAX,
      // Making the slot may rightly take for ever; meanwhile only TCP can tell whether anybody is there.
      keepAlive: true,
      keepAliveInitialDelayMillis: 10_000,
      application_name: 'abide stream',
      replication: 'database',
      // The server writes a decision's times in this session's style.
      options: '-c datestyle=ISO',
    };
    const client = new pg.Client(config);
    const connection = client.connection as ReplicationConnection;
    const failed = Promise.withResolvers<never>();
    failed.promise.catch(() => undefined);
    client.on('error', failed.reject);
    client.on('end', () => failed.reject(new Error('the replication connection ended')));

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
        'a row on the stream cannot be read: the ledger will drive its decision',
      );
    };
    const take = (message: Message): void => {
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
    };
    const hear = (): void => {
      heardAt = performance.now();
      if (status === 'ok') return;
      status = 'ok';
      hasStood = true;
      listener.live();
    };
    const plugin = new ForgivingPlugin({ protoVersion: 1, publicationNames: [publication] });
    let lsn = 0n;
    connection.on('copyData', ({ chunk }: { chunk: Buffer }) => {
      if (chunk[0] !== XLOG_DATA && chunk[0] !== KEEPALIVE) return;
      hear();
      lsn = chunk.readBigUInt64BE(1);
      position = toText(lsn);
      if (chunk[0] === XLOG_DATA) take(plugin.parse(chunk.subarray(XLOG_DATA_HEADER_BYTES)));
      else if (chunk[KEEPALIVE_ASKS_AT] === 1) connection.sendCopyFromChunk(statusUpdate(lsn, false));
    });
    let isStreaming = false;
    connection.once('replicationStart', () => {
      isStreaming = true;
      hear();
    });
    // The server keeps WAL until it is told that it may go, and is silent when it has nothing to say.
    const soon = Math.min(quietMsMax, silentMsMax);
    const beat = setInterval(() => {
      if (!isStreaming) return;
      const silentMs = performance.now() - heardAt;
      if (silentMs > silentMsMax) return failed.reject(new Error('the server went silent'));
      if (silentMs > quietMsMax && status === 'ok') {
        status = 'down';
        listener.down('silent');
      }
      connection.sendCopyFromChunk(statusUpdate(lsn, silentMs > soon / 3));
    }, soon / 6);
    const stop = (): void => failed.reject(new Error('stopped'));
    stopping.signal.addEventListener('abort', stop, { once: true });

    async function stream(): Promise<void> {
      await client.connect();
      // A session that waits for others' transactions does not notice that its client has gone unless it is told to
      // look; it begins to look with the statement after this one. Some systems cannot look.
      await client.query("set client_connection_check_interval = '1s'").catch(() => undefined);
      await client.query('select');
      // On the same connection that then replicates: a temporary slot belongs to it.
      const slot = `abide_${process.pid}_${randomBytes(4).toString('hex')}`;
      await client.query(`CREATE_REPLICATION_SLOT "${slot}" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT`);
      await plugin.start(client, slot, '0/0');
    }
    try {
      status = 'catching_up';
      await Promise.race([stream(), failed.promise]);
      throw new Error('the replication connection ended');
    } finally {
      clearInterval(beat);
      stopping.signal.removeEventListener('abort', stop);
      connection.removeAllListeners('copyData');
      await sayGoodbye(client);
    }
  }

  async function run(listener: ChangeListener): Promise<void> {
    for (let failures = 0; !stopping.signal.aborted;) {
      try {
        const can = await canReplicate();
        // Nothing is awaited between here and where replicate() listens for the end.
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
        failures = hasStood ? 1 : failures + 1;
        hasStood = false;
        status = 'down';
        listener.down(error instanceof Error && 'code' in error ? String(error.code) : 'connection lost');
        const pauseMs = Math.min(RETRY_MS_MAX, 100 * 2 ** failures) * (0.5 + Math.random() / 2);
        log.debug({ error, pauseMs }, 'the stream is down: connecting again');
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
