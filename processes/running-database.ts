// The ledger's database for commands beside a running Abide: the one that abide.yaml names, or the embedded server that
// runs in the data folder.
import { loadConfiguration } from '../config/configuration.ts';
import type { Configuration } from '../config/configuration.ts';
import { dataFolderOf } from '../config/data-folder.ts';
import type { Log } from '../connectors/contract/connector.ts';
import { isUnavailable, openPool } from '../ledger/database.ts';
import type { Pool } from '../ledger/database.ts';
import { AbideError } from '../suppression/errors.ts';
import { findEmbeddedPostgres } from './embedded-postgres.ts';
import { loadConnector } from './load-connector.ts';
import { urlsOf } from './open-database.ts';
import type { DatabaseUrls } from './open-database.ts';

const silent: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};

const notRunning = (cause?: unknown): AbideError =>
  new AbideError(
    'DATABASE_UNREACHABLE',
    'The database of this Abide does not answer: is `npm start` running?',
    {
      cause,
    },
  );

/** The configuration as the running Abide reads it; the embedded default's store is found where that server listens. */
export async function readConfiguration(configPath?: string): Promise<Configuration> {
  return await loadConfiguration({
    path: configPath,
    env: process.env,
    loadConnector,
    embeddedStoreUrl: async () => {
      const embedded = await findEmbeddedPostgres(dataFolderOf(process.env));
      if (embedded === undefined) throw notRunning();
      const url = new URL(embedded.urls.owner);
      url.pathname = '/crm';
      return url.href;
    },
  });
}

/** Where the database is; undefined roles fall back as they do for the running Abide. */
export async function findDatabase(configuration: Configuration): Promise<DatabaseUrls> {
  const urls = urlsOf(configuration, silent) ?? (await findEmbeddedPostgres(dataFolderOf(process.env)))?.urls;
  if (urls === undefined) throw notRunning();
  return urls;
}

/** Runs work on the ledger as the API's role. Throws DATABASE_UNREACHABLE where nothing answers. */
export async function withLedgerDatabase<T>(work: (pool: Pool) => Promise<T>): Promise<T> {
  const urls = await findDatabase(await readConfiguration());
  const pool = openPool(urls.api, { max: 2, onError: () => undefined, name: 'abide cli' });
  try {
    return await work(pool);
  } catch (error) {
    throw isUnavailable(error) ? notRunning(error) : error;
  } finally {
    await pool.end();
  }
}
