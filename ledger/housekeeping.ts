// What the ledger keeps for a while only, and for how long; and what must be there before it is needed.
import type { Imports } from './contract/imports.ts';
import type { Pool, Queryable } from './database.ts';
import { forget, forgetOldExceptions } from './forget.ts';
import { tidyImports } from './imports.ts';
import { USAGE_DAYS_KEPT } from './usage.ts';

/** Acknowledgements are recorded in partitions, by sequence number: those of the next decisions are made ahead. */
export async function makePartitions(db: Queryable): Promise<void> {
  await db.query('select make_acknowledgement_partitions(last_value) from decisions_seq_seq');
}

/** `renewTransportKeys` is part of it. A failure leaves the rest to be done, and the first one is thrown. */
export function createHousekeeping(
  pool: Pool,
  {
    imports,
    renewTransportKeys,
  }: {
    readonly imports: Pick<Imports, 'abandon'>;
    readonly renewTransportKeys: () => Promise<void>;
  },
): () => Promise<void> {
  const housework: readonly (() => Promise<void>)[] = [
    renewTransportKeys,
    () => makePartitions(pool),
    () => forgetOldExceptions(pool),
    () => forget(pool, 'idempotency_keys', "created_at < %s - interval '30 days'"),
    () => forget(pool, 'latency_buckets', "minute < %s - interval '1 day'"),
    () => forget(pool, 'reconciliations', "finished_at < %s - interval '90 days'"),
    () => forget(pool, 'api_usage', `day < (%s at time zone 'UTC')::date - ${USAGE_DAYS_KEPT}`),
    () => forget(pool, 'budget_usage', "day < %s - interval '90 days'"),
    () => tidyImports(pool, imports),
    () => forget(pool, 'workers', "last_seen_at < %s - interval '1 day'"),
  ];
  return async () => {
    const failures: unknown[] = [];
    for (const work of housework) await work().catch((error: unknown) => failures.push(error));
    if (failures.length > 0) throw failures[0] as Error;
  };
}
