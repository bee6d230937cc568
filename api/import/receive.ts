// Receives a file: counts its rows, keeps it sealed piece by piece, and learns its digest, all in one reading. No more of the file
// than a piece is ever held.
import { createHash } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { FILE_BYTES_MAX } from '../../ledger/contract/imports.ts';
import type { Import, NewImport } from '../../ledger/contract/imports.ts';
import type { Ledger } from '../../ledger/contract/ledger.ts';
import { AbideError } from '../../suppression/errors.ts';
import { readFile } from './read-file.ts';

const PIECE_BYTES = 256 * 1024;

export const fileTooLarge = (): AbideError =>
  new AbideError('too-large', `A file may have at most ${FILE_BYTES_MAX / 1024 ** 3} GiB.`);

/** Throws AbideError: malformed-file, invalid-value (columns), too-large, budget-exhausted, and what the ledger throws. */
export async function receiveFile(
  body: IncomingMessage,
  of: NewImport,
  {
    ledger: { imports, spend },
    approveAbove,
  }: { ledger: Pick<Ledger, 'imports' | 'spend'>; approveAbove: number },
): Promise<{ readonly import: Import; readonly isNew: boolean }> {
  const id = await imports.begin(of);
  const hash = createHash('sha256');
  let bytes = 0;
  let pieces = 0;
  let held: Buffer[] = [];
  let heldBytes = 0;

  async function keep(): Promise<void> {
    const piece = Buffer.concat(held, heldBytes);
    [held, heldBytes] = [[], 0];
    await imports.keep(id, pieces, piece);
    pieces += 1;
  }

  async function* kept(): AsyncGenerator<Buffer> {
    // Leaving the loop early must not end the connection, and with it the answer that says why.
    for await (const some of body.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      bytes += some.length;
      if (bytes > FILE_BYTES_MAX) throw fileTooLarge();
      hash.update(some);
      held.push(some);
      heldBytes += some.length;
      if (heldBytes >= PIECE_BYTES) await keep();
      yield some;
    }
    if (heldBytes > 0) await keep();
  }

  try {
    let rows = 0;
    for await (const { row } of readFile(of.format, kept(), { scopes: of.defaults.scopes === undefined }))
      rows = row;
    if (!body.complete) throw new AbideError('invalid-request', 'The connection ended before the body did.');
    // What a dry run would change tells who opted out, as a check does.
    if (of.dryRun) await spend(of.caller, 'check', rows);
    return await imports.submit(id, { sha256: hash.digest(), bytes, rows, approveAbove });
  } catch (error) {
    await imports.abandon(id).catch(() => undefined);
    if (!body.complete && body.destroyed)
      throw new AbideError('invalid-request', 'The connection ended before the body did.', { cause: error });
    throw error;
  }
}
