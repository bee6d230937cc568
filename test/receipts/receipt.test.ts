// What a receipt is, held against the standards that it follows and against whoever would forge one.
import { createHmac, generateKeyPairSync } from 'node:crypto';
import { describe, expect, test } from '@jest/globals';
import { CompactSign } from 'jose';
import { toSigningKey } from '../../ledger/signing-key.ts';
import { digestOf, RECEIPT_TYPE, signReceipt } from '../../receipts/receipt.ts';
import type { ReceiptStatement } from '../../receipts/receipt.ts';
import { isAbout, verifyReceipt } from '../../receipts/verify.ts';
import { subject } from '../harness/ledger.ts';

const AT = '2026-11-24T09:00:00.000Z';
const key = toSigningKey(Buffer.alloc(32, 7));
const KEYS = { keys: [key.publicKey] };
const SALT = Buffer.alloc(32, 9).toString('base64url');

const STATEMENT: ReceiptStatement = {
  as_of: AT,
  opt_out: {
    id: '01a21107-b4e9-77fd-a4a6-3364d00e3f37',
    requested_scopes: ['email'],
    in_force: true,
    effective_at: AT,
    received_at: AT,
    recorded_at: AT,
    identifiers: [{ kind: 'email', digest: digestOf(Buffer.alloc(32, 9), subject('ada@example.com')) }],
  },
  propagation: {
    state: 'complete',
    required: 1,
    confirmed: 1,
    verified: 1,
    first_completed_at: AT,
    uncovered: [],
    stores: [
      {
        store: 'crm',
        required: true,
        state: 'verified',
        decisions: [{ identifier: 0, state: 'verified', recorded_at: AT, acknowledged_at: AT }],
      },
    ],
  },
};

/** Signs as we do, but for what a test says. */
const sign = (payload: unknown, header: object = {}): Promise<string> =>
  new CompactSign(Buffer.from(JSON.stringify(payload)))
    .setProtectedHeader({ alg: 'EdDSA', typ: RECEIPT_TYPE, kid: key.publicKey.kid, ...header })
    .sign(key.privateKey);

const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url');

test('a secret of the ring makes the key of RFC 8032 that RFC 8037 has in its appendix, with the same thumbprint', () => {
  const { publicKey } = toSigningKey(Buffer.from('nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A', 'base64url'));
  expect(publicKey).toEqual({
    kty: 'OKP',
    crv: 'Ed25519',
    x: '11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo',
    kid: 'kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k',
    use: 'sig',
    alg: 'EdDSA',
  });
});

test('a receipt says what was signed, whichever of several keys signed it', async () => {
  const other = toSigningKey(Buffer.alloc(32, 8));
  for (const signer of [key, other]) {
    const receipt = await signReceipt(STATEMENT, signer);
    expect(await verifyReceipt(receipt, { keys: [other.publicKey, key.publicKey] })).toEqual({
      statement: STATEMENT,
      kid: signer.publicKey.kid,
    });
  }
});

test('members that a later Abide adds do no harm', async () => {
  const { statement } = await verifyReceipt(await sign({ ...STATEMENT, seal: 1 }), KEYS);
  expect(statement).toEqual(STATEMENT);
});

