// What receipts are signed by: an Ed25519 key (RFC 8032), made from a secret of the key ring.
import { createHash, createPrivateKey, createPublicKey } from 'node:crypto';
import type { SigningKey } from './contract/signing.ts';

/** What a private key begins with in PKCS #8 (RFC 8410, section 7); its 32 bytes follow. */
const PKCS8 = Buffer.from('302e020100300506032b657004220420', 'hex');

export function toSigningKey(secret: Buffer): SigningKey {
  const privateKey = createPrivateKey({ key: Buffer.concat([PKCS8, secret]), format: 'der', type: 'pkcs8' });
  const x = createPublicKey(privateKey).export({ format: 'jwk' }).x!;
  const kid = createHash('sha256')
    .update(JSON.stringify({ crv: 'Ed25519', kty: 'OKP', x }))
    .digest('base64url');
  return { privateKey, publicKey: { kty: 'OKP', crv: 'Ed25519', x, kid, use: 'sig', alg: 'EdDSA' } };
}
