import type { Pool, Queryable } from '../../ledger/database.ts';
import { REPORTED, SETTLE } from '../../ledger/acknowledge.ts';
import { toParameter } from '../../ledger/rows.ts';
import type { RowOf } from '../../ledger/rows.ts';
import { LIVE, RETRIES } from '../../ledger/outstanding.ts';
import { LAG_OF_STORE } from '../../ledger/propagation-lag.ts';
import type { RegisteredStore } from '../../ledger/stores.ts';

/** How many buffers a statement touches: a measure that a busy machine does not change. */
export async function buffersOf(
  db: Queryable,
  statement: string,
  values: readonly unknown[],
): Promise<number> {
  const { rows } = await db.query(`explain (analyze, buffers, format json) ${statement}`, [...values]);
  const plan = rows[0]['QUERY PLAN'][0].Plan;
  return (plan['Shared Hit Blocks'] as number) + (plan['Shared Read Blocks'] as number);
}

async function headOf(pool: Pool, { name }: RegisteredStore): Promise<readonly unknown[]> {
  const { rows } = await pool.query(
    'select id, generation, accepts, due_exact, due_channels, scanned_through from stores where name = $1',
    [name],
  );
  return Object.values(rows[0] as object);
}

export const explainLag = async (pool: Pool, store: RegisteredStore): Promise<number> =>
  buffersOf(pool, LAG_OF_STORE, await headOf(pool, store));

/** The buffers of a page of this many live decisions. */
export const explainPage = async (pool: Pool, store: RegisteredStore, limit: number): Promise<number> =>
  buffersOf(pool, LIVE, [...(await headOf(pool, store)), limit]);

type Plan = { readonly Plans?: readonly Plan[] } & Readonly<Record<string, unknown>>;

/** How many rows, or pairs of rows, a plan looked at in vain. */
const inVain = (plan: Plan): number =>
  Number(plan['Rows Removed by Join Filter'] ?? 0) * Number(plan['Actual Loops'] ?? 1) +
  Number(plan['Rows Removed by Filter'] ?? 0) * Number(plan['Actual Loops'] ?? 1) +
  (plan.Plans ?? []).reduce((sum, below) => sum + inVain(below), 0);

/** Settles, and gives how many pairs of rows it looked at in vain: a measure that a busy machine does not change. */
export async function explainSettle(
  pool: Pool,
  acknowledgements: readonly RowOf<typeof REPORTED>[],
): Promise<number> {
  const { rows } = await pool.query(`explain (analyze, format json) ${SETTLE}`, [
    toParameter(REPORTED, acknowledgements),
  ]);
  return inVain(rows[0]['QUERY PLAN'][0].Plan as Plan);
}

type Value = string | number | null | readonly (string | number)[];

const literal = (value: Value): string =>
  value === null ? 'null' : `'${typeof value === 'object' ? `{${value.join(',')}}` : value}'`;

/** The buffers of a page of what is to be tried again, prepared as in watchInVain. */
export async function explainRetries(pool: Pool, store: RegisteredStore): Promise<number> {
  const client = await pool.connect();
  try {
    await client.query(`prepare retries as ${RETRIES}`);
    const values = [...(await headOf(pool, store)).slice(0, 5), 100] as Value[];
    const touched = await buffersOf(client, `execute retries (${values.map(literal).join(', ')})`, []);
    await client.query('deallocate retries');
    return touched;
  } finally {
    client.release();
  }
}

/**
 * A pool that remembers the queries that ran through it, and how many rows the one that did worst looked at in vain. They are
 * prepared: EXPLAIN itself plans with the values, and ours are planned without them (`plan_cache_mode`).
 */
export function watchInVain(pool: Pool): { pool: Pool; most(): Promise<number> } {
  type Ran = { readonly text: string; readonly values: readonly Value[] };
  const ran: Ran[] = [];
  const query = (statement: string | Ran, ...more: Value[][]): unknown => {
    const { text, values } = typeof statement === 'string' ? { text: statement, values: more[0] } : statement;
    if (/^\s*select/.test(text) && values !== undefined) ran.push({ text, values });
    return Reflect.apply(pool.query, pool, [statement, ...more]);
  };
  return {
    pool: new Proxy(pool, {
      get: (target, name): unknown => (name === 'query' ? query : Reflect.get(target, name, target)),
    }),
    most: async () => {
      const client = await pool.connect();
      try {
        let most = 0;
        for (const { text, values } of ran.splice(0)) {
          await client.query(`prepare watched as ${text}`);
          const execute = `execute watched (${values.map(literal).join(', ')})`;
          const { rows } = await client.query(`explain (analyze, format json) ${execute}`);
          most = Math.max(most, inVain(rows[0]['QUERY PLAN'][0].Plan as Plan));
          await client.query('deallocate watched');
        }
        return most;
      } finally {
        client.release();
      }
    },
  };
}
