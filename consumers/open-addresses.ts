// Opens the address that a decision is about: it travels sealed, and the ledger gives out the key.
import type { Decision } from '../suppression/decision.ts';
import { AbideError } from '../suppression/errors.ts';
import { open as unseal } from '../suppression/seal.ts';
import type { LedgerAccess } from './ledger-access.ts';

/** The address, or why it cannot be had. `destroyed`: its transport key is, and the ledger gives out another copy. */
export type OpenedAddress =
  { readonly value: string } | { readonly not: 'ADDRESS_ERASED' | 'SEALED_UNREADABLE' | 'destroyed' };

/** For how long a key that there is not is not asked for again. */
const UNKNOWN_MS = 10_000;

/** Throws while the ledger does not give out a key. */
export function createAddressOpener({
  ledger,
  signal,
}: {
  ledger: Pick<LedgerAccess, 'transportKey'>;
  signal: AbortSignal;
}): (decision: Decision) => Promise<OpenedAddress> {
  const keys = new Map<number, Promise<Buffer | undefined>>();

  /** Undefined: it is destroyed, or not there yet, as whoever writes to a topic may name any. */
  function transportKey(keyId: number): Promise<Buffer | undefined> {
    let key = keys.get(keyId);
    if (key === undefined) {
      key = ledger.transportKey(keyId, signal).catch((error: unknown) => {
        if (!(error instanceof AbideError) || error.code !== 'not-found') {
          keys.delete(keyId);
          throw error;
        }
        setTimeout(() => keys.delete(keyId), UNKNOWN_MS).unref();
        return undefined;
      });
      keys.set(keyId, key);
    }
    return key;
  }

  return async ({ sealed, transportKeyId, subjectId, kind }) => {
    if (sealed === undefined || transportKeyId === undefined) return { not: 'ADDRESS_ERASED' };
    const secret = await transportKey(transportKeyId);
    if (secret === undefined) return { not: 'destroyed' };
    try {
      const key = { id: transportKeyId, secret };
      return { value: unseal(Buffer.from(sealed, 'base64url'), key, [subjectId, kind]) };
    } catch (error) {
      if (!(error instanceof AbideError) || error.code !== 'SEALED_UNREADABLE') throw error;
      return { not: 'SEALED_UNREADABLE' };
    }
  };
}
