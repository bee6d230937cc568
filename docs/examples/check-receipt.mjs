// Checks a receipt of Abide's with nothing of Abide's code (docs/receipts.md). No dependencies:
//
//   node check-receipt.mjs receipt.json keys.json [email ada@example.com]
//
// Exit code 0: it is valid, and about that address if one is given, in Abide's normal form and after its kind: email, phone,
// push_token or person_id. 1: it is not, or nobody can tell. 2: it was called in another way.
import { Buffer } from 'node:buffer';
import { createHmac, createPublicKey, verify } from 'node:crypto';
import { readFileSync } from 'node:fs';

/** What the receipt states. Throws if none of the keys signed exactly this. */
export function check(receipt, keys) {
  const [head, payload, signature, more] = receipt.split('.');
  if (!signature || more !== undefined) throw new Error('This is not a receipt.');
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

/** What does not parse is not quoted: it may be an address. */
function read(file) {
  try {
    return JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    throw new Error(`${file} cannot be read as JSON.`);
  }
}

function run(receiptFile, keysFile, kind, address) {
  const [{ receipt, salt }, { keys }] = [read(receiptFile), read(keysFile)];
  if (!receipt || !keys) throw new Error('Give the file of the receipt, then that of the keys.');
  const statement = check(receipt, keys);
  console.log(JSON.stringify(statement, null, 2));
  if (kind === undefined) return;
  if (!salt) throw new Error('Without its salt nobody can tell whom it is about.');
  if (isAbout(statement, salt, kind, address)) return;
  const isErased = statement.opt_out.identifiers.some((one) => one.kind === kind && one.digest === null);
  throw new Error(isErased ? 'It cannot be told any more: one was erased.' : 'It is about somebody else.');
}

if (process.argv[1] === import.meta.filename) {
  const given = process.argv.slice(2);
  const isAsked = given.length === 4 && ['email', 'phone', 'push_token', 'person_id'].includes(given[2]);
  try {
    if (given.length === 2 || isAsked) run(...given);
    else {
      console.error('Usage: node check-receipt.mjs receipt.json keys.json [email ada@example.com]');
      process.exitCode = 2;
    }
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
