// For a ledger that went back in time. What it gave out after the moment of its backup is still around: in the stores, and as
// records of the topic. None of it may be taken for what is decided from here on.
import { audit } from './audit.ts';
import type { Caller } from './contract/audit.ts';
import { inTransaction } from './database.ts';
import type { Pool } from './database.ts';
import { takeFence } from './fence.ts';
import { listStores, newGeneration } from './stores.ts';

/** More than can have been decided since the backup; one partition of acknowledgements. */
const SKIPPED = 10_000_000;

/**
 * To be called once, as the owner, before clients are let in again. Sequence numbers go on far above those of the lost decisions,
 * so that no acknowledgement of a lost one settles a new one. Every store begins a new generation, since what it had acknowledged
 * is no longer known. And no earlier consent lifts anything in a store without versions, which may suppress it because of a lost
 * opt-out.
 */
export async function ledgerRestored(
  owner: Pool,
  caller: Caller,
): Promise<{ readonly from: number; readonly stores: readonly string[] }> {
  const { rows } = await owner.query<{ from: number }>(
    `select setval('decisions_seq_seq', (select last_value from decisions_seq_seq) + ${SKIPPED}) as from`,
  );
  const { from } = rows[0]!;
  await owner.query('select make_acknowledgement_partitions($1)', [from]);
  const fence = await takeFence(owner);
  return await inTransaction(owner, async (client) => {
    await client.query("select pg_advisory_xact_lock(hashtext('abide.stores'))");
    const stores = (await listStores(client)).filter(({ retiredAt }) => retiredAt === undefined);
    for (const { name } of stores)
      await newGeneration(client, name, fence, 'the ledger was restored', caller, { isAnother: true });
    await audit(client, caller, 'ledger.restored', undefined, { from });
    return { from, stores: stores.map(({ name }) => name) };
  });
}
