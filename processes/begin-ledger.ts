// `abide ledger init`: begins a ledger in an empty database. A start does not do so where a key ring is given, since it cannot tell a
// new database from one whose contents are lost.
import { mkdirSync } from 'node:fs';
import { loadConfiguration } from '../config/configuration.ts';
import { dataFolderOf } from '../config/data-folder.ts';
import { AbideError } from '../suppression/errors.ts';
import { isLoopback, lackingSecrets } from './given-secrets.ts';
import { loadConnector } from './load-connector.ts';
import { quietLog } from './log.ts';
import { openDatabase, urlsOf } from './open-database.ts';

const embedded = (): AbideError =>
  new AbideError(
    'CONFIG_INVALID',
    'abide.yaml names no database: the embedded one begins by itself, at the first start.',
  );

/** Undefined: there is a ledger already, of this key ring. Otherwise where one was begun. Throws as openDatabase does. */
export async function beginLedger(
  env: Readonly<Record<string, string | undefined>>,
): Promise<string | undefined> {
  const configuration = await loadConfiguration({
    env,
    loadConnector,
    embeddedStoreUrl: () => {
      throw embedded();
    },
  });
  const urls = urlsOf(configuration, quietLog);
  if (urls === undefined) throw embedded();
  const dataFolder = dataFolderOf(env);
  const lacking = lackingSecrets(configuration, dataFolder, env);
  if (lacking !== undefined) throw new Error(lacking);
  const mayMakeSecrets = isLoopback(configuration.listen.host);
  if (mayMakeSecrets) mkdirSync(dataFolder, { recursive: true });
  const { pool, isNew } = await openDatabase({
    urls,
    whose: 'new',
    dataFolder,
    env,
    mayMakeSecrets,
    log: quietLog,
  });
  await pool.end();
  const { host, pathname } = new URL(urls.api);
  return isNew ? `${host}${pathname}` : undefined;
}
