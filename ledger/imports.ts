// Files of opt-outs on their way into the ledger. A file is kept in pieces, compressed and sealed; the process that holds its lease
// carries it on from the row up to which it is recorded (record-in-bulk.ts).
//
//   receiving → (awaiting_approval →) pending → running → done | failed
//   awaiting_approval, pending → cancelled
import { promisify } from 'node:util';
import { constants, zstdCompress, zstdDecompress } from 'node:zlib';
import { randomUUIDv7 } from 'node:crypto';
import { AbideError } from '../suppression/errors.ts';
import type { Scope } from '../suppression/scope.ts';
import { audit } from './audit.ts';
import type { Caller } from './contract/audit.ts';
import type {
  Import,
  ImportFormat,
  Imports,
  ImportState,
  NewImport,
  ReadBy,
  RowError,
} from './contract/imports.ts';
import type { Reason } from './contract/opt-outs.ts';
import { inTransaction, isRace, toMilliseconds } from './database.ts';
import type { Pool, Queryable } from './database.ts';
import { isUuid } from './find.ts';
import type { KeyRing, UnderEachPepper } from './key-ring.ts';

/** After this, other processes take over what a process that ended was carrying. */
export const LEASE = "interval '5 seconds'";
export const ERRORS_KEPT_MAX = 100_000;
/** A client that sends a file must send some of it within this. */
const RECEIVING = "interval '10 minutes'";
/** Unfinished imports of one client, so that nobody fills the disk with files that are never approved. */
const UNFINISHED_MAX = 20;
/** Tables, their keys, and how many rows one statement deletes. */
const LEFT_BEHIND = [
  ['import_chunks', 'n', 200],
  ['import_seen', 'match_key', 20_000],
] as const;
/** SQL: the newest import `o` of client $1 that stands for the file with fingerprints $2. States as in the index `imports_once`. */
const THAT_FILE = `from imports o
  where o.client = $1 and o.fingerprint = any ($2) and o.state not in ('receiving', 'failed', 'cancelled')
  order by o.received_at desc limit 1`;
const SMALLEST_COMPRESSION = { params: { [constants.ZSTD_c_compressionLevel]: 1 } };

const compress = promisify(zstdCompress);
const decompress = promisify(zstdDecompress);

type Row = {
  id: string;
  client: string;
  key_id: string;
  key_lineage: string;
  state: ImportState;
  format: ImportFormat;
  dry_run: boolean;
  scopes: Scope[] | null;
  reason: Reason;
  effective_at: string | null;
  bytes: number;
  rows_total: number;
  rows_done: number;
  recorded: number;
  already: number;
  invalid: number;
  errors_found: number;
  received_at: string;
  started_at: string | null;
  finished_at: string | null;
  approved_by_client: string | null;
  approved_by_key: string | null;
  approved_at: string | null;
  failure: string | null;
  read_by: ReadBy;
  repeats: string | null;
};

const COLUMNS = `id, client, key_id, key_lineage, state, format, dry_run, scopes, reason, effective_at, bytes, rows_total, rows_done,
  recorded, already, invalid, errors_found, received_at, started_at, finished_at, approved_by_client, approved_by_key,
  approved_at, failure, read_by, repeats`;

const instant = (micros: string | null): string | undefined =>
  micros === null ? undefined : toMilliseconds(micros);

const toImport = (row: Row): Import => ({
  id: row.id,
  client: row.client,
  keyId: row.key_id,
  lineage: row.key_lineage,
  state: row.state,
  format: row.format,
  dryRun: row.dry_run,
  defaults: { scopes: row.scopes ?? undefined, reason: row.reason, effectiveAt: instant(row.effective_at) },
  bytes: row.bytes,
  rowsTotal: row.rows_total,
  rowsDone: row.rows_done,
  counts: { recorded: row.recorded, already: row.already, invalid: row.invalid },
  errorsFound: row.errors_found,
  receivedAt: toMilliseconds(row.received_at),
  startedAt: instant(row.started_at),
  finishedAt: instant(row.finished_at),
  approval:
    row.approved_at === null
      ? undefined
      : { client: row.approved_by_client!, keyId: row.approved_by_key!, at: toMilliseconds(row.approved_at) },
  failure: row.failure ?? undefined,
  readBy: row.read_by,
  repeats: row.repeats ?? undefined,
});

