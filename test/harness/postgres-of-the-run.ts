// One PostgreSQL for the whole run, in a temporary folder; suites get databases of their own in it. Beside it lies a cluster
// that nobody has used, for servers of a test's own.
import { execFile } from 'node:child_process';
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { migrate } from '../../ledger/migrate.ts';
import { startEmbeddedPostgres } from '../../processes/embedded-postgres.ts';
import { freePort } from './free-port.ts';

/** Where the workers of the run find it; `none` if the run has no suite that needs it. */
export const FOLDER = 'ABIDE_TEST_POSTGRES';
export const TEMPLATE = 'abide_template';
export const ROLES = { apiRole: 'abide_api', replicationRole: 'abide_replication' } as const;

const UNUSED = 'unused';
const silent = (): void => undefined;
const quiet = { info: silent, warn: silent, error: silent };

/** Starts it and makes the migrated template. */
export async function startPostgresOfTheRun(): Promise<{ folder: string; stop(): Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'abide-test-'));
  // As root the server runs as another user, which must get in.
  await chmod(folder, 0o711);
  const unused = join(folder, UNUSED);
  await (await startEmbeddedPostgres({ dataFolder: unused, log: quiet })).stop();
  await copyCluster(unused, folder);
  const postgres = await startEmbeddedPostgres({
    dataFolder: folder,
    log: quiet,
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

/**
 * Leaves the folder as a first start does that was stopped again: a test that is not about the first start need not wait a second
 * or two for PostgreSQL's. Does nothing if the run has no server.
 */
export async function putClusterInto(dataFolder: string): Promise<void> {
  const folder = process.env[FOLDER];
  if (folder !== undefined && folder !== 'none') await copyCluster(join(folder, UNUSED), dataFolder);
}

async function copyCluster(from: string, to: string): Promise<void> {
  // The copy keeps its owner: as root, the server runs as another user.
  await promisify(execFile)('cp', ['-a', join(from, 'postgres'), join(from, 'postgres.json'), to]);
  const kept = join(to, 'postgres.json');
  const settings = JSON.parse(await readFile(kept, 'utf8')) as object;
  await writeFile(kept, JSON.stringify({ ...settings, port: await freePort() }));
}
