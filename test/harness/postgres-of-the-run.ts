// One PostgreSQL for the whole run, in a temporary folder; suites get databases of their own in it.
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { migrate } from '../../ledger/migrate.ts';
import { startEmbeddedPostgres } from '../../processes/embedded-postgres.ts';

/** Where the workers of the run find it; set to `none` where the run has no suite that needs it. */
export const FOLDER = 'ABIDE_TEST_POSTGRES';
export const TEMPLATE = 'abide_template';
export const ROLES = { apiRole: 'abide_api', replicationRole: 'abide_replication' } as const;

/** Starts it and makes the migrated template. */
export async function startPostgresOfTheRun(): Promise<{ folder: string; stop(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'abide-test-'));
  // As root the server runs as another user, who must get in.
  await chmod(folder, 0o711);
  const silent = (): void => undefined;
  const postgres = await startEmbeddedPostgres({
    dataFolder: folder,
    log: { info: silent, warn: silent, error: silent },
    // Nothing here outlives the run, and a commit need not wait for the disk. A killed server still loses nothing:
    // only a power cut would.
    settings: { fsync: 'off', full_page_writes: 'off', max_connections: '400' },
  });
  await migrate(await postgres.createDatabase(TEMPLATE), ROLES);
  return {
    folder,
    stop: async () => {
      await postgres.stop();
      await rm(folder, { recursive: true });
    },
  };
}