const sealedAs = (id: string, n: number) => [id, `import piece ${n}`] as const;

async function oneImport(
  db: Queryable,
  sql: string,
  values: readonly unknown[],
): Promise<Import | undefined> {
  const { rows } = await db.query<Row>(`${sql} returning ${COLUMNS}`, [...values]);
  return rows[0] && toImport(rows[0]);
}

const badCursor = (): AbideError =>
  new AbideError('invalid-value', undefined, {
    errors: [{ pointer: '/cursor', detail: 'is not a cursor that a list answered' }],
  });

/** Everything of Imports but the recording (record-in-bulk.ts). */
export function createImports({
  pool,
  ring,
  onWaiting,
}: {
  pool: Pool;
  ring: KeyRing;
  /** Called when there is something to claim. */
  onWaiting: () => void;
}): Omit<Imports, 'record' | 'isLiveWaiting' | 'untilWaiting'> {
  async function begin({ format, dryRun, defaults, readBy, caller, lineage }: NewImport): Promise<string> {
    const id = randomUUIDv7();
    const { rowCount } = await pool.query(
      `insert into imports (id, client, key_id, key_lineage, caller_address, request_id, state, format, dry_run, scopes, reason,
         effective_at, read_by, is_kept, bytes, rows_total, rows_done, recorded, already, invalid, errors_found, created_at,
         lease_until)
       select $1, $2, $3, $4, $5, $6, 'receiving', $7, $8, $9, $10, $11, $12, true, 0, 0, 0, 0, 0, 0, 0, clock_timestamp(),
         clock_timestamp() + ${RECEIVING}
       where (select count(*) from imports
              where client = $2 and is_kept and state not in ('done', 'failed', 'cancelled')) < ${UNFINISHED_MAX}`,
      [
        id,
        caller.client,
        caller.keyId,
        lineage,
        caller.address,
        caller.requestId,
        format,
        dryRun,
        defaults.scopes ?? null,
        defaults.reason,
        defaults.effectiveAt ?? null,
        JSON.stringify(readBy),
      ],
    );
    if (rowCount === 0) {
      throw new AbideError(
        'too-many-requests',
        `${UNFINISHED_MAX} imports of this client are not finished: approve them, cancel them, or wait.`,
        { retryAfterSeconds: 60 },
      );
    }
    return id;
  }

  /** If the lease is over, the sender was taken for gone, or has abandoned the import. */
  async function keep(id: string, n: number, piece: Buffer): Promise<void> {
    const sealed = ring.seal(await compress(piece, SMALLEST_COMPRESSION), sealedAs(id, n));
    const { rowCount } = await pool.query({
      name: 'import-keep',
      text: `with held as (
               update imports set lease_until = clock_timestamp() + ${RECEIVING}
               where id = $1 and state = 'receiving' and lease_until > clock_timestamp() returning id
             )
             insert into import_chunks (import_id, n, sealed) select id, $2, $3 from held`,
      values: [id, n, sealed],
    });
    if (rowCount !== 1) throw new AbideError('request-timeout');
  }

  /** Undefined if the same import exists already. */
  async function complete(
    id: string,
    { sha256, bytes, rows, approveAbove }: Parameters<Imports['submit']>[1],
    fingerprintsOf: (row: Row, sha256: Buffer) => UnderEachPepper,
  ): Promise<Import | undefined> {
    return await inTransaction(pool, async (client) => {
      const { rows: found } = await client.query<Row & { caller_address: string; request_id: string }>(
        `select ${COLUMNS}, caller_address, request_id from imports
         where id = $1 and state = 'receiving' and lease_until > clock_timestamp() for update`,
        [id],
      );
      const row = found[0];
      if (row === undefined) throw new AbideError('request-timeout');
      const state: ImportState = !row.dry_run && rows > approveAbove ? 'awaiting_approval' : 'pending';
      const fingerprints = fingerprintsOf(row, sha256);
      const {
        rows: [before],
      } = await client.query<{ id: string; may_repeat: boolean }>(
        `select o.id, o.read_by <> $3 and o.state = 'done' and o.invalid > 0
           and o.invalid = (select count(distinct e.row_number) from import_errors e where e.import_id = o.id) as may_repeat
         ${THAT_FILE}`,
        [row.client, fingerprints, JSON.stringify(row.read_by)],
      );
      if (before?.may_repeat === false) return undefined;
      const made = await oneImport(
        client,
        `update imports set state = $2, fingerprint = $3, bytes = $4, rows_total = $5, received_at = clock_timestamp(),
           lease_until = null, repeats = $6
         where id = $1`,
        [id, state, fingerprints[0], bytes, rows, before?.id ?? null],
      );
      if (made === undefined) return undefined;
      const caller = {
        client: row.client,
        keyId: row.key_id,
        address: row.caller_address,
        requestId: row.request_id,
      };
      await audit(client, caller, 'import.created', id, { rows, bytes, dry_run: row.dry_run, state });
      return made;
    }).catch((error: unknown) => {
      if (isRace(error)) return undefined;
      throw error;
    });
  }

  const fingerprintsOf = (row: Row, sha256: Buffer): UnderEachPepper =>
    ring.fingerprints(
      'import',
      JSON.stringify([
        row.client,
        sha256.toString('hex'),
        row.format,
        row.dry_run,
        row.scopes && [...row.scopes].sort(),
        row.reason,
        row.effective_at,
      ]),
    );

  async function submit(id: string, file: Parameters<Imports['submit']>[1]): ReturnType<Imports['submit']> {
    let thatFile: readonly [string, UnderEachPepper] | undefined;
    for (;;) {
      const made = await complete(id, file, (row, sha256) => {
        thatFile = [row.client, fingerprintsOf(row, sha256)];
        return thatFile[1];
      });
      if (made !== undefined) {
        onWaiting();
        return { import: made, isNew: true };
      }
      const { rows } = await pool.query<Row>(`select ${COLUMNS} ${THAT_FILE}`, [...thatFile!]);
      // If that one failed or was cancelled in between, this one is the first.
      if (rows[0] === undefined) continue;
      await abandon(id);
      return { import: toImport(rows[0]), isNew: false };
    }
  }

  /**
   * The lease ends first: a piece, or the submission, that is still on its way comes before that, or not at all. Whoever lost the
   * answer to a submission gives the file up as well, and by then it may be an import, whose pieces are needed.
   */
  async function abandon(id: string): Promise<void> {
    const { rowCount } = await pool.query(
      "update imports set lease_until = '-infinity' where id = $1 and state = 'receiving'",
      [id],
    );
    if (rowCount === 0) return;
    await discard(pool, id);
    await pool.query("delete from imports where id = $1 and state = 'receiving'", [id]);
  }

  async function find(id: string, client: string | undefined): Promise<Import | undefined> {
    if (!isUuid(id)) return undefined;
    const { rows } = await pool.query<Row>({
      name: 'import-find',
      text: `select ${COLUMNS} from imports where id = $1 and ($2::text is null or client = $2) and state <> 'receiving'`,
      values: [id, client ?? null],
    });
    return rows[0] && toImport(rows[0]);
  }

  const list: Imports['list'] = async ({ client, limit, cursor, state }) => {
    if (cursor !== undefined && !isUuid(cursor)) throw badCursor();
    // As in the list of opt-outs, only the index by client gives a client's order.
    const [before, order] =
      client === undefined
        ? ['id < $1', 'id desc']
        : ['(client, id) < ($4, $1) and client >= $4', 'client desc, id desc'];
    const { rows } = await pool.query<Row>(
      `select ${COLUMNS} from imports
       where ${before} and state <> 'receiving' and ($2::text is null or state = $2) order by ${order} limit $3`,
      [
        cursor ?? 'ffffffff-ffff-ffff-ffff-ffffffffffff',
        state ?? null,
        limit + 1,
        ...(client === undefined ? [] : [client]),
      ],
    );
    const imports = rows.slice(0, limit).map(toImport);
    return { imports, nextCursor: rows.length > limit ? imports.at(-1)!.id : undefined };
  };

  const errors: Imports['errors'] = async (id, { limit, cursor = '0.-1' }) => {
    const [, after, position] = /^(\d{1,15})\.(-1|\d{1,4})$/.exec(cursor) ?? [];
    if (after === undefined) throw badCursor();
    const { rows } = await pool.query<{
      row_number: number;
      position: number;
      line: number;
      field: string | null;
      code: RowError['code'];
    }>({
      name: 'import-errors',
      text: `select row_number, position, line, field, code from import_errors
             where import_id = $1 and (row_number, position) > ($2, $3) order by row_number, position limit $4`,
      values: [id, after, position, limit + 1],
    });
    const page = rows.slice(0, limit);
    const last = page.at(-1);
    return {
      errors: page.map(({ row_number, line, field, code }) => ({
        row: row_number,
        line,
        column: field ?? undefined,
        code,
      })),
      nextCursor: rows.length > limit ? `${last!.row_number}.${last!.position}` : undefined,
    };
  };

  async function approve(id: string, caller: Caller, lineage: string): Promise<Import> {
    if (!isUuid(id)) throw new AbideError('not-found');
    const approved = await inTransaction(pool, async (client) => {
      const { rows } = await client.query<Row>(
        `select ${COLUMNS} from imports where id = $1 and state <> 'receiving' for update`,
        [id],
      );
      const row = rows[0];
      if (row === undefined) throw new AbideError('not-found');
      if (row.key_lineage === lineage && row.client === caller.client)
        throw new AbideError('second-key-needed');
      // A repeated approval changes nothing.
      if (row.approved_by_key === caller.keyId && row.approved_by_client === caller.client)
        return toImport(row);
      if (row.state !== 'awaiting_approval') throw notWaiting(row.state);
      await audit(client, caller, 'import.approved', id, { rows: row.rows_total, of: row.client });
      return await oneImport(
        client,
        `update imports set state = 'pending', approved_by_client = $2, approved_by_key = $3, approved_at = clock_timestamp()
         where id = $1`,
        [id, caller.client, caller.keyId],
      );
    });
    onWaiting();
    return approved!;
  }

  async function cancel(id: string, of: string | undefined, caller: Caller): Promise<Import> {
    if (!isUuid(id)) throw new AbideError('not-found');
    return await inTransaction(pool, async (client) => {
      const { rows } = await client.query<Row>(
        `select ${COLUMNS} from imports
         where id = $1 and ($2::text is null or client = $2) and state <> 'receiving' for update`,
        [id, of ?? null],
      );
      const row = rows[0];
      if (row === undefined) throw new AbideError('not-found');
      if (row.state === 'cancelled') return toImport(row);
      if (row.state !== 'awaiting_approval' && row.state !== 'pending') throw notWaiting(row.state);
      await audit(client, caller, 'import.cancelled', id, { rows: row.rows_total, of: row.client });
      const cancelled = await oneImport(
        client,
        "update imports set state = 'cancelled', finished_at = clock_timestamp() where id = $1",
        [id],
      );
      return cancelled!;
    });
  }

  /**
   * One at a time across all processes, since batches of two files would wait for each other in ways that PostgreSQL does not see.
   * An import that began goes on before another begins: its holder may only be slow, and finds out if another process has taken it
   * over.
   */
  const claim = (holder: string): Promise<Import | undefined> =>
    inTransaction(pool, async (client) => {
      await client.query("select pg_advisory_xact_lock(hashtext('abide.imports'))");
      // A locked import is being moved on at this moment, and its lease with it. A lease that ends in more than a minute is from
      // before the clock was set back.
      return await oneImport(
        client,
        `with free as (
           select id, state from imports
           where state in ('pending', 'running') and coalesce(
             lease_until not between clock_timestamp() and clock_timestamp() + interval '1 minute', true)
           for update skip locked
         )
         update imports set state = 'running', started_at = coalesce(started_at, clock_timestamp()), lease_holder = $1,
           lease_until = clock_timestamp() + ${LEASE}
         where id = (select id from free order by state = 'running' desc, id limit 1)
           and not exists (select from imports where state = 'running' and id not in (select id from free))`,
        [holder],
      );
    });

  async function renew(id: string, holder: string): Promise<boolean> {
    const { rowCount } = await pool.query({
      name: 'import-renew',
      text: `update imports set lease_until = clock_timestamp() + ${LEASE}
             where id = $1 and lease_holder = $2 and state = 'running'`,
      values: [id, holder],
    });
    return rowCount === 1;
  }

  async function release(id: string, holder: string): Promise<void> {
    await pool.query(
      "update imports set lease_until = null where id = $1 and lease_holder = $2 and state = 'running'",
      [id, holder],
    );
  }

  async function notTaken(id: string): Promise<ReadonlySet<number>> {
    const { rows } = await pool.query<{ row_number: number }>(
      'select distinct row_number from import_errors where import_id = $1',
      [id],
    );
    return new Set(rows.map(({ row_number: row }) => row));
  }

  async function piece(id: string, n: number): Promise<Buffer | undefined> {
    const { rows } = await pool.query<{ sealed: Buffer }>({
      name: 'import-piece',
      text: 'select sealed from import_chunks where import_id = $1 and n = $2',
      values: [id, n],
    });
    return rows[0] && (await decompress(ring.unsealBytes(rows[0].sealed, sealedAs(id, n))));
  }

  /** An import that is neither done nor failed would be claimed again and again, and no other one would begin. */
  async function finish(id: string, holder: string, reason?: string): Promise<Import | undefined> {
    const finished = await inTransaction(pool, async (client) => {
      const ended = await oneImport(
        client,
        `update imports set state = case when $3::text is null and rows_done = rows_total then 'done' else 'failed' end,
           failure = coalesce($3, case when rows_done <> rows_total then 'internal-error' end),
           finished_at = clock_timestamp(), lease_until = null
         where id = $1 and lease_holder = $2 and state = 'running'`,
        [id, holder, reason ?? null],
      );
      if (ended === undefined) return undefined;
      const { failure } = ended;
      const by = { client: ended.client, keyId: ended.keyId, address: '', requestId: '' };
      await audit(client, by, failure === undefined ? 'import.done' : 'import.failed', id, {
        rows: ended.rowsDone,
        ...ended.counts,
        dry_run: ended.dryRun,
        ...(failure === undefined ? {} : { failure }),
      });
      return ended;
    });
    if (finished !== undefined) await discard(pool, id);
    return finished;
  }

  return {
    begin,
    keep,
    submit,
    abandon,
    find,
    list,
    errors,
    approve,
    cancel: async (id, of, caller) => {
      const cancelled = await cancel(id, of, caller);
      await discard(pool, id);
      return cancelled;
    },
    claim,
    renew,
    release,
    notTaken,
    piece,
    finish,
  };
}

