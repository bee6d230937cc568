import { accessSync, constants, statfsSync } from 'node:fs';
import { freemem } from 'node:os';

const MEMORY = '/dev/shm';
/** Files that run one after another used up to 1.4 GB; CI runs three at a time. */
const ROOM = 8 * 2 ** 30;

/**
 * From here on `tmpdir()`, of this process and of what it starts, is in memory if there is plenty of it. A database is 300 files and
 * a data folder 1,300, and a disk may take a millisecond of the processor for each; nothing here has to outlive a power cut.
 */
export function keepTemporaryFilesInMemory(): void {
  if (process.env['TMPDIR'] !== undefined || freemem() < ROOM) return;
  try {
    accessSync(MEMORY, constants.W_OK);
    const { bavail, bsize } = statfsSync(MEMORY);
    if (bavail * bsize >= ROOM) process.env['TMPDIR'] = MEMORY;
  } catch {
    // Only Linux has it.
  }
}
