// Files that nobody can make again: the content is on disk before anything relies on it, as a decision is before it is answered.
// Otherwise a loss of power in the seconds after a first start leaves the database, and an empty key ring.
import {
  chownSync,
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { AbideError } from '../suppression/errors.ts';

export const keysFile = (dataFolder: string): string => join(dataFolder, 'keys.json');
export const adminKeyFile = (dataFolder: string): string => join(dataFolder, 'admin.key');

/** A ring that was made and that no database is known to have taken: a start that ends before that may begin again. */
const untakenKeysFile = (dataFolder: string): string => `${keysFile(dataFolder)}.new`;

/** The text of the ring that is kept in a data folder; undefined if there is none. */
export function readKeysOf(dataFolder: string): string | undefined {
  // In this order: another process may be renaming it.
  const untaken = readIfThere(untakenKeysFile(dataFolder));
  return readIfThere(keysFile(dataFolder)) ?? untaken;
}

export const keepNewKeys = (dataFolder: string, text: string): void => {
  makeFile(untakenKeysFile(dataFolder), text);
};

/** The database has taken the ring that is kept: from here on it is that of a ledger. */
export function keysAreTaken(dataFolder: string): void {
  if (existsSync(keysFile(dataFolder))) return;
  try {
    renameSync(untakenKeysFile(dataFolder), keysFile(dataFolder));
  } catch (error) {
    // Another process did it, which started at the same moment.
    if (!isMissing(error)) throw error;
  }
  syncFolder(dataFolder);
}

/** The files of a data folder that only a start on a ledger leaves. */
export const keysOfLedger = (dataFolder: string): string[] =>
  [keysFile(dataFolder), adminKeyFile(dataFolder)].filter((file) => existsSync(file));

/** Whoever has the keys of a ledger gets no new one: that would know of no opt-out, and answer every check with "send". */
export const ledgerMissing = (why: string, keys: readonly string[], anew: string): AbideError =>
  new AbideError(
    'LEDGER_MISSING',
    `${why}, but there are the keys of a ledger (${keys.join(', ')}). A new one would know of no opt-out, and answer every check with "send". Restore the ledger; or, to begin anew, ${anew}.`,
  );

const isMissing = (error: unknown): boolean => (error as NodeJS.ErrnoException).code === 'ENOENT';

function readIfThere(file: string): string | undefined {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Makes a file that only we can read, and that is there whole or not at all. Throws EEXIST if there is one. */
export function makeFile(file: string, text: string): void {
  write(file, text, (fresh) => {
    linkSync(fresh, file);
    rmSync(fresh);
  });
}

/** Replaces a file: whatever happens, either the old one or the new one is there, and its owner stays. */
export function replaceFile(file: string, text: string): void {
  const { uid, gid } = statSync(file);
  write(file, text, (fresh) => {
    chownSync(fresh, uid, gid);
    renameSync(fresh, file);
  });
}

/** Makes what was created, renamed or removed in a folder survive a loss of power as well. */
export function syncFolder(folder: string): void {
  const descriptor = openSync(folder, 'r');
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}

function write(file: string, text: string, name: (fresh: string) => void): void {
  const fresh = `${file}.${process.pid}`;
  try {
    const descriptor = openSync(fresh, 'w', 0o600);
    try {
      writeFileSync(descriptor, text);
      fsyncSync(descriptor);
    } finally {
      closeSync(descriptor);
    }
    name(fresh);
  } catch (error) {
    rmSync(fresh, { force: true });
    throw error;
  }
  syncFolder(dirname(file));
}