/** What an import that has ended, or a file that was given up, left behind; in steps, since it may be gigabytes. */
async function discard(pool: Pool, id: string): Promise<void> {
  for (const [table, key, most] of LEFT_BEHIND) {
    const some = `delete from ${table} where import_id = $1 and ${key} in (
      select ${key} from ${table} where import_id = $1 order by ${key} limit ${most})`;
    while ((await pool.query(some, [id])).rowCount === most);
  }
  await pool.query('update imports set is_kept = false where id = $1', [id]);
}

const notWaiting = (state: ImportState): AbideError =>
  new AbideError('import-not-waiting', `The import is ${state.replaceAll('_', ' ')}.`);

/**
 * Removes what nobody needs any more: files that did not arrive completely, what ended imports left behind, and files that nobody
 * approved within a week.
 */
export async function tidyImports(pool: Pool, imports: Pick<Imports, 'abandon'>): Promise<void> {
  await pool.query(`
    with late as (
      update imports set state = 'cancelled', finished_at = clock_timestamp()
      where state = 'awaiting_approval' and received_at < clock_timestamp() - interval '7 days' returning id, client, rows_total
    )
    insert into audit_log (at, client, action, resource, details)
    select clock_timestamp(), client, 'import.cancelled', id::text,
      json_build_object('rows', rows_total, 'of', client, 'reason', 'not approved within 7 days') from late`);
  const { rows } = await pool.query<{ id: string; has_ended: boolean }>(`
    select id, state <> 'receiving' as has_ended from imports
    where is_kept and (state in ('done', 'failed', 'cancelled') or (state = 'receiving' and lease_until < clock_timestamp()))`);
  for (const { id, has_ended: hasEnded } of rows) await (hasEnded ? discard(pool, id) : imports.abandon(id));
  await pool.query(`
    delete from import_errors where import_id in (
      select id from imports where finished_at < clock_timestamp() - interval '90 days'
        and id not in (select repeats from imports where repeats is not null and finished_at is null))`);
}
