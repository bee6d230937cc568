import { onConnection } from './database.ts';

/**
 * Ends the connection by which a slot is read, so that another reader has it. Gives whether there was one. `url` is of the
 * reader's own role: a role may end what is its own.
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
