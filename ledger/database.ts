import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import pg from 'pg';
import { AbideError } from '../suppression/errors.ts';

export type Pool = pg.Pool;
export type Client = pg.PoolClient;
/** Whatever can run a statement: the pool, or one client inside a transaction. */
export type Queryable = Pick<pg.Pool, 'query'>;

const INT8 = 20;
const TIMESTAMPTZ = 1184;
const TIMESTAMPTZ_ARRAY = 1185;
const INT8_ARRAY = 1016;

/** `2026-11-24 09:00:00.123456+00` (the session is in UTC) → `2026-11-24T09:00:00.123456Z`. */
const instant = (text: string): string => {
  const [head = '', fraction = ''] = text.replace(' ', 'T').replace('+00', '').split('.');
  return `${head}.${fraction.padEnd(6, '0')}Z`;
};

const defaultParser = pg.types.getTypeParser as (
  oid: number,
  format?: 'text' | 'binary',
) => (text: string) => unknown;

// Our longs stay below 2^53 (versions are checked, and decisions would have to be 9 quadrillion), so numbers are exact.
const types = {
  getTypeParser: (oid: number, format?: 'text' | 'binary') => {
    if (oid === INT8) return (text: string) => Number(text);
    if (oid === TIMESTAMPTZ) return instant;
    if (oid === INT8_ARRAY)
      return (text: string) => (text === '{}' ? [] : text.slice(1, -1).split(',').map(Number));
    if (oid === TIMESTAMPTZ_ARRAY) throw new Error('No statement of ours selects a timestamptz[].');
    return defaultParser(oid, format);
  },
};

const SETTINGS = [
  // A commit must be on disk before it is answered, whatever the server's default says.
  ['synchronous_commit', 'on'],
  ['timezone', 'UTC'],
  // A database or a role may set another style, and our times would then be read as no day at all.
  ['datestyle', 'ISO'],
  // Our statements lock the rows that they rely on, and are not made to be repeated because others wrote beside them.
  ['default_transaction_isolation', 'read committed'],
  ['statement_timeout', '30s'],
  ['idle_in_transaction_session_timeout', '30s'],
  // A plan made from the statistics of a young, empty table must not read the whole of a grown one. Besides this setting, our
  // statements leave the planner no choice: one table drives, by an index, and every other one is looked up row by row in a
  // subquery that `offset 0` keeps from becoming a join. Seen with joins instead: 14 ms per opt-out after half a minute of load
  // where 1 ms is right, and a page of outstanding decisions that took more than 30 s.
  ['enable_seqscan', 'off'],
  // A bitmap has no order: with one, a page of outstanding decisions reads the whole backlog and sorts it (39 ms per page with
  // 20,000 outstanding, and growing with them), while the index yields the first 2,000 and stops.
  ['enable_bitmapscan', 'off'],
  ['plan_cache_mode', 'force_generic_plan'],
  // Neither compiling a statement nor starting workers for it ever pays.
  ['jit', 'off'],
  ['max_parallel_workers_per_gather', '0'],
] as const;

/**
 * The server itself ends a statement, or a transaction that waits for its client, after 30 s, and the pool ends a connection that
 * nobody used for as long. A line that is silent for longer leads nowhere; TCP would take a quarter of an hour to notice.
 */
const SILENT_MS_MAX = 35_000;

/** A bounded pool on our own database. A backend that dies while idle is logged, never thrown. */
export function openPool(
  url: string,
  {
    max,
    onError,
    name = 'abide',
    pipeline = true,
  }: {
    max: number;
    onError: (error: Error) => void;
    name?: string;
    /** Statements are sent without waiting for earlier ones; COPY cannot be sent that way. */
    pipeline?: boolean;
  },
): Pool {
  const pool = new pg.Pool({
    connectionString: url,
    max,
    types,
    application_name: name,
    connectionTimeoutMillis: 3_000,
    idleTimeoutMillis: 30_000,
    pipeline,
    options: SETTINGS.map(([name, value]) => `-c ${name}=${value.replace(' ', '\\ ')}`).join(' '),
  });
  // A pool that ends does not wait until its lines are closed, and the server may be told to stop before they are.
  const lost = (error: Error): void => {
    if (!pool.ending) onError(error);
  };
  pool.on('error', lost);
  // A client that is checked out reports its lost connection here as well as to its query.
  pool.on('connect', (client) => {
    client.on('error', lost);
    const stream = streamOf(client);
    stream.setTimeout(SILENT_MS_MAX, () => stream.destroy());
  });
  return pool;
}

