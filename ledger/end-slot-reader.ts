import { onConnection } from './database.ts';

/**
 * Ends the connection that reads a slot, so that another reader can have the slot. Returns whether there was one. `url` is that of
 * the reader's own role, since a role may end its own connections.
 */
export async function endSlotReader(url: string, slot: string): Promise<boolean> {
  return await onConnection(url, 'abide slot', async (client) => {
    const { rowCount } = await client.query(
      `select pg_terminate_backend(active_pid) from pg_replication_slots
       where slot_name = $1 and database = current_database() and active_pid is not null`,
      [slot],
    );
    return rowCount === 1;
  });
}
