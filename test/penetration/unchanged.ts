// What an attack must leave as it was.
import type { TestLedger } from '../harness/ledger.ts';

const TABLES = [
  'subjects',
  'opt_outs',
  'decisions',
  'idempotency_keys',
  'acknowledgements',
  'audit_log',
] as const;

/** How many rows the ledger has of everything that a client or a worker can add to. */
export async function countRows({ pool }: Pick<TestLedger, 'pool'>): Promise<Record<string, number>> {
  const columns = TABLES.map((table) => `(select count(*) from ${table})::int as ${table}`);
  const { rows } = await pool.query<Record<string, number>>(`select ${columns.join(', ')}`);
  return rows[0]!;
}
