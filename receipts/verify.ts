// Checks a receipt with public keys alone: no Abide need run.
import { createPublicKey } from 'node:crypto';
import type { KeyObject, webcrypto } from 'node:crypto';
import { compactVerify, decodeProtectedHeader, errors } from 'jose';
import { z } from 'zod';
import { AbideError } from '../suppression/errors.ts';
import type { Subject } from '../suppression/subject.ts';
import { digestOf, RECEIPT_TYPE, ReceiptStatement } from './receipt.ts';

const KeySet = z.object({ keys: z.array(z.looseObject({ kid: z.string().optional() })) });

/**
 * What a receipt states, and the `kid` of the key that signed it. `keys` is a JWK Set. Throws RECEIPT_INVALID if none of the keys signed
 * exactly this, or if it is no receipt. Throws another error if the keys are at fault: of the receipt that says nothing.
 */
export async function verifyReceipt(
  receipt: string,
  keys: unknown,
): Promise<{ readonly statement: ReceiptStatement; readonly kid: string }> {
  const set = KeySet.safeParse(keys);
  if (!set.success) throw new KeysError('The public keys are not a set of keys (JWK Set, RFC 7517).');
  try {
    const { kid, typ } = decodeProtectedHeader(receipt);
    const { payload } = await compactVerify(receipt, keyOf(set.data, kid), { algorithms: ['EdDSA'] });
    if (typ !== RECEIPT_TYPE) throw invalid('Its key signed it as something else than a receipt.');
    return { statement: ReceiptStatement.parse(JSON.parse(Buffer.from(payload).toString())), kid: kid! };
  } catch (error) {
    if (error instanceof AbideError || error instanceof KeysError) throw error;
    if (error instanceof errors.JWSSignatureVerificationFailed)
      throw invalid(
        'The signature does not fit: something was changed after it was signed, or somebody else signed it.',
        error,
      );
    throw invalid('It is not a receipt.', error);
  }
}

class KeysError extends Error {}

function keyOf({ keys }: z.infer<typeof KeySet>, kid: string | undefined): KeyObject {
  const jwk = keys.find((one) => one.kid !== undefined && one.kid === kid);
  if (jwk === undefined) throw invalid('None of the public keys is the one that it says it was signed by.');
  try {
    const key = createPublicKey({ key: jwk as webcrypto.JsonWebKey, format: 'jwk' });
    if (key.asymmetricKeyType === 'ed25519') return key;
  } catch {
    // What is wrong with it is of no use to whoever has it.
  }
  throw new KeysError(
    'The public key that the receipt says it was signed by is damaged, or of another kind.',
  );
}

const invalid = (why: string, cause?: unknown): AbideError =>
  new AbideError('RECEIPT_INVALID', why, { cause });

/**
 * Whether one of the identifiers that the receipt is about is this one; undefined if that cannot be told any more, since one of this
 * kind was erased.
 */
export const isAbout = (statement: ReceiptStatement, salt: string, subject: Subject): boolean | undefined => {
  const digest = digestOf(Buffer.from(salt, 'base64url'), subject);
  const ofKind = statement.opt_out.identifiers.filter(({ kind }) => kind === subject.kind);
  if (ofKind.some((one) => one.digest === digest)) return true;
  return ofKind.some((one) => one.digest === null) ? undefined : false;
};
