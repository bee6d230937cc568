// The sealed envelope: 0x01 ‖ key id (uint32, big-endian) ‖ nonce (12) ‖ ciphertext ‖ tag (16), AES-256-GCM.
// The associated data binds an envelope to its row and column, so that it opens nowhere else.
import { createCipheriv, createDecipheriv, randomFillSync } from 'node:crypto';
import { AbideError } from './errors.ts';

const FORMAT = 1;
const HEADER = 1 + 4;
const NONCE = 12;
const TAG = 16;

export type SealingKey = { readonly id: number; readonly secret: Buffer };

// Nonces are random; drawing them from a pool saves a system call per envelope. 2^32 envelopes per key keep the chance of a
// repeated nonce below 2^-32 (NIST SP 800-38D, 8.3): transport keys change weekly, storage keys on rotation.
const pool = Buffer.alloc(NONCE * 512);
let poolAt = pool.length;

/** Valid until the next one is drawn. */
function nextNonce(): Buffer {
  if (poolAt === pool.length) {
    randomFillSync(pool);
    poolAt = 0;
  }
  return pool.subarray(poolAt, (poolAt += NONCE));
}

/** `row` and `column` are the associated data: subject id and kind, or opt-out id and column. */
export type SealContext = readonly [row: string, column: string];

const associated = ([row, column]: SealContext): Buffer => Buffer.from(`${row}\0${column}`);

/** Text is sealed as UTF-8. */
export function seal(content: string | Buffer, key: SealingKey, context: SealContext): Buffer {
  const nonce = nextNonce();
  const cipher = createCipheriv('aes-256-gcm', key.secret, nonce);
  cipher.setAAD(associated(context));
  const body = typeof content === 'string' ? cipher.update(content, 'utf8') : cipher.update(content);
  // A stream cipher keeps nothing back: its end gives no more bytes.
  cipher.final();
  const envelope = Buffer.allocUnsafe(HEADER + NONCE + body.length + TAG);
  envelope.writeUInt8(FORMAT, 0);
  envelope.writeUInt32BE(key.id, 1);
  envelope.set(nonce, HEADER);
  envelope.set(body, HEADER + NONCE);
  envelope.set(cipher.getAuthTag(), HEADER + NONCE + body.length);
  return envelope;
}

/** The id of the key that an envelope was sealed with. */
export function sealedWith(envelope: Buffer): number {
  if (envelope.length < HEADER + NONCE + TAG || envelope[0] !== FORMAT)
    throw new AbideError('SEALED_UNREADABLE');
  return envelope.readUInt32BE(1);
}

/** Opens an envelope; throws SEALED_UNREADABLE if key, row or column is not the one it was sealed with, or a bit was changed. */
export const open = (envelope: Buffer, key: SealingKey, context: SealContext): string =>
  openBytes(envelope, key, context).toString('utf8');

/** The same for content that is not text. */
export function openBytes(envelope: Buffer, key: SealingKey, context: SealContext): Buffer {
  if (sealedWith(envelope) !== key.id) throw new AbideError('SEALED_UNREADABLE', 'Sealed under another key.');
  const decipher = createDecipheriv('aes-256-gcm', key.secret, envelope.subarray(HEADER, HEADER + NONCE));
  decipher.setAAD(associated(context));
  decipher.setAuthTag(envelope.subarray(-TAG));
  try {
    return Buffer.concat([decipher.update(envelope.subarray(HEADER + NONCE, -TAG)), decipher.final()]);
  } catch (cause) {
    throw new AbideError('SEALED_UNREADABLE', undefined, { cause });
  }
}
