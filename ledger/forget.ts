import type { Pool } from './database.ts';

/** How many rows one statement deletes: a moment's work. */
const AT_ONCE = 10_000;

/** SQL that deletes some of a table's rows that meet `condition`, in which `%s` is the time. */
export const FORGET = (table: string, condition: string): string => `
  delete from ${table} where ctid = any (array(
    select ctid from ${table} where ${condition.replace('%s', '(select clock_timestamp())')} limit ${AT_ONCE}))`;

/** Deletes all such rows, some at a time. The time is read once per statement: only a constant bounds an index. */
export async function forget(pool: Pool, table: string, condition: string): Promise<void> {
  while ((await pool.query(FORGET(table, condition))).rowCount === AT_ONCE);
}