describe('what proves nothing is refused, and it is said why', () => {
  const refused = async (receipt: string, keys: { keys: object[] } = KEYS): Promise<string> => {
    const error: unknown = await verifyReceipt(receipt, keys).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: 'RECEIPT_INVALID' });
    return (error as Error).message;
  };
  const CHANGED =
    'The signature does not fit: something was changed after it was signed, or somebody else signed it.';
  const NO_RECEIPT = 'It is not a receipt.';

  test('anything in it that was changed', async () => {
    const [head, , signature] = (await signReceipt(STATEMENT, key)).split('.');
    const forged = { ...STATEMENT, opt_out: { ...STATEMENT.opt_out, in_force: false } };
    expect(await refused(`${head}.${encode(forged)}.${signature}`)).toBe(CHANGED);
  });

  test('a key that claims to be another', async () => {
    const thief = toSigningKey(Buffer.alloc(32, 8));
    const signed = await new CompactSign(Buffer.from(JSON.stringify(STATEMENT)))
      .setProtectedHeader({ alg: 'EdDSA', typ: RECEIPT_TYPE, kid: key.publicKey.kid })
      .sign(thief.privateKey);
    expect(await refused(signed)).toBe(CHANGED);
    // Its own key comes with it, where only those may be believed that were there before.
    expect(await refused(await sign(STATEMENT, { jwk: thief.publicKey, kid: thief.publicKey.kid }))).toBe(
      'None of the public keys is the one that it says it was signed by.',
    );
  });

  test('no signature, or one that the public key is enough for', async () => {
    const payload = encode(STATEMENT);
    const none = encode({ alg: 'none', typ: RECEIPT_TYPE, kid: key.publicKey.kid });
    expect(await refused(`${none}.${payload}.`)).toBe(NO_RECEIPT);
    const head = encode({ alg: 'HS256', typ: RECEIPT_TYPE, kid: key.publicKey.kid });
    const mac = createHmac('sha256', Buffer.from(key.publicKey.x, 'base64url'));
    const signature = mac.update(`${head}.${payload}`).digest('base64url');
    expect(await refused(`${head}.${payload}.${signature}`)).toBe(NO_RECEIPT);
  });

  test('what the same key signed as something else', async () => {
    expect(await refused(await sign(STATEMENT, { typ: 'JWT' }))).toBe(
      'Its key signed it as something else than a receipt.',
    );
    expect(await refused(await sign({ as_of: AT }))).toBe(NO_RECEIPT);
  });

  test.each(['', 'nonsense', 'a.b.c', '...', '{}'])('what is none: %j', async (text) => {
    expect(await refused(text)).toBe(NO_RECEIPT);
  });

  test('keys that are none', async () => {
    const receipt = await signReceipt(STATEMENT, key);
    expect(await refused(receipt, { keys: [] })).toBe(
      'None of the public keys is the one that it says it was signed by.',
    );
  });
});

// The receipt may be as good as any: whoever is told that it is not valid accuses somebody.
test('if the keys are at fault, the receipt is not said to be', async () => {
  const receipt = await signReceipt(STATEMENT, key);
  const why = async (keys: unknown): Promise<unknown> =>
    verifyReceipt(receipt, keys).catch((thrown: unknown) => [
      (thrown as { code?: string }).code,
      (thrown as Error).message,
    ]);
  for (const none of [null, [key.publicKey], key.publicKey, {}, { keys: [null] }])
    expect(await why(none)).toEqual([
      undefined,
      'The public keys are not a set of keys (JWK Set, RFC 7517).',
    ]);
  const { n, e } = generateKeyPairSync('rsa', { modulusLength: 1024 }).publicKey.export({ format: 'jwk' });
  for (const damaged of [{ x: 'AAAA' }, { x: undefined }, { kty: 'RSA', n, e }])
    expect(await why({ keys: [{ ...key.publicKey, ...damaged }] })).toEqual([
      undefined,
      'The public key that the receipt says it was signed by is damaged, or of another kind.',
    ]);
});

test('a key that is in the set twice, as when two files of keys were put together, does no harm', async () => {
  const receipt = await signReceipt(STATEMENT, key);
  expect(await verifyReceipt(receipt, { keys: [key.publicKey, key.publicKey] })).toMatchObject({
    statement: STATEMENT,
  });
});

test('with the salt it can be told whom it is about, without it nobody is named', async () => {
  expect(isAbout(STATEMENT, SALT, subject('Ada@Example.com'))).toBe(true);
  expect(isAbout(STATEMENT, SALT, subject('bob@example.com'))).toBe(false);
  expect(isAbout(STATEMENT, SALT, subject('ada@example.com', 'person_id'))).toBe(false);
  expect(isAbout(STATEMENT, Buffer.alloc(32, 1).toString('base64url'), subject('ada@example.com'))).toBe(
    false,
  );
  const receipt = await signReceipt(STATEMENT, key);
  const readable = receipt.split('.').map((part) => Buffer.from(part, 'base64url').toString('latin1'));
  expect(readable.join(' ')).not.toMatch(/ada|example/i);
});
