// Checks a receipt of Abide's with nothing of Abide's code (docs/receipts.md). No dependencies:
//
//   node check-receipt.mjs receipt.json keys.json [email ada@example.com]
//
// Exit code 0: it is valid, and about that address if one is given. The address is in Abide's normal form.
import { Buffer } from 'node:buffer';
import { createHmac, createPublicKey, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';

/** What the receipt states. Throws if none of the keys signed exactly this. */
export function check(receipt, keys) {
  const [head, payload, signature] = receipt.split('.');
  const { alg, typ, kid } = JSON.parse(Buffer.from(head, 'base64url').toString());
  if (alg !== 'EdDSA' || typ !== 'abide-receipt+jws') throw new Error('This is not a receipt.');
  const jwk = keys.find((one) => one.kid === kid);
  if (jwk === undefined) throw new Error(`There is no key ${kid}.`);
  const key = createPublicKey({ key: jwk, format: 'jwk' });
  const signed = Buffer.from(`${head}.${payload}`);
  if (key.asymmetricKeyType !== 'ed25519' || !verify(null, signed, key, Buffer.from(signature, 'base64url')))
    throw new Error('The signature does not fit.');
  return JSON.parse(Buffer.from(payload, 'base64url').toString());
}

export function isAbout(statement, salt, kind, address) {
  const digest = createHmac('sha256', Buffer.from(salt, 'base64url'))
    .update(`${kind}\0${address}`)
    .digest('base64url');
  return statement.opt_out.identifiers.some((one) => one.kind === kind && one.digest === digest);
}

if (process.argv[1] === import.meta.filename) {
  const [receiptFile, keysFile, kind, address] = process.argv.slice(2);
  const { receipt, salt } = JSON.parse(readFileSync(receiptFile, 'utf8'));
  const { keys } = JSON.parse(readFileSync(keysFile, 'utf8'));
  const statement = check(receipt, keys);
  console.log(JSON.stringify(statement, null, 2));
  if (kind !== undefined && !isAbout(statement, salt, kind, address)) {
    const isErased = statement.opt_out.identifiers.some((one) => one.kind === kind && one.digest === null);
    console.error(isErased ? 'It cannot be told any more: one was erased.' : 'It is about somebody else.');
    process.exitCode = 1;
  }
}
