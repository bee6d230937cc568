// Sequence numbers are taken before commit, so a lower one may become visible after a higher one. A fence is a number below which
// nothing more can appear: S is the sequence's last value, X a transaction id drawn in a later statement, and every recording
// transaction draws its own id in a statement before the one that takes a number. So a transaction that took a number <= S has an
// id < X, and S is final once no transaction below X runs. Comparing the visible rows' own transaction ids would not do: a row that
// is not visible yet shows none.
//
// All of this holds on the server that said it. After a failover or a restore, the new server gives out numbers again that the old
// one had given out, so a fence names the running server by the time at which it started. That time stays if only its backends
// crash, and the server goes on with the numbers and ids that were on disk: so a fence is on disk before it is believed.
import type { Queryable } from './database.ts';

export type Fence = { readonly seq: number; readonly xid: string; readonly server: string };

/** SQL: which server this is. */
export const SERVER = 'pg_postmaster_start_time()';

/**
 * SQL: whether nothing at or below a stored fence can appear any more, by the fence's transaction id. An id that this server has
 * not given out yet is from the server that held the ledger before it was dumped: everything of that one has come.
 */
export const isOver = (xid: string): string =>
  `(${xid} <= pg_snapshot_xmin(pg_current_snapshot()) or ${xid} >= pg_snapshot_xmax(pg_current_snapshot()))`;

/**
 * Two statements on purpose, each a transaction of its own; never to be called inside one that wrote before. Undefined: no decision
 * took a number above `above` yet.
 */
export async function takeFence(db: Queryable, above = 0): Promise<Fence | undefined> {
  const { rows } = await db.query<{ seq: number; used: boolean; server: string }>(
    `select last_value as seq, is_called as used, ${SERVER}::text as server from decisions_seq_seq`,
  );
  const [at] = rows;
  if (at?.used !== true || at.seq <= above) return undefined;
  // The commit of an id alone would not wait for the disk. Locking a row is a write, whose commit waits, and everybody who has decided
  // anything has such a key; nobody else writes the newest.
  const drawn = await db.query<{ xid: string }>(
    'select pg_current_xact_id()::text as xid from transport_keys order by id desc limit 1 for no key update',
  );
  return { seq: at.seq, xid: drawn.rows[0]!.xid, server: at.server };
}

/** Whether nothing at or below the fence can appear any more; never true on another server. */
export async function isFinal(db: Queryable, fence: Fence): Promise<boolean> {
  const { rows } = await db.query<{ final: boolean }>({
    name: 'fence-is-final',
    text: `select pg_snapshot_xmin(pg_current_snapshot()) >= $1::xid8 and ${SERVER} = $2::timestamptz as final`,
    values: [fence.xid, fence.server],
  });
  return rows[0]!.final;
}
