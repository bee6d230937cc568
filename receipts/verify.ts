// Checks a receipt with public keys alone: no Abide need run.
import { compactVerify, createLocalJWKSet, errors } from 'jose';
import type { CompactVerifyGetKey, CompactVerifyResult, CryptoKey, JSONWebKeySet } from 'jose';
import { AbideError } from '../suppression/errors.ts';
import type { Subject } from '../suppression/subject.ts';
import { digestOf, RECEIPT_TYPE, ReceiptStatement } from './receipt.ts';

/**
 * What a receipt states, and the `kid` of the key that signed it. Throws RECEIPT_INVALID if none of the keys signed exactly this, or if
 * it is no receipt. Throws another error if the keys are at fault: of the receipt that says nothing.
 */
export async function verifyReceipt(
  receipt: string,
  keys: JSONWebKeySet,
): Promise<{ readonly statement: ReceiptStatement; readonly kid: string | undefined }> {
  try {
    const { payload, protectedHeader } = await verifyWithAny(receipt, keys);
    if (protectedHeader.typ !== RECEIPT_TYPE)
      throw invalid('Its key signed it as something else than a receipt.');
    const statement = ReceiptStatement.parse(JSON.parse(Buffer.from(payload).toString()));
    return { statement, kid: protectedHeader.kid };
  } catch (error) {
    if (error instanceof AbideError || error instanceof KeysError) throw error;
    throw invalid(sayWhy(error), error);
  }
}

class KeysError extends Error {}

/** A key may be in the set twice, as when two files of keys were put together. */
async function verifyWithAny(receipt: string, keys: JSONWebKeySet): Promise<CompactVerifyResult> {
  const options = { algorithms: ['EdDSA'] };
  try {
    return await compactVerify(receipt, keyFinder(keys), options);
  } catch (error) {
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error;
    for await (const key of error as AsyncIterable<CryptoKey>) {
      const result = await compactVerify(receipt, key, options).catch(() => undefined);
      if (result !== undefined) return result;
    }
    throw new errors.JWSSignatureVerificationFailed();
  }
}

function keyFinder(keys: JSONWebKeySet): CompactVerifyGetKey {
  const atFault = (words: string) => (cause: unknown) => {
    const isAnswer =
      cause instanceof errors.JWKSNoMatchingKey || cause instanceof errors.JWKSMultipleMatchingKeys;
    throw isAnswer ? cause : new KeysError(words);
  };
  try {
    const find = createLocalJWKSet(keys);
    return (header, token) =>
      find(header, token).catch(
        atFault('The public key that the receipt says it was signed by is damaged, or is no public key.'),
      );
  } catch (error) {
    return atFault('The public keys are not a set of keys (JWK Set, RFC 7517).')(error);
  }
}

const invalid = (why: string, cause?: unknown): AbideError =>
  new AbideError('RECEIPT_INVALID', why, { cause });

function sayWhy(error: unknown): string {
  if (error instanceof errors.JWKSNoMatchingKey)
    return 'None of the public keys is the one that it says it was signed by.';
  if (error instanceof errors.JWSSignatureVerificationFailed)
    return 'The signature does not fit: something was changed after it was signed, or somebody else signed it.';
  return 'It is not a receipt.';
}

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
