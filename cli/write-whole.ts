import { accessSync, constants, createWriteStream, existsSync } from 'node:fs';
import { rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Writable } from 'node:stream';

/** Throws if something of this name exists, or nothing can be put there: the writing often comes only after an hour. */
export function expectNothingAt(name: string): void {
  if (existsSync(name)) throw new Error(`${name} exists already.`);
  try {
    accessSync(dirname(name), constants.W_OK);
  } catch (cause) {
    throw new Error(`${name} cannot be written: its folder does not exist, or you may not write to it.`, {
      cause,
    });
  }
}

/**
 * Writes under another name until it is whole, since half a list would be taken for all of it; never over an existing file, which
 * others might be able to read.
 */
export async function writeWhole(name: string, send: (to: Writable) => Promise<void>): Promise<void> {
  expectNothingAt(name);
  const part = `${name}.part`;
  await rm(part, { force: true });
  try {
    await send(createWriteStream(part, { mode: 0o600, flags: 'wx' }));
    await rename(part, name);
  } catch (error) {
    await rm(part, { force: true });
    throw error;
  }
}
