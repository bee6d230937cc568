import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import pg from 'pg';
import { endSlotReader } from '../../ledger/end-slot-reader.ts';
import { dropLostSlot } from '../../ledger/lost-slot.ts';
import { startEmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import { quietLog } from '../../processes/log.ts';
import { withClient } from '../harness/database.ts';
import { eventually } from '../harness/eventually.ts';
import { putClusterInto } from '../harness/postgres-of-the-run.ts';

// Debezium waited half an hour at a time for such a slot, and the stream was down until somebody dropped it.
test('a slot that the server gave up is dropped, one that it keeps is not', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'abide-slot-'));
  await chmod(folder, 0o711);
  await putClusterInto(folder);
  const { urls, superuserUrl, stop } = await startEmbeddedPostgres({
    dataFolder: folder,
    log: quietLog,
    settings: { fsync: 'off', max_slot_wal_keep_size: '1MB', max_wal_size: '32MB' },
  });
  try {
    await withClient(urls.api, async (api) => {
      await withClient(urls.replication, (client) =>
        client.query("select pg_create_logical_replication_slot('theirs', 'pgoutput')"),
      );
      expect(await dropLostSlot(api, urls.replication, 'theirs')).toBe(false);

      // Seen: a task of Connect's that hung, and was given up by it, kept the slot from every one that was started after it.
      const replicating = { connectionString: urls.replication, replication: 'database' };
      const hung = new pg.Client(replicating);
      hung.on('error', () => undefined);
      await hung.connect();
      const reading = hung.query(
        "START_REPLICATION SLOT theirs LOGICAL 0/0 (proto_version '1', publication_names 'abide')",
      );
      const ended = expect(reading).rejects.toThrow('administrator');
      await eventually(async () => {
        if (!(await endSlotReader(urls.replication, 'theirs'))) throw new Error('nobody reads the slot');
      });
      await ended;
      expect(await endSlotReader(urls.replication, 'another')).toBe(false);

      await withClient(superuserUrl, async (client) => {
        for (let n = 0; n < 4; n += 1) {
          await client.query('create table written (); drop table written');
          await client.query('select pg_switch_wal()');
        }
        await client.query('checkpoint');
      });
      expect(await dropLostSlot(api, urls.replication, 'another')).toBe(false);
      expect(await dropLostSlot(api, urls.replication, 'theirs')).toBe(true);
      expect(await dropLostSlot(api, urls.replication, 'theirs')).toBe(false);
    });
  } finally {
    await stop();
    await rm(folder, { recursive: true });
  }
});
