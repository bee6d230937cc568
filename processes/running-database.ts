// The ledger's database for commands beside a running Abide: the one that abide.yaml names, or the embedded server that
// runs in the data folder.
import { loadConfiguration } from '../config/configuration.ts';
import type { Configuration } from '../config/configuration.ts';
import { dataFolderOf } from '../config/data-folder.ts';
import type { Caller } from '../ledger/contract/audit.ts';
import { isUnavailable, openPool, sayUnable } from '../ledger/database.ts';
import type { Pool } from '../ledger/database.ts';
import { matchKeyRing, rotateKeyOfRing } from '../ledger/key-ring.ts';
import { replacePepper } from '../ledger/replace-pepper.ts';
import type { PepperReplaced } from '../ledger/replace-pepper.ts';
import type { KeyRing, RotatedPurpose } from '../ledger/key-ring.ts';
import type { Instant } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import { findEmbeddedPostgres } from './embedded-postgres.ts';
import { keysFile, readKeysOf, replaceFile } from './kept-file.ts';
import { loadConnector } from './load-connector.ts';
import { quietLog } from './log.ts';
import { urlsOf } from './open-database.ts';
import type { DatabaseUrls } from './open-database.ts';

type Env = Readonly<Record<string, string | undefined>>;

const notRunning = (where: string, cause?: unknown): AbideError =>
  new AbideError(
    'DATABASE_UNREACHABLE',
    sayUnable(where, cause) ?? `No Abide runs here: its database (${where}) does not answer.`,
    { cause },
  );

/** The configuration as the running Abide reads it; the embedded default's store is where the running server listens. */
export async function readConfiguration(env: Env): Promise<Configuration> {
  return await loadConfiguration({
    env,
    loadConnector,
    embeddedStoreUrl: async () => {
      const url = new URL((await findServer(env)).urls.owner);
      url.pathname = '/crm';
      return url.href;
    },
  });
}

async function findServer(env: Env): Promise<{ readonly urls: DatabaseUrls }> {
  const folder = dataFolderOf(env);
  const embedded = await findEmbeddedPostgres(folder);
  if (embedded === undefined) throw notRunning(`of the data folder ${folder}`);
  return embedded;
}

/** Where the database is; undefined roles fall back as they do for the running Abide. */
export const findDatabase = async (configuration: Configuration, env: Env): Promise<DatabaseUrls> =>
  urlsOf(configuration, quietLog) ?? (await findServer(env)).urls;

/** Runs work on the ledger, as the API's role unless told otherwise. Throws DATABASE_UNREACHABLE if nothing answers. */
export async function withLedgerDatabase<T>(
  env: Env,
  work: (pool: Pool) => Promise<T>,
  role: 'api' | 'owner' = 'api',
): Promise<T> {
  const { [role]: url } = await findDatabase(await readConfiguration(env), env);
  const pool = openPool(url, { max: 2, onError: () => undefined, name: 'abide cli' });
  try {
    return await work(pool);
  } catch (error) {
    throw isUnavailable(error) ? notRunning(new URL(url).host, error) : error;
  } finally {
    await pool.end();
  }
}

/** The ring's text, from ABIDE_KEYS or the data folder; undefined if there is none. */
export const readRing = (env: Env): string | undefined => env['ABIDE_KEYS'] || readKeysOf(dataFolderOf(env));

/**
 * The same with the key ring from ABIDE_KEYS or the data folder: for what only its owner may do. Also throws KEYS_MISSING if the
 * ring is not here or is another database's.
 */
export const withLedger = <T>(env: Env, work: (pool: Pool, ring: KeyRing) => Promise<T>): Promise<T> =>
  withLedgerDatabase(env, async (pool) => {
    const ring = await matchKeyRing(pool, { read: () => readRing(env) });
    return await work(pool, ring);
  });

/** The ring as a command changes it: its file is replaced, and `keep` says so; one that came by ABIDE_KEYS is only given back. */
function ringToChange(env: Env) {
  const file = env['ABIDE_KEYS'] ? undefined : keysFile(dataFolderOf(env));
  let kept = '';
  return {
    file,
    keep: (text: string): boolean => {
      kept = text;
      if (file !== undefined) replaceFile(file, text);
      return file !== undefined;
    },
    kept: (): string => kept,
  };
}

/**
 * Adds a key to this installation's ring (ledger/key-ring.ts). If the ring is a file, the file is replaced and named; a ring that
 * came by ABIDE_KEYS is only returned. Throws as withLedger does.
 */
export const rotateRing = (
  env: Env,
  how: { purpose: RotatedPurpose; useFrom: Instant; caller: Caller },
): Promise<{ id: number; ring: string; file: string | undefined }> =>
  withLedger(env, async (pool) => {
    const { file, keep, kept } = ringToChange(env);
    const id = await rotateKeyOfRing(pool, { ...how, read: () => readRing(env)!, keep });
    return { id, ring: kept(), file };
  });

/**
 * Replaces the pepper of this installation (ledger/replace-pepper.ts). A ring that came by ABIDE_KEYS is only returned when a pepper is
 * added: it must be given back first. Throws as replacePepper and withLedgerDatabase do.
 */
export async function rotatePepper(
  env: Env,
  how: { caller: Caller; onSeen: (people: number) => void; signal: AbortSignal },
): Promise<{ ring: string } | { replaced: PepperReplaced; file: string | undefined }> {
  const { file, keep, kept } = ringToChange(env);
  const replaced = await withLedgerDatabase(
    env,
    (owner) => replacePepper(owner, { read: () => readRing(env), keep, ...how }),
    'owner',
  );
  return replaced === undefined ? { ring: kept() } : { replaced, file };
}