/** Runs one piece of work on a line of its own, as a role that has no pool; whatever happens, the line ends with it. */
export async function onConnection<T>(
  url: string,
  name: string,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({
    connectionString: url,
    application_name: name,
    connectionTimeoutMillis: 5_000,
  });
  // Work that waits for the line fails with it.
  client.on('error', () => undefined);
  try {
    await client.connect();
    return await work(client);
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** Milliseconds are what Abide answers in; the ledger keeps microseconds. */
export const toMilliseconds = (micros: string): string => `${micros.slice(0, 23)}Z`;

const code = (error: unknown): string =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : '';

/** 23505 unique violation, 40P01 deadlock, 40001 serialization: the same again may succeed. */
export const isRace = (error: unknown): boolean => ['23505', '40P01', '40001'].includes(code(error));
export const isLockTimeout = (error: unknown): boolean => code(error) === '55P03';

/** Says in words what keeps a database that answers from working; undefined if the error means something else. */
export function sayUnable(where: string, error: unknown): string | undefined {
  switch (code(error)) {
    case '25006':
      return `The database ${where} takes no writes: it is a replica, or its recovery has not ended (\`select pg_wal_replay_resume()\`).`;
    case '53100':
      return `The database ${where} runs, but its disk is full: free some space on it, or make it larger, and try again.`;
    case '53300':
      return `The database ${where} runs, but has no connection left for this role: close some, or raise its limit.`;
    default:
      return code(error).startsWith('53')
        ? `The database ${where} runs, but lacks a resource: its log says which.`
        : undefined;
  }
}

/** The process has an older key ring than the database (migration 0016), or a newer one (migration 0019). */
const WRONG_PEPPER: Readonly<Record<string, string>> = {
  AB001: 'The pepper was replaced: this process must be started again with the new key ring.',
  AB002:
    'The database does not know the pepper of this process: it was restored from a backup. This process must be started again.',
};

/**
 * Whether the database could not be asked, as opposed to having refused. Class 08 connection, 53 out of resources, 57
 * operator intervention (shutdown, cancel), 58 system error, 25006 read-only (a replica after a failover). FATAL of any
 * class: the session was refused or ended. With another pepper nothing can be asked either.
 */
export const isUnavailable = (error: unknown): boolean =>
  (error instanceof Error &&
    'severity' in error &&
    (error.severity === 'FATAL' || error.severity === 'PANIC')) ||
  /^(08|53|57|58)/.test(code(error)) ||
  code(error) === '25006' ||
  code(error) in WRONG_PEPPER ||
  /^(ECONN|EPIPE|ETIMEDOUT|ENOTFOUND|EHOST|ENET|EAI_)/.test(code(error)) ||
  (error instanceof Error &&
    /^(Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error)/.test(
      error.message,
    )) ||
  (error instanceof AggregateError && error.errors.some(isUnavailable));

/** Turns a driver's error into the answer a client gets; anything that is not unavailability stays as it is. */
export const asLedgerError = (error: unknown): unknown =>
  isUnavailable(error)
    ? new AbideError('ledger-unavailable', WRONG_PEPPER[code(error)], {
        cause: error,
        retryAfterSeconds: 1,
      })
    : error;

/** Runs one transaction; rolls back and frees the client whatever happens. */
export const inTransaction = <T>(pool: Pool, work: (client: Client) => Promise<T>): Promise<T> =>
  onClient(pool, async (client) => {
    await client.query('begin');
    const result = await work(client);
    await commit(client);
    return result;
  });

/** Throws if PostgreSQL rolled back instead, as it does without an error where a statement has failed before. */
export async function commit(client: Client): Promise<void> {
  const { command } = await client.query('commit');
  if (command !== 'COMMIT') throw new Error(`commit was answered ${command}`);
}

/**
 * Lends a client for work that begins and commits by itself; if the work fails, what it left open is rolled back. A broken client
 * is not reused.
 */
export async function onClient<T>(pool: Pool, work: (client: Client) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  let broken: Error | undefined;
  try {
    return await work(client);
  } catch (error) {
    await client.query('rollback').catch((rollbackError: unknown) => {
      broken = rollbackError instanceof Error ? rollbackError : new Error(String(rollbackError));
    });
    throw error;
  } finally {
    client.release(broken);
  }
}

/** No id comes before it: where a walk over ids begins. */
export const BEFORE_EVERY_ID = '00000000-0000-0000-0000-000000000000';

/**
 * Cuts the line of a client that has not done its work in time: whatever it waits for fails as unavailable, and whether what was
 * sent is done is in doubt. This is for a database that does not answer at all, where none of its own timeouts helps.
 */
export async function cutIfLate<T>(client: Client, ms: number, work: () => Promise<T>): Promise<T> {
  const late = setTimeout(() => streamOf(client).destroy(), ms);
  try {
    return await work();
  } finally {
    clearTimeout(late);
  }
}

const streamOf = (client: Client) =>
  (client as Client & Pick<pg.Client, 'connection'>).connection.stream as Duplex & Pick<Socket, 'setTimeout'>;

/**
 * Sends statements as one packet and waits for all of them: they run in this order, and a failed one does not keep the next from
 * running. Each round trip costs both sides a system call and a wake-up, more than a small statement does.
 */
export async function together<T extends readonly Promise<unknown>[]>(
  client: Client,
  send: () => readonly [...T],
): Promise<{ -readonly [I in keyof T]: Awaited<T[I]> }> {
  const stream = streamOf(client);
  stream.cork();
  let sent: readonly [...T];
  try {
    sent = send();
  } finally {
    stream.uncork();
  }
  return await Promise.all(sent);
}
