// Files that nobody can make again: what stands in one is on disk before anything rests on it, as a decision is before it is
// answered. Else a loss of power in the seconds after a first start leaves the database, and an empty key ring.
import {
  chownSync,
  closeSync,
  fsyncSync,
  linkSync,
  openSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { dirname } from 'node:path';

/** A new file, readable by us alone, there whole or not at all. Throws EEXIST where there is one. */
export function makeFile(file: string, text: string): void {
  write(file, text, (fresh) => {
    linkSync(fresh, file);
    rmSync(fresh);
  });
}

/** Another one in the place of a file: there is the old one or the new one, whatever happens, and it is whose it was. */
export function replaceFile(file: string, text: string): void {
  const { uid, gid } = statSync(file);
  write(file, text, (fresh) => {
    chownSync(fresh, uid, gid);
    renameSync(fresh, file);
  });
}

/** What was made, named otherwise or removed in a folder is so after a loss of power as well. */
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
