import type { Pool } from '../../ledger/database.ts';
import type { RegisteredStore } from '../../ledger/stores.ts';
import { LAG_OF_STORE } from '../../ledger/propagation-lag.ts';

/** How many buffers the lag's statement touches for one store: a measure that a busy machine does not change. */
export async function explainLag(pool: Pool, { name }: RegisteredStore): Promise<number> {
  const { rows: heads } = await pool.query(
    'select id, generation, accepts, due_exact, due_channels, scanned_through from stores where name = $1',
    [name],
  );
  const { rows } = await pool.query(
    `explain (analyze, buffers, format json) ${LAG_OF_STORE}`,
    Object.values(heads[0]),
  );
  const plan = rows[0]['QUERY PLAN'][0].Plan;
  return (plan['Shared Hit Blocks'] as number) + (plan['Shared Read Blocks'] as number);
}
