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

// What was outstanding in a generation was carried over when the next one began (stores.ts, newGeneration). A store's newest one stays,
// also if it is retired: without its exceptions all would seem to be confirmed there.
const FORGET_OLD_EXCEPTIONS = `
  delete from exceptions where ctid = any (array(
    select e.ctid from stores s
    cross join lateral (
      select e.ctid from exceptions e where e.store_id = s.id and e.generation < s.generation limit ${AT_ONCE}) e
    limit ${AT_ONCE}))`;

/** Deletes the exceptions of generations that are over, some at a time. */
export async function forgetOldExceptions(pool: Pool): Promise<void> {
  while ((await pool.query(FORGET_OLD_EXCEPTIONS)).rowCount === AT_ONCE);
}
