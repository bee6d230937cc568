import { onConnection } from './database.ts';
import type { Queryable } from './database.ts';

const LOST = `
  from pg_replication_slots
  where slot_name = $1 and database = current_database() and wal_status = 'lost' and not active`;

/**
 * Drops a slot for which the server has given up the log (max_slot_wal_keep_size): it serves nobody any more, and its name blocks a
 * new one. Returns whether it did. The role of `db` may only look, the role of `replicationUrl` may drop.
 */
export async function dropLostSlot(db: Queryable, replicationUrl: string, slot: string): Promise<boolean> {
  const { rowCount: isLost } = await db.query(`select ${LOST}`, [slot]);
  if (isLost === 0) return false;
  return await onConnection(replicationUrl, 'abide slot', async (client) => {
    const { rowCount } = await client.query(`select pg_drop_replication_slot(slot_name) ${LOST}`, [slot]);
    return rowCount === 1;
  });
}
