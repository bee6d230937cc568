// The file that `abide import` sends: opened anew for each try, and not sent at all if it changes meanwhile.
import { createReadStream } from 'node:fs';
import type { Stats } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import type { FileSource } from '../client/client.ts';
import { FILE_BYTES_MAX } from '../ledger/contract/imports.ts';
import { sayBytes } from './progress.ts';

const PIECE_BYTES = 256 * 1024;

export type ImportSource = {
  /** For people. */
  readonly name: string;
  /** Undefined: a pipe. */
  readonly bytes: number | undefined;
  readonly file: FileSource;
  /** How much has gone so far, in this try. */
  readonly sent: () => number;
  /** Once all of it has gone it may have arrived, whatever comes after. */
  readonly isAllSent: () => boolean;
};

const WHY: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  EISDIR: 'it is a folder',
  EACCES: 'you may not read it',
  EPERM: 'you may not read it',
};

const unreadable =
  (name: string) =>
  (cause: NodeJS.ErrnoException): never => {
    throw new Error(`${name} cannot be read: ${WHY[cause.code ?? ''] ?? 'its disk failed'}.`, { cause });
  };

/** Throws, in words, what is wrong with the file. `-` is standard input, which can be read once. */
export async function openImportSource(name: string): Promise<ImportSource> {
  let sent = 0;
  let isAllSent = false;
  const progress = { sent: () => sent, isAllSent: () => isAllSent };
  async function* counted(pieces: AsyncIterable<Buffer>): AsyncGenerator<Uint8Array> {
    try {
      for await (const piece of pieces) {
        sent += piece.length;
        yield piece;
      }
    } catch (error) {
      unreadable(name)(error as NodeJS.ErrnoException);
    }
  }

  async function* once(): AsyncGenerator<Uint8Array> {
    yield* counted(name === '-' ? process.stdin : createReadStream(name));
    isAllSent = true;
  }
  if (name === '-') return { name: 'standard input', bytes: undefined, file: once(), ...progress };

  const first = await stat(name).catch(unreadable(name));
  if (first.isDirectory()) throw new Error(`${name} cannot be read: it is a folder.`);
  if (!first.isFile()) return { name, bytes: undefined, file: once(), ...progress };
  if (first.size > FILE_BYTES_MAX)
    throw new Error(
      `${name} has ${sayBytes(first.size)}, and a file may have ${FILE_BYTES_MAX / 1024 ** 3} GiB: split it, each part with the header.`,
    );
  await (await open(name).catch(unreadable(name))).close();

  const isSame = ({ size, mtimeMs }: Stats): boolean => size === first.size && mtimeMs === first.mtimeMs;
  async function* pieces(): AsyncGenerator<Uint8Array> {
    sent = 0;
    await using handle = await open(name).catch(unreadable(name));
    yield* counted(
      handle.createReadStream({ autoClose: false, highWaterMark: PIECE_BYTES }) as AsyncIterable<Buffer>,
    );
    // Checked before the end of the file is sent: the server keeps nothing of a file without an end.
    if (sent !== first.size || !isSame(await handle.stat()))
      throw new Error(
        `${name} changed while it was sent, and nothing was recorded: is it still being written? Send it again once it is whole.`,
      );
    isAllSent = true;
  }
  return { name, bytes: first.size, file: pieces, ...progress };
}
